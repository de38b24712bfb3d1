"""The dial: rows of other questions, the flags that ask them, and the sketch."""

import ast
import dataclasses
import shlex

import pytest

from alignjax.records.answer import Asked, DialPoint
from alignjax.records.units import Tail, Unit
from alignjax.report.dial import dials, flags
from alignjax.report.html import render


@pytest.fixture
def point(figure_of):
    """Makes a point of a margin of safety; None as the gain: it cannot be met."""

    def make(asked, gain, **changes):
        if gain is None:
            return DialPoint("safety", "margin", asked, False, False, {}, None, None, None)
        figures = figure_of(asked + 0.2), figure_of(gain), figure_of(1.0)
        one = DialPoint("safety", "margin", asked, False, True, {"safety": 0.5}, *figures)
        return dataclasses.replace(one, **changes)

    return make


@pytest.fixture
def answer(inputs, point):
    """An answer whose dial has four points: 0, 1 as asked, 2 behind a closed gate, 3 that cannot be met."""
    points = (
        point(0.0, 0.5),
        point(1.0, 0.25, own=True),
        point(2.0, -0.5, open=False),
        point(3.0, None),
    )
    return dataclasses.replace(inputs().answer, dial=points)


def test_a_row_for_every_question_with_its_price_and_its_flag(answer):
    (dial,) = dials(answer)
    assert (dial.name, dial.kind, dial.own) == ("safety", "margin", 1)
    assert dial.grid.head == [
        "margin asked", "\u03bb", "margin forecast", "reward gain", "KL, nats", "forecast",
        "add to the command",
    ]  # fmt: skip
    assert dial.grid.cells == [
        [
            "0.00", "0.500", "0.20 [0.10, 0.30]", "0.50 [0.40, 0.60]", "1.00 [0.90, 1.10]", "open",
            "--config.constraints.safety.margin=0",
        ],
        [
            "1.00", "0.500", "1.20 [1.10, 1.30]", "0.25 [0.15, 0.35]", "1.00 [0.90, 1.10]", "open",
            "--config.constraints.safety.margin=1",
        ],
        [
            "2.00", "0.500", "2.20 [2.10, 2.30]", "-0.50 [-0.60, -0.40]", "1.00 [0.90, 1.10]",
            "closed: draw-K", "--config.constraints.safety.margin=2",
        ],
        ["3.00", "-", "-", "-", "-", "cannot be met", "-"],
    ]  # fmt: skip
    assert any("says nothing" in note or "say nothing" in note for note in dial.grid.notes)


def test_the_sketch_by_hand(answer):
    (dial,) = dials(answer)
    # Asked 0 to 3 lie at 4 to 96 percent, gains -0.5 to 0.5 at 8 to 92; a gain of 0.25 at 8 + 84 * 0.75.
    assert dial.sketch == [(4.0, 92.0), (34.67, 71.0), (65.33, 8.0), None] and dial.zero == 50.0


@pytest.mark.parametrize(
    ("kind", "value", "asked", "text"),
    [
        ("margin", 1.25, Asked(margin=1.0), "--config.constraints.safety.margin=1.25"),
        ("rate", 0.951, Asked(margin=0.1, rate=0.9), "--config.constraints.safety.rate=0.951"),
        ("level", -0.5, Asked(margin=0.1, level=0.0), "--config.constraints.safety.level=-0.5"),
        (
            "margin",
            1.0,
            Asked(margin=1.0, fraction=0.5),
            "--config.constraints.safety.fraction=None --config.constraints.safety.margin=1",
        ),
    ],
)
def test_the_flag_asks_for_the_same_kind(inputs, kind, value, asked, text):
    answer = dataclasses.replace(inputs().answer, asked={"safety": asked})
    assert flags("safety", kind, value, answer) == text


@pytest.fixture
def by_category(inputs):
    """An answer about two categories of safety."""

    def make(first, second):
        names = (f"safety[{first}]", f"safety[{second}]")
        given = inputs(names).answer
        units = {
            name: Unit("safety", category, "category", 0.5)
            for name, category in zip(names, (first, second), strict=True)
        }
        return dataclasses.replace(given, units=units, asked={name: Asked(margin=0.5) for name in names})

    return make


