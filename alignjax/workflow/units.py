"""What is asked of scores as constraints of the dual, which chooses the thresholds of tails."""

from collections.abc import Mapping, Sequence

import numpy as np

from alignjax import dual
from alignjax.config import ConstraintSettings
from alignjax.records.answer import Asked
from alignjax.records.units import Rate
from alignjax.scores.asked import Resolved, Value, resolve
from alignjax.scores.units import Categories


def dual_value(
    rewards: np.ndarray,
    *,
    beta: float,
    mask: np.ndarray | None = None,
    prompt_weights: np.ndarray | None = None,
) -> Value:
    """The value of the dual at its solution, for `scores.asked.resolve`.

    By duality it is the largest E r - beta KL of any policy on the samples that keeps what is asked.

    Args:
      rewards: [N, K] float, calibrated.
      beta: KL weight > 0, in the units of `rewards` per nat.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt; None: equal.

    Returns:
      A function of utilities [N, K, m] and what is asked of them; -inf where that cannot be met. Utilities of
      one shape are compiled for once.
    """

    def value(utilities: np.ndarray, asked: Sequence[Asked]) -> float:
        given = {"mask": mask, "prompt_weights": prompt_weights}
        margins = dual.asked_margins(asked, utilities, beta=beta, **given)
        found = dual.solve(rewards, utilities, beta=beta, margins=margins, **given)
        return float(found.objective) if bool(found.feasible) else -np.inf

    return value


def resolved(
    constraints: Mapping[str, ConstraintSettings],
    dimensions: Sequence[str],
    scores: np.ndarray,
    categories: Categories,
    rates: Mapping[str, Rate | None],
    *,
    beta: float,
    mask: np.ndarray | None = None,
    prompt_weights: np.ndarray | None = None,
) -> Resolved:
    """The constraints of the dual and what is asked of them; `scores.asked.resolve` with this dual.

    Args:
      constraints: what is asked, by dimension.
      dimensions: of the scores, the reward first.
      scores: [N, K, 1 + m0] float, calibrated.
      categories: by column, of the N prompts.
      rates: by dimension, the probability that a response with a given score is safe; None: the score is that
        probability itself.
      beta: KL weight > 0, in the units of the rewards per nat; only a tail depends on it.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt; None: equal.

    Raises:
      InputError: as there.
    """
    value = dual_value(scores[..., 0], beta=beta, mask=mask, prompt_weights=prompt_weights)
    return resolve(
        constraints,
        dimensions,
        scores,
        categories=categories,
        rates=rates,
        value=value,
        mask=mask,
        prompt_weights=prompt_weights,
    )
