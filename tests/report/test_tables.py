import dataclasses
import math

import pytest

from alignjax.records.evaluation import Evaluation
from alignjax.records.figure import Figure
from alignjax.report import tables

ONE = Figure(1.0, 0.9, 1.1)


@pytest.fixture
def judged(inputs):
    """Makes an evaluation whose aligned policy has some margin of safety, and a true one where a world is."""

    def make(achieved, *, asked=1.0, truth=None):
        given = inputs(truth=False).evaluation
        aligned = dataclasses.replace(
            given.policies["aligned"],
            margins={"safety": achieved},
            true_margins=None if truth is None else {"safety": truth},
        )
        return Evaluation({"safety": asked}, {"margins": {"safety": ONE}}, {"aligned": aligned}, {})

    return make


def with_policy(evaluation, name, **changes):
    policy = dataclasses.replace(evaluation.policies[name], **changes)
    return dataclasses.replace(evaluation, policies={**evaluation.policies, name: policy})


def test_every_number_of_the_evaluation_is_in_the_table(inputs):
    evaluation = inputs(("safety", "honesty")).evaluation
    text = tables.console_table(evaluation)
    for policy in evaluation.policies.values():
        for estimate in (policy.reward, *policy.margins.values(), *policy.true_margins.values()):
            mean, low, high = estimate.mean, estimate.low, estimate.high
            shown = f"{mean + 0.0:.2f}" if low == high else f"{mean:.2f} [{low:.2f}, {high:.2f}]"
            assert shown in text
    for name, asked in evaluation.asked.items():
        assert f"{name}: asked {asked:.2f}, predicted {asked:.2f} [{asked - 0.1:.2f}" in text


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


@pytest.mark.parametrize("width", [60, 80, 120])
def test_columns_line_up_and_the_width_is_kept(inputs, width):
    evaluation = inputs(("safety", "honesty", "privacy")).evaluation
    text = tables.console_table(evaluation, width=width)
    block = text.split("\n\n")[0].splitlines()
    assert max(len(line) for line in block) <= width
    assert len({len(line) for line in block}) == 1  # right-aligned cells end in one column


@pytest.mark.parametrize(
    ("achieved", "outcome"),
    [
        (Figure(1.2, 1.05, 1.3), "kept"),
        (Figure(0.95, 0.85, 1.05), "kept within its interval"),
        (Figure(0.5, 0.4, 0.6), "missed"),
        (Figure(0.998, 0.998, 0.998), "kept"),  # an exact sum, 1.00 at two decimals
        (Figure(0.97, 0.97, 0.97), "missed"),
        (Figure(math.nan, math.nan, math.nan), "not measured"),
    ],
)
def test_outcomes(judged, achieved, outcome):
    assert tables.verdicts(judged(achieved))[0].outcome == outcome


def test_without_an_aligned_policy_nothing_is_measured(judged):
    evaluation = dataclasses.replace(judged(ONE), policies={})
    verdict = tables.verdicts(evaluation)[0]
    assert verdict.outcome == "not measured" and verdict.achieved is None
    assert verdict.sentence == "safety: asked 1.00, predicted 1.00 [0.90, 1.10], achieved -: not measured"


def test_the_truth_is_the_judge_where_it_is_known(judged):
    low = Figure(0.4, 0.3, 0.5)
    verdict = tables.verdicts(judged(ONE, truth=low))[0]
    assert verdict.outcome == "missed" and verdict.judged == low
    assert verdict.sentence.endswith(
        "achieved 1.00 [0.90, 1.10], on the true score 0.40 [0.30, 0.50]: missed by 0.60"
    )


def test_nothing_asked(judged):
    verdict = tables.verdicts(judged(ONE, asked=None))[0]
    assert verdict.outcome == "not asked" and verdict.sentence.startswith("safety: asked -,")


def test_what_was_not_predicted_is_a_dash(judged):
    evaluation = dataclasses.replace(judged(ONE), predicted={})
    text = tables.console_table(evaluation)
    assert "None" not in text and "predicted -, achieved 1.00" in text


def test_optional_columns_are_there_only_where_known(inputs):
    learned = [column.header for column in tables.columns(inputs(truth=False).evaluation)]
    assert learned == ["reward", "safety", "safety margin", "KL", "tokens", "refusals"]
    evaluation = with_policy(inputs().evaluation, "aligned", kl_from_optimum=Figure(0.0123, 0.0123, 0.0123))
    known = [column.header for column in tables.columns(evaluation)]
    assert known == [*learned[:4], "true reward", "true safety margin", "KL from optimum", *learned[4:]]
    text = tables.console_table(evaluation)
    assert "0.0123" in text and "KL from optimum: KL(pi_lam* || policy)" in text
    row = tables.rows(evaluation, tables.columns(evaluation))[0]
    assert row.cells[known.index("KL from optimum")] == "-"


def test_statistics_of_texts_are_on_the_page_and_not_in_the_consoles_last_table(inputs):
    evaluation = with_policy(inputs().evaluation, "aligned", cut=Figure(0.25, 0.2, 0.3))
    assert "tokens" not in tables.console_table(evaluation) and "21.4" not in tables.console_table(evaluation)
    shown = tables.columns(evaluation)
    headers = [column.header for column in shown]
    assert "cut" in headers and "empty" not in headers  # a column of zeros says nothing
    cells = dict(zip(headers, tables.rows(evaluation, shown)[-1].cells, strict=True))
    assert cells["tokens"] == "21.40 [20.80, 22.00]" and cells["refusals"] == "0.123 [0.103, 0.143]"
    assert cells["cut"] == "0.250 [0.200, 0.300]"
    assert any("have no end" in note for note in tables.notes(shown, "logits"))


def test_an_empty_evaluation_has_an_empty_table():
    empty = Evaluation({}, {}, {}, {})
    assert tables.verdicts(empty) == [] and tables.rows(empty, tables.columns(empty)) == []
    assert tables.console_table(empty).startswith("policy  reward  KL\n")


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
