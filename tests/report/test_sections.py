"""The page's tables as rows of text."""

import dataclasses

import pytest

from alignjax.records.answer import Corrected, Ends, Forecast, Gate, Intervals, SolverState
from alignjax.report import StageTime, cards, sections


def test_strip_places_estimates_on_one_scale(inputs):
    given = inputs()
    card = cards.cards_of(given.evaluation, given.answer)[0]
    strip = sections.strip(card)
    assert strip is not None and strip.asked is not None
    assert [bar[0] for bar in strip.bars] == ["forecast", "delivered", "true"]
    assert all(0 <= strip.zero < low <= mean <= high <= 100 for _, low, mean, high in strip.bars)
    # Places are linear: the asked margin lies in the middle of its own forecast, 0.1 to each side.
    _, low, mean, high = strip.bars[0]
    assert mean == strip.asked and mean - low == pytest.approx(high - mean, abs=0.02)
    closed = sections.strip(card._replace(gate_open=False))
    assert closed is not None and [bar[0] for bar in closed.bars] == ["delivered", "true"]


def test_strip_by_hand(figure_of):
    # From 0 to 10 with a pad of 0.8 on both sides: x lies at (x + 0.8) / 11.6.
    card = cards.Card("a", "margin", 4.0, None, True, figure_of(8.0, 2.0), None, None)
    strip = sections.strip(card)
    assert strip is not None and (strip.zero, strip.asked) == (6.9, 41.38)
    assert strip.bars == (("delivered", 58.62, 75.86, 93.1),)
    free = sections.strip(card._replace(asked=None))
    assert free is not None and free.asked is None and free.bars == strip.bars


def test_strip_of_nothing_measured(figure_of):
    card = cards.Card("safety", "margin", 1.0, None, True, None, None, None)
    assert sections.strip(card) is None
    assert sections.strip(card._replace(forecast=figure_of(1.0), gate_open=False)) is None
    assert sections.strip(card._replace(delivered=figure_of(float("nan")))) is None


@pytest.mark.parametrize(
    ("lam", "interval", "text"),
    [
        (0.62, Ends(0.5, 0.75), "0.620 [0.500, 0.750]"),
        (0.62, Ends(0.5, None), "0.620 [0.500, infinite]"),
        (0.62, None, "0.620"),
        (None, None, "-"),
    ],
)
def test_a_multiplier_is_shown_with_its_interval(inputs, lam, interval, text):
    answer = dataclasses.replace(
        inputs().answer,
        lam=None if lam is None else {"safety": lam},
        intervals=None if interval is None else Intervals({"safety": interval}, 1.0),
    )
    assert sections.lam_text(answer, "safety") == text


def test_rows_of_the_dual(inputs, figure_of, guard_of):
    given = inputs().answer
    draw_k = dataclasses.replace(given.predicted, margins={"safety": figure_of(0.31)})
    answer = dataclasses.replace(
        given,
        corrected=Corrected(
            {"safety": figure_of(0.7)}, {"safety": figure_of(0.4)}, figure_of(0.9), figure_of(1.2)
        ),
        forecast=Forecast(draw_k, given.predicted),
        gate=Gate(open=True, share=0.02),
        guard=guard_of(given.predicted, cost=0.125),
        solver=SolverState(12, None, 1.0),
    )
    opened = [
        ("lambda*, safety", "0.620 [0.527, 0.744]"),
        ("largest reachable margin, safety", "2.43"),
        ("predicted reward", "0.95 [0.85, 1.05]"),
        ("predicted KL, nats", "1.28 [1.23, 1.33]"),
        ("effective samples per prompt, median", "14.2 of 64"),
        ("forecast of the tilt", "open"),
        ("forecast margin of draw-K, safety", "0.31 [0.21, 0.41]"),
        ("lambda*, safety, corrected for finite samples", "0.700 [0.600, 0.800]"),
        ("room above what is asked of safety, confidence 0.95", "0.051"),
        ("reward that this costs", "0.125"),
        ("solver", "12 iterations, error not finite"),
    ]
    assert sections.dual_rows(answer) == opened
    shut = sections.dual_rows(dataclasses.replace(answer, gate=Gate(open=False, share=0.4)))
    of_the_tilt = {opened[i] for i in (2, 3, 7, 9)}
    expected = [row for row in opened if row not in of_the_tilt]
    expected[3] = ("forecast of the tilt", "closed")
    assert shut == expected


def test_rows_of_a_dual_without_guard_and_gate(inputs):
    rows = dict(sections.dual_rows(inputs().answer))
    assert rows["solver"] == "7 iterations, error 3.2e-10" and "forecast of the tilt" not in rows
    assert not any("room" in key or "draw-K" in key for key in rows)


def test_stages_have_their_share_of_the_longest():
    times = [StageTime("data", 1.5, None), StageTime("policy", 60.0, 2048.4), StageTime("dual", None, 10)]
    assert sections.stages(times) == [
        ("data", "1.5 s", "-", 2.5),
        ("policy", "1 min 00 s", "2,048", 100.0),
        ("dual", "-", "10", 0.0),
    ]
    assert sections.facts({"seed": 3}, {"devices": ["tpu:v5e"] * 4}, times) == [
        ("seed", "3"),
        ("time", "1 min 02 s"),
        ("peak memory", "2,048 MiB"),
        ("devices", "4 x tpu:v5e"),
    ]


DURATIONS = {0.42: "0.4 s", 59.96: "1 min 00 s", 151: "2 min 31 s", 3599.6: "1 h 00 min", 7380: "2 h 03 min"}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_durations(seconds, text):
    assert sections.duration(seconds) == text


def test_accuracy_stands_beside_the_slope_where_it_is_known(inputs):
    grid = sections.slopes(inputs().calibration, {"reward": 0.7431})
    assert grid is not None and grid.head == ["score", "slope", "accuracy", "pairs"]
    assert grid.cells == [
        ["reward", "0.83 [0.74, 0.92]", "0.743", "2,000"],
        ["safety", "0.73 [0.64, 0.82]", "-", "2,000"],
    ]
    none = dataclasses.replace(inputs().calibration, slopes={}, kind="none")
    assert sections.slopes(none, {}) is sections.matrix(none) is None


def test_counts_have_a_column_for_all_that_some_set_has():
    grid = sections.counts({"a": {"read": 1318, "both_orders": 2}, "b": {"read": 5, "cut": 1}})
    assert grid is not None and grid.head == ["data", "read", "both orders", "cut"]
    assert grid.cells == [["a", "1,318", "2", "-"], ["b", "5", "-", "1"]]
    assert sections.counts({}) is None
