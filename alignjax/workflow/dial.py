"""What other margins would have cost: the dual solved for some of each constraint, the others as they are."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from alignjax.config import ConstraintSettings
from alignjax.records.answer import DialPoint, DualAnswer

_POINTS = 8  # of a single constraint, beside what was asked; several constraints share them
_LEAST = 4
_TOP = 0.95  # of the largest margin that can be reached: nearer to it, lambda grows without limit


def dial_of(
    answer: DualAnswer,
    constraints: Mapping[str, ConstraintSettings],
    solve: Callable[[Mapping[str, ConstraintSettings]], DualAnswer],
) -> tuple[DialPoint, ...]:
    """The answers to other questions about the same table, for a reader who weighs margin against cost.

    Every point is solved as the run's own question is, with the same guard and the same resamples. They reach
    from what the reward alone brings to nearly all that can be reached. A constraint that is about a category
    of the prompts or about a tail has none.

    Args:
      answer: the run's own, feasible.
      constraints: what the run asks, by dimension.
      solve: the answer where other constraints are asked of the same table.
    """
    points = list[DialPoint]()
    if answer.frontier is None or not answer.solved:
        return ()
    each = max(_POINTS // len(answer.names), _LEAST)
    for j, name in enumerate(answer.names):
        unit = answer.units.get(name)
        if name not in constraints or (unit is not None and (unit.category or unit.tail)):
            continue
        asked, base = answer.asked[name], answer.reference.utilities[name]
        kind = "rate" if asked.rate is not None else "level" if asked.level is not None else "margin"
        least, most = float(answer.frontier.margins[0, j]), _TOP * answer.reachable[name]
        margins = sorted({*np.linspace(min(least, most), most, each).tolist(), asked.margin or 0.0})
        for margin in margins:
            value = margin if kind == "margin" else margin + base
            own = margin == asked.margin
            value = float(np.round(value, 3 if kind == "rate" else 2))
            if own:
                value = next(v for v in (asked.rate, asked.level, margin) if v is not None)
            found = answer
            if not own:
                found = solve({**constraints, name: _asking(constraints[name], kind, value)})
            points.append(_point(found, name, kind, value, own))
    return tuple(points)


def _asking(one: ConstraintSettings, kind: str, value: float) -> ConstraintSettings:
    """The same constraint with another question."""
    none = dataclasses.replace(one, margin=None, level=None, rate=None, fraction=None)
    if kind == "margin":
        return dataclasses.replace(none, margin=value)
    return dataclasses.replace(none, rate=value) if kind == "rate" else dataclasses.replace(none, level=value)


def _point(answer: DualAnswer, name: str, kind: str, value: float, own: bool) -> DialPoint:
    opened = answer.gate is not None and answer.gate.open
    if answer.forecast is None:
        return DialPoint(name, kind, value, own, False, {}, None, None, None)
    said = answer.forecast.tilt if opened else answer.forecast.draw_k
    reached = said.margins[name] if kind == "margin" else said.utilities[name]
    return DialPoint(
        name, kind, value, own, opened, dict(answer.lam or {}), reached, said.reward_gain, said.kl
    )
