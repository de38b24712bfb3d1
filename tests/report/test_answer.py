"""The text and the figure of an answer; tests/test_solve.py holds the numbers of a feasible one."""

import dataclasses

import numpy as np
import pytest

from alignjax.dual import Asked, answer
from alignjax.report.answer import plot, render
from alignjax.report.style import to_svg

RNG = np.random.default_rng(0)
REWARDS = RNG.normal(size=(12, 16))
UTILITIES = RNG.normal(size=(12, 16, 2)) - 0.5 * REWARDS[..., None]
ASKED = [Asked(margin=0.3), Asked(margin=-5.0)]


def test_a_solved_answer_names_what_its_intervals_hold():
    found = answer(REWARDS, UTILITIES, names=["a", "b"], asked=ASKED, beta=0.5, num_resamples=20)
    text = render(found)
    assert (
        "b: the multiplier is 0, because the reward and the other constraints alone bring its margin." in text
    )
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
    found = answer(REWARDS, UTILITIES, names=["a", "b"], asked=[], lam=0.5, beta=0.5, num_resamples=0)
    text = render(found)
    assert "The tilted policy of the given multiplier" in text and "meets every margin" not in text
    assert "solver" not in text and "low and high" not in text
    row = next(line.split() for line in text.splitlines() if line.startswith("a "))
    assert row[1:3] == ["0.5", "-"]


def test_an_infeasible_answer_is_refused():
    found = answer(REWARDS, UTILITIES, names=["a", "b"], asked=[Asked(margin=9.0)] * 2, beta=0.5)
    for draw in (render, plot):
        with pytest.raises(ValueError, match="infeasible"):
            draw(found)


def test_warnings_end_the_page():
    found = answer(REWARDS, UTILITIES, names=["a", "b"], asked=ASKED, beta=0.5, num_resamples=0)
    text = render(dataclasses.replace(found, warnings=("one", "two")))
    assert text.endswith("Warning: one\nWarning: two")