def test_flags_of_categories_tails_and_multipliers(by_category):
    setting = "--config.constraints.safety.groups.margin"
    plain = by_category("drugs", "theft")
    assert flags("safety[drugs]", "margin", 0.25, plain) == f"{setting}.drugs=0.25"
    assert flags("safety", "margin", 0.25, plain) == f"{setting}=0.25"
    assert flags("safety", "cost", 1.5, plain) == "--config.constraints.safety.tail.cost=1.5"
    assert flags("safety", "multiplier", 0.75, plain) == "--config.lam=0.75"


def test_a_category_that_a_shell_would_run_is_quoted(by_category):
    text = flags("safety[$(rm -r x); 'y']", "margin", 0.25, by_category("$(rm -r x); 'y'", "b c"))
    (word,) = shlex.split(text)
    name, _, value = word.partition("=")
    assert name == "--config.constraints.safety.groups.margin"
    assert ast.literal_eval(value) == {"$(rm -r x); 'y'": 0.25, "b c": 0.5}


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("cost", ["cost asked", "\u03bb", "cost forecast"]),
        ("multiplier", ["\u03bb", "safety margin forecast", "reward gain"]),
    ],
)
def test_a_tail_and_a_multiplier_have_words_of_their_own(inputs, point, kind, head):
    points = (point(0.0, 0.5, kind=kind), point(1.0, 0.25, kind=kind, own=True))
    units = {"safety": Unit("safety", tail=Tail(0.1, 1.0, 0.2))}
    (dial,) = dials(dataclasses.replace(inputs().answer, dial=points, units=units))
    assert dial.grid.head[:3] == head and all(len(row) == len(dial.grid.head) for row in dial.grid.cells)
    said = " ".join(dial.grid.notes)
    assert ("worst 0.1 of the responses" in said) == (kind == "cost")
    assert ("at another multiplier" in said) == (kind == "multiplier")


def test_one_number_for_all_categories_is_a_dial_of_the_dimension(by_category, point):
    answer = by_category("drugs", "theft")
    lam = {name: 0.5 for name in answer.names}
    points = (point(0.0, 0.5, lam=lam), point(1.0, 0.25, own=True, lam=lam))
    (dial,) = dials(dataclasses.replace(answer, dial=points))
    assert dial.label == "margin asked of each category of safety"
    assert dial.grid.head[3] == "least margin forecast" and "category with the least" in dial.grid.notes[0]
    assert not any("other constraints" in note for note in dial.grid.notes)
    assert dial.grid.cells[0][-1] == "--config.constraints.safety.groups.margin=0"


def test_constraints_without_a_dial_are_named(inputs, point):
    answer = dataclasses.replace(
        inputs(("safety", "honesty")).answer,
        dial=tuple(point(x, 0.5, lam={"safety": x, "honesty": 0.1}) for x in (0.0, 1.0)),
    )
    (dial,) = dials(answer)
    assert "The other constraints are asked as in this run." in dial.grid.notes
    assert dial.grid.notes[-1] == "Without a dial, to keep this short: honesty."


def test_without_two_points_that_can_be_met_there_is_no_dial(answer, point):
    assert dials(dataclasses.replace(answer, dial=None)) == []
    assert dials(dataclasses.replace(answer, dial=(point(0.0, 0.5), point(1.0, None)))) == []


def test_the_page_has_it_as_a_table_whether_or_not_its_script_runs(inputs, answer):
    given = dataclasses.replace(inputs(truth=False), answer=answer, samples=())
    page = render(given, [])
    assert page.count("<script") == 1 and 'id="dial-safety" class="dial" data-own="1"' in page
    assert "<td>--config.constraints.safety.margin=2</td>" in page and "-0.50 <small>[-0.60, -0.40]" in page
    assert '<a href="#dial-safety">Dial of safety</a>' in page and 'download="dial-safety.csv"' in page
    assert '<div class="dial-panel" hidden data-script>' in page  # a panel that cannot move is not shown
