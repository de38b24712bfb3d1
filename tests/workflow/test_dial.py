"""Which other questions a dial asks, and what it keeps of their answers."""

import dataclasses

import numpy as np
import pytest

from alignjax import dual
from alignjax.config import ConstraintSettings, GroupSettings
from alignjax.config.asking import TailSettings
from alignjax.records.answer import Asked
from alignjax.scores import units as in_units
from alignjax.workflow.dial import dial_of
from alignjax.workflow.units import resolved


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

    def solve(constraints, lam=None):
        asked.append(constraints)
        wanted = [Asked(one.margin, one.level, one.fraction, one.rate) for one in constraints.values()]
        names = ("safety", "honesty")
        return dual.answer(*table, names=names, asked=wanted, lam=lam, beta=1.0, num_resamples=20)

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


@pytest.fixture
def resolving(table):
    """What a run does: the constraints are resolved on the table's scores, then the dual is solved."""
    rewards, utilities = table
    scores = np.concatenate([rewards[..., None], utilities[..., :1]], axis=-1)
    categories = {"category": ["drugs" if i % 2 else "theft" for i in range(40)]}
    asked = []

    def solve(constraints, lam=None):
        asked.append(constraints["safety"])
        names = ("reward", "safety")
        units, wanted, _ = resolved(constraints, names, scores, categories, {}, beta=1.0)
        made = in_units.utilities(units, scores, names, categories)
        given = {"asked": list(wanted.values()), "lam": lam, "units": units}
        return dual.answer(rewards, made, names=tuple(units), **given, beta=1.0, num_resamples=20)

    return solve, asked


def test_each_category_with_a_number_of_its_own_has_a_dial(resolving):
    solve, asked = resolving
    constraints = {"safety": settings(groups=GroupSettings(margin={"drugs": 0.2, "theft": 0.4}))}
    answer = solve(constraints)
    points = dial_of(answer, constraints, solve)
    assert list(dict.fromkeys(point.name for point in points)) == ["safety[drugs]", "safety[theft]"]
    assert [(p.name, p.asked) for p in points if p.own] == [("safety[drugs]", 0.2), ("safety[theft]", 0.4)]
    for one in asked[1:]:  # one category is asked for something else at a time
        assert (one.groups.margin["drugs"] == 0.2) != (one.groups.margin["theft"] == 0.4)
    point = next(p for p in points if not p.own and p.name == "safety[drugs]")
    again = solve({"safety": settings(groups=GroupSettings(margin={"drugs": point.asked, "theft": 0.4}))})
    assert point.reached == again.forecast.draw_k.margins["safety[drugs]"] or point.open
    assert point.lam == again.lam


def test_one_number_for_all_categories_is_one_dial_of_the_least(resolving):
    solve, asked = resolving
    constraints = {"safety": settings(groups=GroupSettings(margin=0.2))}
    answer = solve(constraints)
    points = dial_of(answer, constraints, solve)
    assert {point.name for point in points} == {"safety"} and [p.asked for p in points if p.own] == [0.2]
    assert sorted(one.groups.margin for one in asked[1:]) == [p.asked for p in points if not p.own]
    own = next(point for point in points if point.own)
    said = answer.forecast.tilt if own.open else answer.forecast.draw_k
    assert own.reached is not None and own.reached.mean == min(
        figure.mean for figure in said.margins.values()
    )


def test_a_tail_is_asked_for_another_cost(resolving):
    solve, asked = resolving
    constraints = {"safety": settings(tail=TailSettings(share=0.2, cost=1.2))}
    points = dial_of(solve(constraints), constraints, solve)
    assert {point.kind for point in points} == {"cost"} and [p.asked for p in points if p.own] == [1.2]
    assert all(one.tail.share == 0.2 for one in asked)
    met = [(point, point.reached) for point in points if point.reached is not None]
    assert len(met) >= 3
    # Less cost asks for more: the multiplier falls as the permitted cost rises, and the bound is kept.
    lams = [point.lam["safety"] for point, _ in met]
    assert lams == sorted(lams, reverse=True) and lams[0] > lams[-1]
    for point, reached in met:
        assert reached.low <= reached.mean <= reached.high
        assert not point.open or reached.mean <= point.asked + 0.05


def test_a_given_multiplier_is_varied_itself(table):
    constraints = {"safety": settings(), "honesty": settings()}

    def solve(_, lam):
        names = ("safety", "honesty")
        return dual.answer(*table, names=names, asked=(), lam=lam, beta=1.0, num_resamples=0)

    points = dial_of(solve(None, 0.4), constraints, solve, 0.4)
    assert [point.name for point in points] == ["safety"] * 9 + ["honesty"] * 9
    assert [p.asked for p in points[:9]] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.2]
    assert {p.kind for p in points} == {"multiplier"} and [p.own for p in points[:9]].index(True) == 4
    other = solve(None, 0.6)
    assert points[6].lam == other.lam == {"safety": 0.6, "honesty": 0.6}
    assert other.forecast is not None
    assert points[6].kl == (other.forecast.tilt if points[6].open else other.forecast.draw_k).kl
    # More weight on both utilities: both margins rise.
    reached = [point.reached.mean for point in points[9:] if point.reached is not None]
    assert len(reached) == 9 and reached == sorted(reached)
