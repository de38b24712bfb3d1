"""From scores of responses to what the constraints are about: means over responses, prompt by prompt."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from alignjax.records.units import Unit
from alignjax.scores import calibration as calib
from alignjax.scores import units as in_units
from alignjax.scores.calibration import Calibration


class Scored(NamedTuple):
    """Raw scores of one policy's responses to T prompts.

    Attributes:
      raw: [T, K, 1+m] scores by dimension.
      weights: [T, K] probability of every response where all are listed; None: a sample of the policy.
      kl: [T] nats, KL(policy || reference).
      stats: [T, 4] means of the columns of `RESPONSE_STATS`.
      truth: [T, K, 1+m] true scores where a world knows them.
    """

    raw: np.ndarray
    weights: np.ndarray | None
    kl: np.ndarray
    stats: np.ndarray
    truth: np.ndarray | None = None

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means over the responses to each prompt, by their probabilities where all are listed.

        Args:
          values: [T, K, ...], a number or several for every response.

        Returns:
          [T, ...].
        """
        if self.weights is None:
            return values.mean(axis=1)
        return np.einsum("tk,tk...->t...", self.weights, values)


class Basis(NamedTuple):
    """What raw scores mean for the constraints.

    Attributes:
      calibration: of the scores.
      units: of the constraints, by name.
      dimensions: of the raw scores, the reward first.
      categories: of the T prompts, by column; None where a prompt has none.
    """

    calibration: Calibration
    units: Mapping[str, Unit]
    dimensions: tuple[str, ...]
    categories: Mapping[str, Sequence[str | None]]


class Uncertain(NamedTuple):
    """What every policy reaches as linear combinations of columns whose coefficients are drawn.

    Attributes:
      columns: by policy, [T, 1+m+F] means over responses: reward and utilities, then further columns.
      draws: [R, 1+m, 1+m+F] coefficients of the reward and the utilities on them.
    """

    columns: Mapping[str, np.ndarray]
    draws: np.ndarray


def in_groups(basis: Basis, count: int) -> np.ndarray:
    """Which prompts each constraint is about.

    Args:
      basis: of the prompts.
      count: T.

    Returns:
      [T, m] bool; all True for a constraint on all prompts.

    Raises:
      InputError: the categories of a group's column are missing, or are not one for each prompt.
    """
    return in_units.exposure(basis.units, basis.categories, count) > 0


def on_these_prompts(basis: Basis, count: int) -> Basis:
    """The same with each group's share among these prompts: a mean over them is then the group's own mean.

    A group that none of the prompts is in keeps its share, and has no mean here: see `in_groups`.

    Args:
      basis: of these prompts, with the shares of others, such as those of the dual.
      count: T.
    """
    shares = in_groups(basis, count).mean(axis=0).tolist()
    units = {
        name: unit if unit.category is None or share == 0 else dataclasses.replace(unit, share=share)
        for (name, unit), share in zip(basis.units.items(), shares, strict=True)
    }
    return basis._replace(units=units)


def utilities_of(scored: Scored, basis: Basis, *, truth: bool = False) -> np.ndarray:
    """Reward and utilities of every response.

    Args:
      scored: T prompts with K responses each.
      basis: of these prompts.
      truth: of the true scores: they are logits, so that a rate is the logistic function itself.

    Returns:
      [T, K, 1+m], the reward first.
    """
    if truth:
        assert scored.truth is not None
        scores, units = scored.truth, _true_units(basis.units)
    else:
        scores, units = calib.calibrated(basis.calibration, scored.raw), basis.units
    values = in_units.utilities(units, scores, basis.dimensions, basis.categories)
    return np.concatenate([scores[..., :1], values], axis=-1)


def uncertain_means(
    policies: Mapping[str, Scored], basis: Basis, key: jax.Array, num_draws: int
) -> Uncertain:
    """Means of every policy with draws of the calibration, the same draws for all.

    Args:
      policies: by name.
      basis: of these prompts.
      key: of the draws.
      num_draws: R.

    Returns:
      By policy, reward and utilities: under draw b they are `columns @ draws[b].T`.
    """
    columns, draws = {}, np.zeros(0)
    for name, scored in policies.items():
        found = in_units.uncertainty(
            key, basis.units, basis.calibration, scored.raw, basis.dimensions, basis.categories, num_draws
        )
        values = np.concatenate([utilities_of(scored, basis), found.features], axis=-1)
        columns[name], draws = scored.mean(values), found.draws
    return Uncertain(columns, draws)


def uncertain_columns(scored: Scored, basis: Basis) -> list[tuple[np.ndarray, np.ndarray]]:
    """How the means of the reward and of each utility move with the coefficients of the calibration.

        variance of a mean over prompts = v' S v,   v the same mean of the columns

    Args:
      scored: T prompts with K responses each.
      basis: of these prompts.

    Returns:
      1+m pairs, the reward first: the means over responses [T, P] of the derivatives in P coefficients, and
      S [P, P], the covariance of these.
    """
    found = in_units.columns(basis.units, basis.calibration, scored.raw, basis.dimensions, basis.categories)
    return [(scored.mean(phi), covariance) for phi, covariance in found]


def _true_units(units: Mapping[str, Unit]) -> dict[str, Unit]:
    """On true scores, which are in logits, a rate is the logistic function itself."""
    return {
        name: unit
        if unit.rate is None
        else dataclasses.replace(
            unit, rate=dataclasses.replace(unit.rate, slope=1.0, intercept=0.0, covariance=np.zeros((2, 2)))
        )
        for name, unit in units.items()
    }
