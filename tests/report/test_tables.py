import dataclasses
import math

import pytest

from alignjax.records.evaluation import Evaluation, Headline
from alignjax.records.figure import Figure
from alignjax.report import tables


def with_policy(evaluation, name, **changes):
    policy = dataclasses.replace(evaluation.policies[name], **changes)
    return dataclasses.replace(evaluation, policies={**evaluation.policies, name: policy})


def test_rows_are_in_reading_order_and_named_for_people(inputs):
    evaluation = inputs(("safety", "honesty")).evaluation
    evaluation = dataclasses.replace(evaluation, policies=dict(reversed(evaluation.policies.items())))
    rows = tables.rows(evaluation, tables.columns(evaluation))
    assert [row.label for row in rows] == [
        "reference",
        "helpful-only",
        "safe-only",
        "honesty-only",
        "aligned",
    ]
    assert [row.name for row in rows] == ["reference", "reward", "safety", "honesty", "aligned"]
    aligned, column = evaluation.policies["aligned"], tables.columns(evaluation)[0]
    assert rows[-1].cells[0] == tables.format_estimate(aligned.reward, column.decimals)


def test_optional_columns_are_there_only_where_known(inputs):
    learned = [column.header for column in tables.columns(inputs(truth=False).evaluation)]
    assert learned == ["reward", "safety", "safety margin", "KL", "tokens", "refusals"]
    evaluation = with_policy(inputs().evaluation, "aligned", kl_from_optimum=Figure(0.0123, 0.0123, 0.0123))
    known = [column.header for column in tables.columns(evaluation)]
    assert known == [*learned[:4], "true reward", "true safety margin", "KL from optimum", *learned[4:]]
    assert any("KL from optimum: KL(pi_lam*" in note for note in tables.notes(tables.columns(evaluation)))
    row = tables.rows(evaluation, tables.columns(evaluation))[0]
    assert row.cells[known.index("KL from optimum")] == "-"


def test_statistics_of_texts_have_columns_where_they_say_something(inputs):
    evaluation = with_policy(inputs().evaluation, "aligned", cut=Figure(0.25, 0.2, 0.3))
    shown = tables.columns(evaluation)
    headers = [column.header for column in shown]
    assert "cut" in headers and "empty" not in headers  # a column of zeros says nothing
    cells = dict(zip(headers, tables.rows(evaluation, shown)[-1].cells, strict=True))
    assert cells["tokens"] == "21.40 [20.80, 22.00]" and cells["refusals"] == "0.123 [0.103, 0.143]"
    assert cells["cut"] == "0.250 [0.200, 0.300]"
    assert any("have no end" in note for note in tables.notes(shown))


def test_an_empty_evaluation_has_an_empty_table():
    empty = Evaluation({}, {}, {}, {}, {}, 1, 0.0, {}, Headline("do not ship", "Nothing was trained."))
    shown = tables.columns(empty)
    assert [column.header for column in shown] == ["reward", "KL"] and tables.rows(empty, shown) == []


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Figure(1.05, 0.93, 1.17), "1.05 [0.93, 1.17]"),
        (Figure(1.0, 1.0, 1.0), "1.00"),
        (Figure(-0.001, -0.5, 0.5), "0.00 [-0.50, 0.50]"),
        (Figure(math.nan, math.nan, math.nan), "-"),
        (None, "-"),
    ],
)
def test_estimates(estimate, text):
    assert tables.format_estimate(estimate) == text


def test_a_wide_grid_is_cut_into_blocks_that_fit():
    grid = [["policy", "a" * 10, "b" * 10, "c" * 10], ["x", "1", "2", "3"]]
    blocks = list(tables.blocks(grid, 30))  # 6 + 2 + 10 + 2 + 10 = 30
    assert blocks == [
        [["policy", "a" * 10, "b" * 10], ["x", "1", "2"]],
        [["policy", "c" * 10], ["x", "3"]],
    ]
    assert [len(block[0]) for block in tables.blocks(grid, 29)] == [2, 2, 2]
    assert [len(block[0]) for block in tables.blocks(grid, 5)] == [2, 2, 2]  # a column is never cut
    assert tables.layout(blocks[1]) == ["policy  cccccccccc", "-" * 18, "x                3"]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (-0.001, 2, "0.00"),
        (-0.006, 2, "-0.01"),
        (1234.5678, 1, "1234.6"),
        (None, 2, "-"),
        (float("inf"), 2, "-"),
    ],
)
def test_numbers(value, decimals, text):
    assert tables.format_number(value, decimals) == text


@pytest.mark.parametrize(
    ("difference", "people"), [(0.0, 50), (1.0, 73), (-1.0, 27), (2.0, 88), (800.0, 100), (-800.0, 0)]
)
def test_a_difference_is_told_in_people(difference, people):
    # 1 / (1 + exp(-2)) = 1 / 1.13534 = 0.881
    assert tables.in_people(difference) == f"{people} of 100 people prefer it"


def test_scores_that_were_not_fitted_to_labels_are_in_no_ones_logits():
    assert "people" not in tables.unit_note(calibrated=False)


def test_every_policy_is_explained(inputs):
    evaluation = inputs(truth=False).evaluation
    more = {**evaluation.policies, "lambda=2": evaluation.policies["aligned"]}
    notes = tables.policy_notes(dataclasses.replace(evaluation, policies=more))
    assert [note.split(":")[0] for note in notes] == [
        "reference", "helpful-only", "safe-only", "aligned", "lambda=..",
    ]  # fmt: skip
    assert not any("lambda" in note for note in tables.policy_notes(evaluation))
