"""From scores of responses drawn under attack to curves of what is left of every margin."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from alignjax.evaluation import testing
from alignjax.evaluation.audit import Resampling, result_of
from alignjax.evaluation.means import Basis, Scored, uncertain_means
from alignjax.records.answer import DualAnswer
from alignjax.records.erosion import Erosion, ErosionCurve, ErosionPoint
from alignjax.records.evaluation import PolicyResult
from alignjax.records.figure import Figure


class Attacked(NamedTuple):
    """Responses of the policy at one strength of an attack.

    Attributes:
      strength: on the attack's own scale.
      text: that was put before the prompt or at the start of the response.
      scored: their scores; `kl` is not read.
    """

    strength: float
    text: str
    scored: Scored


class Tried(NamedTuple):
    """One attack.

    Attributes:
      start: the strength at which nothing is changed.
      points: the strengths that were tried.
    """

    start: float
    points: Sequence[Attacked]


def crossing(strengths: Sequence[float], values: Sequence[float], start: float, level: float) -> float | None:
    """The strength nearest to the start at which a curve of straight lines is at a level or below it.

    Args:
      strengths: ascending; holds `start`.
      values: at the strengths.
      start: where nothing is changed.
      level: to fall to.

    Returns:
      The strength, in either direction from the start; None: the curve stays above the level.
    """
    first, found = list(strengths).index(start), []
    if values[first] <= level:
        return start
    for step in (-1, 1):
        i = first
        while 0 <= i + step < len(strengths) and values[i + step] > level:
            i += step
        if 0 <= i + step < len(strengths):
            x0, x1, y0, y1 = strengths[i], strengths[i + step], values[i], values[i + step]
            found.append(x0 + (x1 - x0) * (y0 - level) / (y0 - y1))
    return min(found, key=lambda x: abs(x - start)) if found else None


def erosion(
    reference: Scored,
    plain: Scored,
    tried: Mapping[str, Tried],
    basis: Basis,
    answer: DualAnswer,
    key: jax.Array,
    weights: np.ndarray,
    *,
    left_out: Mapping[str, str],
    remarks: Sequence[str],
) -> Erosion:
    """What every attack leaves of the margins, against the reference as it was evaluated.

    Args:
      reference: scores of its own responses, to T prompts.
      plain: of the policy's responses without an attack, to the same prompts.
      tried: by attack.
      basis: of the prompts, see `means.on_these_prompts`.
      answer: of the dual, which says what was asked.
      key: of the draws of the calibration, the same for all points.
      weights: [R, T] resamples of the prompts.
      left_out: attacks that were not tried, and why.
      remarks: what to know before the numbers are believed.
    """
    policies = {"reference": reference, "plain": plain} | {
        f"{attack} {i}": point.scored for attack, one in tried.items() for i, point in enumerate(one.points)
    }
    by = Resampling(weights, uncertain_means(policies, basis, key, len(weights)))

    def point(name: str, strength: float, text: str) -> ErosionPoint:
        return _point(result_of(name, policies, basis, answer.names, by), strength, text)

    curves = []
    for attack, one in tried.items():
        points = [point(f"{attack} {i}", *found[:2]) for i, found in enumerate(one.points)]
        points = sorted([*points, point("plain", one.start, "")], key=lambda found: found.strength)
        curves.append(_curve(attack, one.start, points, answer))
    return Erosion(
        asked={name: testing.target(answer.asked[name]) for name in answer.names},
        kinds={name: _kind(answer, name) for name in answer.names},
        prompts=len(plain.kl),
        samples=min((found.scored.raw.shape[1] for one in tried.values() for found in one.points), default=0),
        curves=tuple(curves),
        left_out=left_out,
        remarks=tuple(remarks),
    )


def told(record: Erosion) -> list[str]:
    """The record in lines for the console: a line for every attack and constraint.

    Args:
      record: of the audit.
    """
    lines = []
    for curve in record.curves:
        for name in record.asked:
            values = "; ".join(f"{p.margins[name].mean:.2f} at {p.strength:g}" for p in curve.points)
            lines.append(f"{curve.attack}: {name} margin {values}; {outcome(record, curve, name)}")
    return lines


def outcome(record: Erosion, curve: ErosionCurve, name: str) -> str:
    """Where one constraint's margin is gone, no longer shown, or below what was asked, in words.

    Args:
      record: of the audit.
      curve: one of its curves.
      name: of the constraint.
    """
    asked = record.asked[name]
    places = {"gone": curve.gone[name], "not told apart from 0": curve.unshown[name]}
    if asked is not None:
        places |= {f"below the {record.kinds[name]} asked, {asked:.3g},": curve.below[name]}
    return "; ".join(
        f"{what} {'at no strength' if at is None else f'at {at:.3g}'}" for what, at in places.items()
    )


def _kind(answer: DualAnswer, name: str) -> str:
    asked = answer.asked[name]
    if asked.level is not None:
        return "level"
    return "rate" if asked.rate is not None else "margin"


def _point(result: PolicyResult, strength: float, text: str) -> ErosionPoint:
    return ErosionPoint(
        strength=strength,
        text=text,
        margins=result.margins,
        utilities=result.utilities,
        reward_gain=result.reward_gain,
        length=result.length,
        refusals=result.refusals,
        true_margins=result.true_margins,
    )


def _curve(attack: str, start: float, points: Sequence[ErosionPoint], answer: DualAnswer) -> ErosionCurve:
    strengths = [point.strength for point in points]
    gone, unshown, below = (dict[str, float | None]() for _ in range(3))
    for name in answer.names:
        margins = [point.margins[name] for point in points]
        gone[name] = crossing(strengths, _means(margins), start, 0.0)
        unshown[name] = crossing(strengths, [margin.low for margin in margins], start, 0.0)
        asked, own = testing.target(answer.asked[name]), testing.is_level(answer.asked[name])
        values = [point.utilities[name] for point in points] if own else margins
        below[name] = None if asked is None else crossing(strengths, _means(values), start, asked)
    return ErosionCurve(attack, start, tuple(points), gone, unshown, below)


def _means(figures: Sequence[Figure]) -> list[float]:
    return [figure.mean for figure in figures]
