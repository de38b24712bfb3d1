import copy
from typing import Any

import pytest

from alignjax.report import tables

ONE = {"mean": 1.0, "low": 0.9, "high": 1.1}


def minimal(achieved: Any, *, asked: float | None = 1.0, truth: Any = None):
    aligned = {"reward": ONE, "margins": {"safety": achieved}}
    if truth is not None:
        aligned["true_margins"] = {"safety": truth}
    return {
        "asked": {"safety": asked},
        "predicted": {"margins": {"safety": ONE}},
        "policies": {"aligned": aligned},
    }


def test_every_number_of_the_evaluation_is_in_the_table(inputs):
    evaluation = inputs(("safety", "honesty")).evaluation
    text = tables.console_table(evaluation)
    for policy in evaluation["policies"].values():
        for estimate in (policy["reward"], *policy["margins"].values(), *policy["true_margins"].values()):
            mean, low, high = estimate["mean"], estimate["low"], estimate["high"]
            shown = f"{mean + 0.0:.2f}" if low == high else f"{mean:.2f} [{low:.2f}, {high:.2f}]"
            assert shown in text
    for name, asked in evaluation["asked"].items():
        assert f"{name}: asked {asked:.2f}, predicted {asked:.2f} [{asked - 0.1:.2f}" in text


def test_rows_are_in_reading_order_and_named_for_people(inputs):
    evaluation = inputs(("safety", "honesty")).evaluation
    evaluation = {**evaluation, "policies": dict(reversed(evaluation["policies"].items()))}
    rows = tables.rows(evaluation, tables.columns(evaluation))
    assert [row.label for row in rows] == [
        "reference",
        "helpful-only",
        "safe-only",
        "honesty-only",
        "aligned",
    ]
    assert [row.name for row in rows] == ["reference", "reward", "safety", "honesty", "aligned"]


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
        ({"mean": 1.2, "low": 1.05, "high": 1.3}, "kept"),
        ({"mean": 0.95, "low": 0.85, "high": 1.05}, "kept within its interval"),
        ({"mean": 0.5, "low": 0.4, "high": 0.6}, "missed"),
        ({"mean": 0.998, "low": 0.998, "high": 0.998}, "kept"),  # an exact sum, 1.00 at two decimals
        ({"mean": 0.97, "low": 0.97, "high": 0.97}, "missed"),
        ({"mean": 1.2, "low": None, "high": None}, "kept"),
        ({"mean": None, "low": None, "high": None}, "not measured"),
        ({"mean": float("nan"), "low": None, "high": None}, "not measured"),
        (None, "not measured"),
        (0.5, "missed"),
    ],
)
def test_outcomes(achieved, outcome):
    assert tables.verdicts(minimal(achieved))[0].outcome == outcome


def test_the_truth_is_the_judge_where_it_is_known():
    low = {"mean": 0.4, "low": 0.3, "high": 0.5}
    verdict = tables.verdicts(minimal(ONE, truth=low))[0]
    assert verdict.outcome == "missed" and verdict.judged == low
    assert verdict.sentence.endswith(
        "achieved 1.00 [0.90, 1.10], on the true score 0.40 [0.30, 0.50]: missed by 0.60"
    )


def test_nothing_asked():
    verdict = tables.verdicts(minimal(ONE, asked=None))[0]
    assert verdict.outcome == "not asked" and verdict.sentence.startswith("safety: asked -,")


def test_none_is_a_dash_everywhere(inputs):
    evaluation = copy.deepcopy(inputs().evaluation)
    for policy in evaluation["policies"].values():
        policy.update(reward=None, kl={"mean": None, "low": None, "high": None}, utilities=None)
    evaluation["predicted"] = None
    text = tables.console_table(evaluation)
    assert "None" not in text and "predicted -, achieved" in text
    rows = tables.rows(evaluation, tables.columns(evaluation))
    assert all(row.cells[0] == "-" and row.cells[1] == "-" for row in rows)


def test_optional_columns_are_there_only_where_known(inputs):
    learned = [column.header for column in tables.columns(inputs(truth=False).evaluation)]
    assert learned == ["reward", "safety", "safety margin", "KL", "tokens", "refusals"]
    evaluation = copy.deepcopy(inputs().evaluation)
    evaluation["policies"]["aligned"]["kl_from_optimum"] = {"mean": 0.0123, "low": 0.0123, "high": 0.0123}
    known = [column.header for column in tables.columns(evaluation)]
    assert known == [*learned[:4], "true reward", "true safety margin", "KL from optimum", *learned[4:]]
    assert "0.0123" in tables.console_table(evaluation)


def test_what_responses_look_like_is_on_the_page_and_not_in_the_consoles_last_table(inputs):
    evaluation = copy.deepcopy(inputs().evaluation)
    assert "tokens" not in tables.console_table(evaluation) and "21.4" not in tables.console_table(evaluation)
    evaluation["policies"]["aligned"]["cut"] = {"mean": 0.25, "low": 0.2, "high": 0.3}
    shown = tables.columns(evaluation)
    headers = [column.header for column in shown]
    assert "cut" in headers and "empty" not in headers  # a column of zeros says nothing
    cells = dict(zip(headers, tables.rows(evaluation, shown)[-1].cells, strict=True))
    assert cells["tokens"] == "21.40 [20.80, 22.00]" and cells["refusals"] == "0.123 [0.103, 0.143]"
    assert cells["cut"] == "0.250 [0.200, 0.300]"
    assert any("have no end" in note for note in tables.notes(shown, "logits"))


def test_an_empty_evaluation_has_an_empty_table():
    assert tables.verdicts({}) == [] and tables.rows({}, tables.columns({})) == []
    assert tables.console_table({}).startswith("policy  reward  KL\n")


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
