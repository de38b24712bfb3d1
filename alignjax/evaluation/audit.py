"""Promised against delivered: what every policy reaches, as one record."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.config import JudgeSettings
from alignjax.data.worlds import Enumeration
from alignjax.data.worlds import enumerable as tree
from alignjax.dual.statistics import calibrated_means, figure_of, mean_figure
from alignjax.evaluation.comparison import Comparison, contests
from alignjax.evaluation.headline import headline
from alignjax.evaluation.means import Basis, Scored, Uncertain, in_groups, utilities_of
from alignjax.evaluation.response_stats import RESPONSE_STATS
from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Evaluation, PolicyResult
from alignjax.records.figure import Figure
from alignjax.records.verdict import TestRecord


class Resampling(NamedTuple):
    """Where the intervals come from.

    Attributes:
      weights: [R, T] of the prompts.
      uncertain: means of every policy, with draws of the calibration.
    """

    weights: np.ndarray
    uncertain: Uncertain


def distances_from_optimum(
    policies: Mapping[str, Scored], world: Enumeration, *, beta: float, margins: Sequence[float]
) -> dict[str, float]:
    """KL(pi_lam* || policy) of every policy for the true scores, nats, by sums over all responses.

    Args:
      policies: the reference first; their `weights` are the probabilities of all responses.
      world: with the true scores.
      beta: KL weight.
      margins: asked.
    """
    found = {name: np.log(one.weights) for name, one in policies.items() if one.weights is not None}
    ref = found[next(iter(found))]
    optimum = tree.exact_dual(ref, world.scores, beta=beta, margins=list(margins)).log_policy
    return {name: float(tree.exact_kl(optimum, values)) for name, values in found.items()}


def audit(
    policies: Mapping[str, Scored],
    basis: Basis,
    comparison: Comparison,
    answer: DualAnswer,
    test: TestRecord,
    resampling: Resampling,
    judges: Mapping[str, JudgeSettings],
    optima: Mapping[str, float],
) -> Evaluation:
    """What was asked and predicted, what every policy reaches, and what is verified of the aligned one.

    Args:
      policies: by name, the reference first.
      basis: of the test prompts, see `means.on_these_prompts`.
      comparison: the policies' responses, with calibrated scores by dimension.
      answer: of the dual.
      test: of the aligned policy.
      resampling: for the intervals.
      judges: by dimension.
      optima: distance of each policy from the true optimum; empty: not known.

    Raises:
      InputError: a judge fails.
    """
    predicted = answer.predicted
    assert predicted is not None, "an infeasible answer is refused before anything is trained"
    results = {
        name: result_of(name, policies, basis, answer.names, resampling, optima.get(name))
        for name in policies
    }
    return Evaluation(
        asked={name: asked.margin for name, asked in answer.asked.items()},
        predicted={
            "reward": predicted.reward,
            "kl": predicted.kl,
            "utilities": predicted.utilities,
            "margins": predicted.margins,
            **predicted.margins,
        },
        policies=results,
        contests=contests(comparison, basis.dimensions, judges, resampling.weights),
        verdicts=test.verdicts,
        look=test.look,
        spent=test.spent,
        power=test.power,
        headline=headline(answer, test),
    )


def result_of(
    name: str,
    policies: Mapping[str, Scored],
    basis: Basis,
    names: Sequence[str],
    by: Resampling,
    optimum: float | None = None,
) -> PolicyResult:
    """What one policy reaches, and how far that is above the reference.

    Args:
      name: of the policy.
      policies: by name, the reference first.
      basis: of the prompts, see `means.on_these_prompts`.
      names: of the constraints.
      by: for the intervals.
      optimum: distance of the policy from the true optimum, nats; None: not known.
    """
    policy, base = policies[name], next(iter(policies.values()))
    columns, first = by.uncertain.columns[name], next(iter(by.uncertain.columns.values()))
    groups = in_groups(basis, len(policy.kl))
    levels, gains = _figures(columns, by, groups), _figures(columns - first, by, groups)
    stats = _named(RESPONSE_STATS, [mean_figure(column, by.weights) for column in policy.stats.T])
    true_reward = true_margins = None
    if policy.truth is not None and base.truth is not None:
        truth = policy.mean(utilities_of(policy, basis, truth=True))
        rises = truth - base.mean(utilities_of(base, basis, truth=True))
        true_reward = mean_figure(truth[:, 0], by.weights)
        exact = Resampling(by.weights, by.uncertain._replace(draws=_identity(rises, by.weights)))
        true_margins = _named(names, _figures(rises, exact, groups)[1:])
    distance = None if optimum is None else Figure(optimum, optimum, optimum)
    return PolicyResult(
        reward=levels[0],
        reward_gain=gains[0],
        kl=mean_figure(policy.kl, by.weights),
        utilities=_named(names, levels[1:]),
        margins=_named(names, gains[1:]),
        **stats,
        true_reward=true_reward,
        true_margins=true_margins,
        kl_from_optimum=distance,
    )


def _figures(columns: np.ndarray, by: Resampling, groups: np.ndarray) -> list[Figure]:
    """Reward and utilities of [T, 1+m+F] columns; a group's mean is over its prompts that were drawn."""
    size = 1 + groups.shape[1]
    identity = np.eye(size, columns.shape[1])
    everyone = np.concatenate([np.ones((len(groups), 1), bool), groups], axis=1)
    if everyone.all():
        return calibrated_means(columns, identity, by.uncertain.draws, by.weights)
    means = identity @ columns.mean(axis=0)
    draws = np.einsum("bjd,bd->bj", by.uncertain.draws, by.weights @ columns)
    drawn = by.weights @ (everyone / np.maximum(everyone.mean(axis=0), 1e-300))  # 1 on average
    draws = np.where(drawn > 0, draws / np.where(drawn > 0, drawn, 1.0), means)
    return [figure_of(float(mean), column) for mean, column in zip(means, draws.T, strict=True)]


def _identity(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    size = columns.shape[1]
    return np.broadcast_to(np.eye(size), (len(weights), size, size))


def _named(names: Iterable[str], figures: Sequence[Figure]) -> dict[str, Figure]:
    return dict(zip(names, figures, strict=True))
