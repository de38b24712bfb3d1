"""Turns what is asked of scores into the constraints of the dual."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.config import ConstraintSettings, GroupSettings
from alignjax.errors import InputError
from alignjax.records.answer import Asked
from alignjax.records.units import Rate, Tail, Unit
from alignjax.scores.units import Categories, belongs, utilities

FEWEST_PROMPTS = 5  # of a category that has a constraint of its own; the mean of fewer says little
OTHER = "other"  # the categories with fewer, together
_THRESHOLDS = 50  # of a tail, among which the one with the best dual is taken

# Utilities [N, K, m] and what is asked of them -> value of the dual at its solution, -inf where infeasible.
Value = Callable[[np.ndarray, Sequence[Asked]], float]


class Resolved(NamedTuple):
    """The constraints of the dual, by name and in order.

    Attributes:
      units: what each is made of.
      asked: what is asked of it.
      findings: what is to be known about the categories, in sentences.
    """

    units: dict[str, Unit]
    asked: dict[str, Asked]
    findings: tuple[str, ...]


def resolve(
    constraints: Mapping[str, ConstraintSettings],
    dimensions: Sequence[str],
    scores: np.ndarray,
    *,
    categories: Categories,
    rates: Mapping[str, Rate | None],
    value: Value | None = None,
    mask: np.ndarray | None = None,
    prompt_weights: np.ndarray | None = None,
) -> Resolved:
    """What each constraint of the dual is made of, and what is asked of it.

    A constraint by groups becomes one for each category, `safety[violence]`. One number for all asks it of
    every category found; those with fewer than 5 prompts are asked together, as `safety[other]`. Numbers by
    category ask for those categories alone, and nothing of other prompts.

    Args:
      constraints: what is asked, by dimension.
      dimensions: of the scores, the reward first.
      scores: [N, K, 1 + m0] float, calibrated.
      categories: by column, of the N prompts.
      rates: by dimension, the probability that a response with a given score is safe; None: the score is that
        probability itself. A dimension that is missing has no labels of single responses.
      value: of the dual; needed where a tail is asked. The threshold of a tail is the one with the largest
        value among 50 quantiles of the costs that lie at or below what is asked.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt; None: equal.

    Returns:
      The constraints.

    Raises:
      InputError: a rate without labels, a column or a category that the prompts do not have.
    """
    units, asked, findings = dict[str, Unit](), dict[str, Asked](), list[str]()
    for name, one in constraints.items():
        if one.groups.given:
            found = _groups(name, one.groups, categories, rates, len(scores), prompt_weights)
            units |= found.units
            asked |= found.asked
            findings += found.findings
        elif one.tail.share is not None and one.tail.cost is not None:
            units[name] = Unit(name, tail=Tail(one.tail.share, one.tail.cost, one.tail.cost))
            asked[name] = Asked(level=0.0)
        elif one.rate is not None:
            units[name] = Unit(name, rate=_rate(name, rates))
            asked[name] = Asked(rate=one.rate)
        else:
            units[name] = Unit(name)
            asked[name] = Asked(one.margin, one.level, one.fraction)
    if any(unit.tail is not None for unit in units.values()):
        if value is None:
            raise ValueError("scores.asked: a tail is asked for; give `value`, which solves the dual.")
        _choose_thresholds(units, asked, dimensions, scores, categories, value, mask, prompt_weights)
    return Resolved(units, asked, tuple(findings))


def _rate(name: str, rates: Mapping[str, Rate | None]) -> Rate | None:
    if name not in rates:
        raise InputError(
            f"constraints.{name}.rate: needs labels of single responses, is_response_0_safe and "
            f"is_response_1_safe in the pairs of {name!r}, and there are none; add them, or ask for a margin "
            "or a level."
        )
    rate = rates[name]
    if rate is not None and rate.slope <= 0:
        raise InputError(
            f"constraints.{name}.rate: the labels of single responses do not rise with the score (slope "
            f"{rate.slope:.3g}), so that it cannot say which are safe; check the labels, or ask for a margin."
        )
    return rate


class _Wanted(NamedTuple):
    """What is asked of each category, and for which it stands where it is the rest of them."""

    numbers: dict[str, float]
    counts: dict[str, int]
    other_than: tuple[str, ...] | None
    findings: list[str]


def _groups(
    name: str,
    groups: GroupSettings,
    categories: Categories,
    rates: Mapping[str, Rate | None],
    num_prompts: int,
    prompt_weights: np.ndarray | None,
) -> Resolved:
    """The constraints of one dimension by category."""
    column, kind = groups.column, groups.given[0]
    asked_for = {"margin": groups.margin, "level": groups.level, "rate": groups.rate}[kind]
    counts = _counts(name, column, categories, num_prompts)
    rate = _rate(name, rates) if kind == "rate" else None
    findings = list[str]()
    if without := num_prompts - sum(counts.values()):
        findings.append(
            f"{name}: {without} of {num_prompts} prompts have no {column}; nothing is asked of them."
        )
    if isinstance(asked_for, Mapping):
        wanted = _named(name, column, asked_for, counts)
    else:
        assert asked_for is not None  # `given` names what is set
        wanted = _every(name, column, asked_for, counts)
    findings += wanted.findings
    units, asked = dict[str, Unit](), dict[str, Asked]()
    for category, number in wanted.numbers.items():
        shown = f"{name}[{category}]"
        if (count := wanted.counts[category]) < FEWEST_PROMPTS:
            findings.append(
                f"{shown}: {count} of the prompts alone; their mean says little, sample more prompts."
            )
        other_than = wanted.other_than if category == OTHER else None
        unit = Unit(name, category, column, rate=rate, other_than=other_than)
        share = float(np.average(belongs(unit, categories, num_prompts), weights=prompt_weights))
        if share == 0.0:
            raise InputError(f"constraints.{shown}: all of its prompts weigh 0; leave it out.")
        units[shown], asked[shown] = dataclasses.replace(unit, share=share), Asked(**{kind: number})
    return Resolved(units, asked, tuple(findings))


def _named(name: str, column: str, asked_for: Mapping[str, float], counts: Mapping[str, int]) -> _Wanted:
    """Numbers by category: these categories alone."""
    missing = [category for category in asked_for if category not in counts]
    if missing:
        raise InputError(
            f"constraints.{name}.groups: no prompt has the {column} {missing[0]!r}; the prompts have "
            f"{', '.join(counts)}."
        )
    rest = [category for category in counts if category not in asked_for]
    findings = [f"{name}: nothing is asked of the {column} {', '.join(rest)}."] if rest else []
    return _Wanted(dict(asked_for), dict(counts), None, findings)


def _every(name: str, column: str, number: float, counts: Mapping[str, int]) -> _Wanted:
    """One number for every category; those with few prompts share one constraint."""
    own = {c: count for c, count in counts.items() if count >= FEWEST_PROMPTS and c != OTHER}
    pooled = {c: count for c, count in counts.items() if c not in own}
    numbers = dict.fromkeys(own, number)
    if not pooled:
        return _Wanted(numbers, own, None, [])
    findings = list[str]()
    if list(pooled) != [OTHER]:
        listed = ", ".join(f"{category} ({count})" for category, count in pooled.items())
        findings.append(
            f"{name}[{OTHER}] holds what has fewer than {FEWEST_PROMPTS} prompts of its own: {listed}."
        )
    return _Wanted(numbers | {OTHER: number}, own | {OTHER: sum(pooled.values())}, tuple(own), findings)


def _counts(name: str, column: str, categories: Categories, num_prompts: int) -> dict[str, int]:
    """Prompts by category, in alphabetical order."""
    values = categories.get(column, [None] * num_prompts)
    present = [value for value in values if value is not None]
    if not present:
        raise InputError(
            f"constraints.{name}.groups: no prompt has a {column!r}; add the column to the data, or name "
            "another one."
        )
    return {category: present.count(category) for category in sorted(set(present))}


def _choose_thresholds(
    units: dict[str, Unit],
    asked: dict[str, Asked],
    dimensions: Sequence[str],
    scores: np.ndarray,
    categories: Categories,
    value: Value,
    mask: np.ndarray | None,
    prompt_weights: np.ndarray | None,
) -> None:
    """Fills in the thresholds of tails; of several in turn, twice, since each depends on the others."""
    tails = [name for name, unit in units.items() if unit.tail is not None]
    for name in tails * (2 if len(tails) > 1 else 1):
        j, unit = list(units).index(name), units[name]
        tail = unit.tail
        assert tail is not None
        costs = -scores[..., list(dimensions).index(unit.dimension)]
        candidates = _candidates(costs if mask is None else costs[mask], tail.cost)
        table = np.array(utilities(units, scores, dimensions, categories), np.float64)
        found, rooms = list[float](), list[float]()
        for threshold in candidates.tolist():
            one = dataclasses.replace(tail, threshold=threshold)
            level = threshold - tail.cost
            table[..., j] = -np.maximum(costs - threshold, 0.0) / tail.share
            found.append(value(table, list((asked | {name: Asked(level=level)}).values())))
            present = table[..., j] if mask is None else np.where(mask, table[..., j], -np.inf)
            rooms.append(float(np.average(np.max(present, axis=1), weights=prompt_weights)) - level)
        # Where the tail costs nothing, a whole range of thresholds does equally well: take its middle.
        best = np.flatnonzero(np.array(found) >= max(found) - 1e-9 * (1.0 + abs(max(found))))
        # Where no threshold can be met, the one that comes closest says how far it is.
        place = int(best[len(best) // 2]) if np.isfinite(max(found)) else int(np.argmax(rooms))
        one = dataclasses.replace(tail, threshold=float(candidates[place]))
        units[name] = dataclasses.replace(unit, tail=one)
        asked[name] = Asked(level=one.threshold - one.cost)


def _candidates(costs: np.ndarray, most: float) -> np.ndarray:
    """Thresholds of a tail, ascending: quantiles of the costs that lie at or below what is asked.

    A threshold above what is asked cannot be met: the utility is never above 0.
    """
    below = costs[costs <= most]
    if not len(below):
        return np.array([np.min(costs)])  # infeasible: every response costs more
    return np.unique(np.quantile(below, np.linspace(0.0, 1.0, _THRESHOLDS)))
