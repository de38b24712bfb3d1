"""Win rates of every pair of policies, and ratings, with their intervals."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from alignjax.config import JudgeSettings
from alignjax.data.records import Prompt
from alignjax.dual.statistics import figure_of
from alignjax.evaluation import judges
from alignjax.evaluation.judges import Judged
from alignjax.records.evaluation import Contest
from alignjax.records.figure import Figure
from alignjax.scores.win_rates import bradley_terry, win_rates


class Comparison(NamedTuple):
    """What P policies are compared by.

    Attributes:
      scores: by policy, [N, K, 1+m] calibrated scores of its responses.
      weights: by policy, [N, K] probabilities where all responses are listed; None: a sample.
      prompts: N prompts.
      first: by policy, the first response to every prompt; None where all responses are listed.
      decided: contests by dimension that a judge has decided before, on these or other prompts.
    """

    scores: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray] | None
    prompts: Sequence[Prompt]
    first: Mapping[str, Sequence[str]] | None
    decided: Mapping[str, Contest] = MappingProxyType({})


def contests(
    comparison: Comparison,
    dimensions: Sequence[str],
    settings: Mapping[str, JudgeSettings],
    resamples: np.ndarray,
) -> dict[str, Contest]:
    """By dimension who wins against whom.

    Args:
      comparison: the reference is the first policy.
      dimensions: the reward first.
      settings: judges by dimension; a dimension without one is judged by its scores.
      resamples: [R, N] weights of the prompts, of `dual.statistics.resampling_weights`.

    Raises:
      InputError: of a judge.
    """
    found = dict[str, Contest]()
    for j, name in enumerate(dimensions):
        decided = comparison.decided.get(name)
        if decided is None:
            judged = _judged(comparison, j, name, settings.get(name))
            decided = contest(list(comparison.scores), judged, resamples)
        found[name] = decided
    return found


def contest(policies: Sequence[str], judged: Judged, resamples: np.ndarray) -> Contest:
    """One dimension's contest.

    Args:
      policies: P names.
      judged: verdicts.
      resamples: [R, N] weights of the prompts.
    """
    size, _, prompts = judged.shares.shape
    weights = np.concatenate([np.full((1, prompts), 1.0 / prompts), resamples])
    rates, known = win_rates(judged.shares, weights)
    wins = np.nan_to_num(rates) * known * prompts * judged.comparisons
    ratings = bradley_terry(wins * ~np.eye(size, dtype=bool))
    judged_prompts = np.isfinite(judged.shares)
    names = list(enumerate(policies))
    lead = None
    if judged.lead is not None:
        lead = _figure(win_rates(judged.lead[None, None], weights)[0][:, 0, 0])
    return Contest(
        judge=judged.judge,
        comparisons=int(np.triu(judged_prompts.sum(axis=2), 1).sum()) * judged.comparisons,
        missing=int(np.triu((~judged_prompts).sum(axis=2), 1).sum()),
        position_bias=lead,
        win_rates={a: {b: _figure(rates[:, i, j]) for j, b in names if j != i} for i, a in names},
        ratings={a: _figure(ratings[:, i]) for i, a in names},
    )


def _judged(comparison: Comparison, j: int, name: str, settings: JudgeSettings | None) -> Judged:
    """The verdicts of the judge of dimension j."""
    if settings is not None and settings.function and comparison.first is not None:
        field = f"config.judges.{name}.function"
        return judges.by_function(settings.function, field, comparison.prompts, comparison.first)
    if settings is not None and settings.verdicts:
        return judges.by_verdicts(settings.verdicts, comparison.prompts, list(comparison.scores))
    scores = np.stack([values[..., j] for values in comparison.scores.values()])
    weights = None if comparison.weights is None else np.stack(list(comparison.weights.values()))
    return judges.by_scores(scores, weights)


def _figure(values: np.ndarray) -> Figure | None:
    """[1 + R]: of all prompts, then of the resamples, where nan is left out; None where the first is nan."""
    if np.isnan(values[0]):
        return None
    draws = values[1:][~np.isnan(values[1:])]
    return figure_of(float(values[0]), draws if draws.size else values[:1])
