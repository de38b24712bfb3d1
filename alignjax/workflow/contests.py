"""Contests of the evaluation: win rates of every pair of policies and ratings, with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.config import Config
from alignjax.data.records import Prompt
from alignjax.scores.win_rates import bradley_terry, win_rates
from alignjax.workflow import judges
from alignjax.workflow.estimates import figure_of
from alignjax.workflow.judges import Judged


class Played(NamedTuple):
    """What P policies are compared by.

    Attributes:
      scores: by policy, [N, K, 1+m] calibrated scores of its responses.
      weights: by policy, [N, K] probabilities where all responses are listed; None: a sample.
      prompts: N prompts.
      first: by policy, the first response to every prompt; None where all responses are listed.
    """

    scores: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray] | None
    prompts: Sequence[Prompt]
    first: Mapping[str, Sequence[str]] | None


def contests(config: Config, played: Played, resamples: np.ndarray) -> dict[str, Any]:
    """By dimension who wins against whom: "contests" of evaluation.json.

    Args:
      config: its judges; a dimension without one is judged by its scores.
      played: what is compared; the reference is the first policy.
      resamples: [R, N] weights of the prompts, of `estimates.resampling_weights`.

    Raises:
      InputError: of a judge.
    """
    policies = list(played.scores)
    found = {}
    for j, dimension in enumerate(config.dimensions):
        settings, field = config.judges.get(dimension), f"config.judges.{dimension}"
        if settings is not None and settings.function and played.first is not None:
            judged = judges.by_function(settings.function, f"{field}.function", played.prompts, played.first)
        elif settings is not None and settings.verdicts:
            judged = judges.by_verdicts(settings.verdicts, played.prompts, policies)
        else:
            scores = np.stack([values[..., j] for values in played.scores.values()])
            weights = None if played.weights is None else np.stack(list(played.weights.values()))
            judged = judges.by_scores(scores, weights)
        found[dimension] = record(policies, judged, resamples)
    return found


def record(policies: Sequence[str], judged: Judged, resamples: np.ndarray) -> dict[str, Any]:
    """One contest as JSON: win rates by policy and opponent, ratings in logits above the first policy's.

    A pair of policies without any verdict is None, and so is a rating that no chain of verdicts connects
    with the first policy.
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
    return {
        "judge": judged.judge,
        "comparisons": int(np.triu(judged_prompts.sum(axis=2), 1).sum()) * judged.comparisons,
        "missing": int(np.triu((~judged_prompts).sum(axis=2), 1).sum()),
        "position_bias": lead,
        "win_rates": {a: {b: _figure(rates[:, i, j]) for j, b in names if j != i} for i, a in names},
        "ratings": {a: _figure(ratings[:, i]) for i, a in names},
    }


def _figure(values: np.ndarray) -> dict[str, float] | None:
    """[1 + R]: of all prompts, then of the resamples, where nan is left out; None where the first is nan."""
    if np.isnan(values[0]):
        return None
    draws = values[1:][~np.isnan(values[1:])]
    return figure_of(float(values[0]), draws if draws.size else values[:1]).to_json()
