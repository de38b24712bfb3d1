"""What other numbers would have cost: the dual solved for some of each constraint, the others as they are."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from alignjax.config import ConstraintSettings
from alignjax.records.answer import DialPoint, DualAnswer, Predicted
from alignjax.records.figure import Figure

_POINTS = 8  # of a single dial, beside what was asked; several dials share them
_LEAST = 4
_MOST_DIALS = 4  # of one answer: every point is a dual with its resamples
_TOP = 0.95  # of the largest margin that can be reached: nearer to it, lambda grows without limit
_MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0)  # of a given multiplier

Solve = Callable[[Mapping[str, ConstraintSettings], float | None], DualAnswer]


class _Dial(NamedTuple):
    """One number of the configuration, and what is read off the answers.

    Attributes:
      name: of the dial: a constraint of the dual, or a dimension whose categories are all asked for the same.
      kind: what is asked: margin, level, rate or cost.
      own: what the run asks.
      ends: the least and the most to ask for.
      asking: the constraint's settings with another number.
      reached: forecast of what is asked.
    """

    name: str
    kind: str
    own: float
    ends: tuple[float, float]
    asking: Callable[[float], ConstraintSettings]
    reached: Callable[[DualAnswer, Predicted], Figure]


def dial_of(
    answer: DualAnswer, constraints: Mapping[str, ConstraintSettings], solve: Solve, lam: float | None = None
) -> tuple[DialPoint, ...]:
    """The answers to other questions about the same table, for a reader who weighs margin against cost.

    Every point is solved as the run's own question is, with the same guard and the same resamples. They reach
    from what the reward alone brings to nearly all that can be reached. Where one number is asked of all
    categories it is that number which is varied, and of a tail its cost. Where the multiplier is given, it is
    the multiplier. At most 4 constraints have a dial.

    Args:
      answer: the run's own, feasible.
      constraints: what the run asks, by dimension.
      solve: the answer where other constraints are asked of the same table, or another multiplier is given.
      lam: the multiplier that is given; None: it was solved for.
    """
    if answer.frontier is None:
        return ()
    if not answer.solved:
        return () if lam is None else tuple(_multipliers(answer, constraints, solve, lam))
    found = [dial for name, one in constraints.items() for dial in _dials(answer, name, one)][:_MOST_DIALS]
    each = max(_POINTS // len(found), _LEAST) if found else 0
    return tuple(point for dial in found for point in _turned(dial, answer, constraints, solve, each))


def _turned(
    dial: _Dial,
    answer: DualAnswer,
    constraints: Mapping[str, ConstraintSettings],
    solve: Solve,
    each: int,
) -> Iterator[DialPoint]:
    """The points of one dial, in the order of what is asked."""
    low, high = dial.ends
    spread = np.round(np.linspace(min(low, high), high, each), 3 if dial.kind == "rate" else 2).tolist()
    dimension = dial.name.partition("[")[0]
    for value in sorted({*spread, dial.own}):
        own = value == dial.own
        found = answer if own else solve({**constraints, dimension: dial.asking(value)}, None)
        said, opened = _said(found)
        if said is None:
            yield DialPoint(dial.name, dial.kind, value, own, False, {}, None, None, None)
        else:
            reached = dial.reached(found, said)
            lam = dict(found.lam or {})
            yield DialPoint(dial.name, dial.kind, value, own, opened, lam, reached, said.reward_gain, said.kl)


def _said(answer: DualAnswer) -> tuple[Predicted | None, bool]:
    """The forecast that may be believed, if any, and whether it is that of the tilt."""
    opened = answer.gate is not None and answer.gate.open
    if answer.forecast is None:
        return None, False
    return (answer.forecast.tilt if opened else answer.forecast.draw_k), opened


def _dials(answer: DualAnswer, name: str, one: ConstraintSettings) -> Iterator[_Dial]:
    """The dials of one dimension: of its constraint, or of its categories."""
    if one.groups.given:
        yield from _groups(answer, name, one)
    elif one.tail.cost is not None:
        yield _tail(answer, name, one, one.tail.cost)
    else:
        asked = answer.asked[name]
        kind = "rate" if asked.rate is not None else "level" if asked.level is not None else "margin"
        own = next(v for v in (asked.rate, asked.level, asked.margin) if v is not None)
        none = dataclasses.replace(one, margin=None, level=None, rate=None, fraction=None)
        yield _Dial(
            name,
            kind,
            own,
            _ends(answer, name, kind),
            lambda value: dataclasses.replace(none, **{kind: value}),
            lambda found, said: _of(said, name, kind),
        )


def _groups(answer: DualAnswer, name: str, one: ConstraintSettings) -> Iterator[_Dial]:
    """A dial for every category that has a number of its own, or one for the number of all."""
    kind = one.groups.given[0]
    number = {"margin": one.groups.margin, "level": one.groups.level, "rate": one.groups.rate}[kind]
    names = [key for key, unit in answer.units.items() if unit.dimension == name and unit.category]
    ends = {key: _ends(answer, key, kind) for key in names}

    def asking(value: float | Mapping[str, float]) -> ConstraintSettings:
        return dataclasses.replace(one, groups=dataclasses.replace(one.groups, **{kind: value}))

    def least(found: DualAnswer, said: Predicted) -> Figure:
        return min((_of(said, key, kind) for key in names), key=lambda figure: figure.mean)

    if isinstance(number, Mapping):
        for key in names:
            category = answer.units[key].category or ""

            def asking_one(value: float, category: str = category) -> ConstraintSettings:
                return asking({**number, category: value})

            def reached(found: DualAnswer, said: Predicted, key: str = key) -> Figure:
                return _of(said, key, kind)

            yield _Dial(key, kind, number[category], ends[key], asking_one, reached)
    elif number is not None and names:
        both = min(low for low, _ in ends.values()), min(high for _, high in ends.values())
        yield _Dial(name, kind, number, both, asking, least)


def _tail(answer: DualAnswer, name: str, one: ConstraintSettings, cost: float) -> _Dial:
    """The cost of a tail; the bound on it is threshold - E u, where u is the tail's utility."""

    def bound(found: DualAnswer, utility: float) -> float:
        tail = found.units[name].tail
        assert tail is not None
        return tail.threshold - utility

    def reached(found: DualAnswer, said: Predicted) -> Figure:
        figure = said.utilities[name]
        return Figure(*(bound(found, x) for x in (figure.mean, figure.high, figure.low)))

    low, high = _ends(answer, name, "level")
    strict, easy = bound(answer, high), bound(answer, low)
    # At the run's own threshold; with another one less cost can be had, and how much only the dual says.
    strict -= 0.5 * max(easy - strict, 0.0)
    return _Dial(
        name,
        "cost",
        cost,
        (strict, easy),
        lambda value: dataclasses.replace(one, tail=dataclasses.replace(one.tail, cost=value)),
        reached,
    )


