"""The text and the figure of an answer; tests/test_solve.py holds the numbers of a feasible one."""

import dataclasses

import numpy as np
import pytest

from alignjax.dual import Asked, answer
from alignjax.report.answer import asked_words, plot, render
from alignjax.report.style import to_svg

RNG = np.random.default_rng(0)
REWARDS = RNG.normal(size=(30, 64))
UTILITIES = RNG.normal(size=(30, 64, 2)) - 0.5 * REWARDS[..., None]
OPEN, CLOSED = 1.5, 0.2  # beta: far enough from log 64 nats, and not
ASKED = [Asked(margin=0.3), Asked(margin=-5.0)]


def test_a_solved_answer_names_what_its_intervals_hold():
    found = answer(REWARDS, UTILITIES, names=["a", "b"], asked=ASKED, beta=OPEN, num_resamples=20)
    text = render(found)
    assert (
        "b: the multiplier is 0, because the reward and the other constraints alone bring what is asked."
        in text
    )
    assert "Asked of a: the mean utility rises by at least 0.3." in text
    assert "Asked of b: the mean utility falls by at most 5." in text
    assert "Forecast: the tilted policy " in text and found.gate is not None and found.gate.open
    assert "low and high: 95% intervals; they hold which prompts were drawn" in text
    assert found.predicted is not None and found.corrected is not None
    margin = found.predicted.margins["a"]
    row = next(line.split() for line in text.splitlines() if line.startswith("a "))
    assert [f"{x:.5g}" for x in (margin.mean, margin.low, margin.high)] == row[5:8]
    corrected = found.corrected.margins["a"]
    shown = f"margin of a {corrected.mean:.5g} [{corrected.low:.5g}, {corrected.high:.5g}]"
    assert "many samples       extrapolated estimate: " + shown in text
    svg = to_svg(plot(found))
    assert all(f"{title}, {name}" in svg for title in ("Dual function", "Predicted margin") for name in "ab")


def test_a_fixed_multiplier_promises_no_margin():
    found = answer(REWARDS, UTILITIES, names=["a", "b"], asked=[], lam=0.5, beta=OPEN, num_resamples=0)
    text = render(found)
    assert "the tilted policy of the given multiplier" in text and "meets" not in text
    assert "solver" not in text and "low and high" not in text
    row = next(line.split() for line in text.splitlines() if line.startswith("a "))
    assert row[1:3] == ["0.5", "-"]


def test_an_infeasible_answer_is_refused():
    found = answer(REWARDS, UTILITIES, names=["a", "b"], asked=[Asked(margin=9.0)] * 2, beta=OPEN)
    for draw in (render, plot):
        with pytest.raises(ValueError, match="infeasible"):
            draw(found)


def test_warnings_end_the_page():
    found = answer(REWARDS, UTILITIES, names=["a", "b"], asked=ASKED, beta=OPEN, num_resamples=0)
    text = render(dataclasses.replace(found, warnings=("one", "two")))
    assert text.endswith("Warning: one\nWarning: two")


def test_behind_a_closed_gate_nothing_meets_anything():
    given = {"names": ["a", "b"], "asked": ASKED, "beta": CLOSED, "num_resamples": 20}
    for conservative in (False, True):
        found = answer(REWARDS, UTILITIES, conservative=conservative, **given)
        text = render(found)
        assert found.gate is not None and not found.gate.open and found.forecast is not None
        assert "meet" not in text.replace("can be met together", "") and "bring what is asked" not in text
        assert "The gate is closed: nothing can be said of the tilted policy." in text
        assert "tilted policy      nothing can be said: the gate is closed" in text
        assert f"draw at least {found.gate.samples:,} responses a prompt" in text
        margin = found.forecast.draw_k.margins["a"]
        assert (
            f"draw-64            margin of a {margin.mean:.5g} [{margin.low:.5g}, {margin.high:.5g}]" in text
        )
        row = next(line.split() for line in text.splitlines() if line.startswith("a "))
        assert f"{margin.mean:.5g}" in row
        assert f"KL                 at most {found.forecast.draw_k.kl.mean:.5g} [" in text


def test_a_guard_says_its_confidence_and_its_cost():
    given = {"names": ["a", "b"], "beta": OPEN, "num_resamples": 0}
    found = answer(REWARDS, UTILITIES, asked=ASKED, conservative=True, **given)
    text = render(found)
    assert found.guard is not None and found.predicted is not None
    assert "the tilted policy meets what is asked with confidence 0.95" in text
    cost = found.guard.plain.reward - found.predicted.reward.mean
    assert cost > 0 and f"the guard costs {cost:.4g} of reward" in text
    assert f"lambda of a {found.guard.plain.lam['a']:.5g}" in text


def test_without_a_guard_a_forecast_below_what_is_asked_is_said_to_miss():
    """Solved on the plain estimates; with the bias taken off the margin of -0.1 is below -0.1."""
    given = {"names": ["a", "b"], "beta": OPEN, "num_resamples": 0}
    found = answer(REWARDS, UTILITIES, asked=[Asked(margin=-0.1), Asked(margin=-5.0)], **given)
    assert found.predicted is not None
    missed = found.predicted.margins["a"].mean < -0.1 - 1e-6
    text = render(found)
    assert ("is expected to miss what is asked of a (margins: a " in text) == missed
    assert ("meets what is asked on average, without a guard" in text) != missed


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(margin=0.5), "the mean utility rises by at least 0.5"),
        (Asked(margin=0.0), "the mean utility does not fall"),
        (Asked(margin=-0.5), "the mean utility falls by at most 0.5"),
        (Asked(margin=0.1, level=2.0), "the mean utility is at least 2"),
        (Asked(margin=0.1, rate=0.95), "at least 0.95 of the responses are safe"),
        (
            Asked(margin=0.2, fraction=0.4),
            "the mean utility rises by at least 0.2, 0.4 of what the safety-only tilt brings",
        ),
        (Asked(), "nothing is asked"),
    ],
)
def test_what_is_asked_in_words(asked, words):
    assert asked_words(asked) == words
