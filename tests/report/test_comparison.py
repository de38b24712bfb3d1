import dataclasses
import re

import pytest

from alignjax.records.answer import Asked, Gate
from alignjax.records.figure import Figure
from alignjax.report import EarlierAnswer, comparison, write_comparison


@pytest.fixture
def answer(inputs):
    """Makes an answer for some margin of safety, with numbers that are told apart at a glance."""

    def make(name, margin, *, level=None, fraction=None, rate=None, gate=None):
        given = inputs(truth=False)
        predicted = dataclasses.replace(
            given.answer.predicted,
            margins={"safety": Figure(margin, margin - 0.1, margin + 0.1)},
            reward=Figure(5.0, 4.0, 6.0),
            kl=Figure(0.5, 0.4, 0.6),
        )
        aligned = dataclasses.replace(
            given.evaluation.policies["aligned"],
            margins={"safety": Figure(margin - 0.01, margin - 0.2, margin + 0.2)},
            reward=Figure(4.5, 3.5, 5.5),
            kl=Figure(0.7, 0.65, 0.75),
        )
        asked = {"safety": Asked(margin, level, fraction, rate)}
        return EarlierAnswer(
            name,
            dataclasses.replace(given.answer, asked=asked, predicted=predicted, gate=gate),
            dataclasses.replace(given.evaluation, policies={**given.evaluation.policies, "aligned": aligned}),
        )

    return make


def test_every_answer_has_a_row_in_the_order_given(answer):
    grid = comparison.grid([answer("latest", 1.5), answer("safety-margin-1", 1.0)])
    assert grid is not None
    assert grid.head == [
        "answer",
        "safety margin asked",
        "\u03bb of safety",
        "safety margin predicted",
        "safety margin achieved",
        "reward predicted",
        "reward achieved",
        "KL predicted",
        "KL achieved",
    ]
    means = ["5.00 [4.00, 6.00]", "4.50 [3.50, 5.50]", "0.50 [0.40, 0.60]", "0.70 [0.65, 0.75]"]
    lam = "0.620 [0.527, 0.744]"
    assert grid.rows == [
        ("latest", "", ["1.50", lam, "1.50 [1.40, 1.60]", "1.49 [1.30, 1.70]", *means]),
        ("safety-margin-1", "", ["1.00", lam, "1.00 [0.90, 1.10]", "0.99 [0.80, 1.20]", *means]),
    ]


def test_one_answer_is_not_compared(answer):
    assert comparison.grid([answer("latest", 1.5)]) is None and comparison.grid([]) is None


def test_what_was_asked_is_shown_in_its_own_words(answer):
    given = [answer("a", 1.0, level=0.25), answer("b", 1.0, fraction=0.4), answer("c", 1.0)]
    multiplier = dataclasses.replace(given[2].answer, asked={"safety": Asked()})
    given[2] = given[2]._replace(answer=multiplier)
    given.append(answer("d", 1.0, rate=0.95))
    grid = comparison.grid(given)
    assert grid is not None
    assert [row[2][0] for row in grid.rows] == [
        "1.00 (level 0.25)",
        "1.00 (40% of the safety-only tilt's)",
        "-",
        "1.00 (rate 0.95)",
    ]


def test_forecasts_behind_a_closed_gate_are_not_compared(answer):
    closed = Gate(open=False, share=0.5, reasons=("r",))
    grid = comparison.grid([answer("latest", 1.5, gate=closed), answer("b", 1.0, gate=Gate(True, 0.0))])
    assert grid is not None
    assert [i for i, cell in enumerate(grid.rows[0][2]) if cell == "closed"] == [2, 4, 6]
    assert grid.rows[0][2][3] == "1.49 [1.30, 1.70]" and "closed" not in grid.rows[1][2]


def test_answers_of_other_constraints_have_columns_of_their_own(answer, inputs):
    two = inputs(("safety", "honesty"), truth=False)
    grid = comparison.grid([EarlierAnswer("latest", two.answer, two.evaluation), answer("before", 1.0)])
    assert grid is not None and len(grid.head) == 13
    assert grid.head[5:9] == [
        "honesty margin asked",
        "\u03bb of honesty",
        "honesty margin predicted",
        "honesty margin achieved",
    ]
    assert grid.rows[1][2][4:8] == ["-"] * 4 and "-" not in grid.rows[0][2]


def test_an_answer_without_its_policy_has_no_achieved_figures(answer):
    one = answer("before", 1.0)
    without = dataclasses.replace(one.evaluation, policies={})
    grid = comparison.grid([answer("latest", 1.5), one._replace(evaluation=without)])
    assert grid is not None
    assert [i for i, cell in enumerate(grid.rows[1][2]) if cell == "-"] == [3, 5, 7]


def test_the_page_is_one_file_that_loads_nothing_and_escapes_names(answer, hostile, tmp_path):
    path = tmp_path / "answers" / "index.html"
    assert write_comparison([answer(hostile, 1.5), answer("safety-margin-1", 1.0)], path) == path
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page and not re.findall(r"https?://|@import|<img|<link", page)
    assert page.count("<tr") == 3 and "1.49 <small>[1.30, 1.70]</small>" in page
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_a_page_of_one_answer_is_refused(answer, tmp_path):
    with pytest.raises(ValueError, match="1 answers were given; at least 2"):
        write_comparison([answer("latest", 1.5)], tmp_path / "index.html")
    assert not list(tmp_path.iterdir())