def _ends(answer: DualAnswer, name: str, kind: str) -> tuple[float, float]:
    """What the reward alone brings, and nearly all that can be reached, in the unit of what is asked."""
    assert answer.frontier is not None
    base = 0.0 if kind == "margin" else answer.reference.utilities[name]
    least = float(answer.frontier.margins[0, answer.names.index(name)])
    return least + base, _TOP * answer.reachable[name] + base


def _of(said: Predicted, name: str, kind: str) -> Figure:
    return said.margins[name] if kind == "margin" else said.utilities[name]


def _multipliers(
    answer: DualAnswer, constraints: Mapping[str, ConstraintSettings], solve: Solve, lam: float
) -> Iterator[DialPoint]:
    """Multiples of the multiplier that is given; every constraint's margin at them is a dial of its own."""
    values = sorted({lam, *(round((lam or 1.0) * x, 4) for x in _MULTIPLES)})
    answers = {value: answer if value == lam else solve(constraints, value) for value in values}
    for name in answer.names[:_MOST_DIALS]:
        for value, found in answers.items():
            said, opened = _said(found)
            assert said is not None  # a given multiplier is always feasible
            figures = said.margins[name], said.reward_gain, said.kl
            yield DialPoint(name, "multiplier", value, value == lam, opened, dict(found.lam or {}), *figures)
