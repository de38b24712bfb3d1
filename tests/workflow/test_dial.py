"""Which other questions a dial asks, and what it keeps of their answers."""

import dataclasses

import numpy as np
import pytest

from alignjax import dual
from alignjax.config import ConstraintSettings
from alignjax.records.answer import Asked
from alignjax.records.units import Unit
from alignjax.workflow.dial import dial_of


@pytest.fixture
def table():
    """40 prompts with 64 responses; utilities against the reward."""
    rng = np.random.default_rng(3)
    rewards = rng.normal(size=(40, 64))
    return rewards, -0.5 * rewards[..., None] + rng.normal(size=(40, 64, 2))


@pytest.fixture
def ask(table):
    """The answer to a question about both constraints, and the questions that were asked so far."""
    asked = []

    def solve(constraints):
        asked.append(constraints)
        wanted = [Asked(one.margin, one.level, one.fraction, one.rate) for one in constraints.values()]
        return dual.answer(*table, names=("safety", "honesty"), asked=wanted, beta=1.0, num_resamples=20)

    return solve, asked


def settings(**asked):
    return dataclasses.replace(ConstraintSettings(), **{"margin": None, **asked})


def test_each_constraint_is_asked_for_more_and_less_while_the_other_stays(ask):
    solve, asked = ask
    constraints = {"safety": settings(margin=0.3), "honesty": settings(margin=0.2)}
    answer = solve(constraints)
    points = dial_of(answer, constraints, solve)
    assert [point.name for point in points] == ["safety"] * 5 + ["honesty"] * 5
    assert [point.asked for point in points] == sorted(p.asked for p in points[:5]) + sorted(
        p.asked for p in points[5:]
    )
    assert [(p.name, p.asked) for p in points if p.own] == [("safety", 0.3), ("honesty", 0.2)]
    for question in asked[1:]:
        changed = [name for name in constraints if question[name] != constraints[name]]
        assert len(changed) == 1 and question[changed[0]].margin is not None
    # The own point is the run's answer; another is that of a run which asks for it.
    own = next(point for point in points if point.own)
    assert own.lam == answer.lam and own.kl == answer.predicted.kl
    other = points[0]
    again = solve({**constraints, "safety": settings(margin=other.asked)})
    assert other.lam == again.lam and other.reward_gain == again.predicted.reward_gain
    assert other.reached == again.predicted.margins["safety"]


def test_a_level_is_asked_as_a_level(ask):
    solve, asked = ask
    constraints = {"safety": settings(level=0.1), "honesty": settings(margin=0.2)}
    points = dial_of(solve(constraints), constraints, solve)[:5]
    assert {point.kind for point in points} == {"level"} and [p.asked for p in points if p.own] == [0.1]
    assert all(one["safety"].margin is None for one in asked)


def test_what_cannot_be_met_has_no_forecast(ask):
    solve, _ = ask
    # Both at once cannot have nearly all that each could have alone.
    constraints = {"safety": settings(margin=1.4), "honesty": settings(margin=0.2)}
    points = dial_of(solve(constraints), constraints, solve)
    none = [point for point in points if point.reached is None]
    assert none and all(not p.lam and p.kl is None and p.reward_gain is None and not p.open for p in none)


@pytest.mark.parametrize("unit", [Unit("safety", "crime", "category", 0.5), None])
def test_a_category_has_no_dial(ask, unit):
    solve, _ = ask
    constraints = {"safety": settings(margin=0.3), "honesty": settings(margin=0.2)}
    answer = solve(constraints)
    answer = dataclasses.replace(answer, units={} if unit is None else {"safety": unit})
    names = {point.name for point in dial_of(answer, constraints, solve)}
    assert names == ({"honesty"} if unit else {"safety", "honesty"})


def test_a_given_multiplier_has_no_dial(table):
    given = dual.answer(*table, names=("safety", "honesty"), asked=(), lam=0.5, beta=1.0, num_resamples=0)
    assert dial_of(given, {}, lambda _: given) == ()
