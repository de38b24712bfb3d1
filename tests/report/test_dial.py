"""The dial: rows of other questions, the flags that ask them, and the sketch."""

import dataclasses

import pytest

from alignjax.records.answer import Asked, DialPoint
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
def test_the_flag_asks_for_the_same_kind(kind, value, asked, text):
    assert flags("safety", kind, value, asked) == text


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
