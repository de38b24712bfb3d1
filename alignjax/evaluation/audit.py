"""Promised against delivered: what every policy reaches, as one record."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.config import JudgeSettings
from alignjax.data.responses import Responses
from alignjax.data.worlds import Enumeration, World
from alignjax.data.worlds import enumerable as tree
from alignjax.dual.statistics import calibrated_means, mean_figure
from alignjax.errors import InputError
from alignjax.evaluation.comparison import Comparison, contests
from alignjax.evaluation.response_stats import RESPONSE_STATS
from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Evaluation, PolicyResult
from alignjax.records.figure import Figure

_SHOWN = 256  # responses of a prompt that a histogram shows where all are listed


class Means(NamedTuple):
    """What one policy reaches on each prompt, a mean over its responses.

    Attributes:
      scores: [N, 1+m] raw scores.
      kl: [N] nats, KL(policy || reference).
      truth: [N, 2] true scores where a world knows them.
      stats: [N, 4] the columns of `RESPONSE_STATS`.
      scatter: [N, K, 1+m] raw scores of single responses, for histograms.
      kl_from_optimum: nats, KL(pi_lam* || policy), where sums are exact.
    """

    scores: np.ndarray
    kl: np.ndarray
    truth: np.ndarray | None
    stats: np.ndarray
    scatter: np.ndarray
    kl_from_optimum: float | None = None


class Resampling(NamedTuple):
    """Where the intervals come from.

    Attributes:
      matrix: [1+m, 1+m] calibration.
      matrices: [R, 1+m, 1+m] draws of it.
      weights: [R, N] of the prompts.
    """

    matrix: np.ndarray
    matrices: np.ndarray
    weights: np.ndarray


def sampled_means(
    scores: np.ndarray, kl: np.ndarray, stats: np.ndarray, drawn: Responses, world: World | None
) -> Means:
    """Means over responses sampled from the policy itself.

    Args:
      scores: [N, K, 1+m] raw scores.
      kl: [N, K] nats.
      stats: [N, K, 4] of `response_stats`.
      drawn: the responses.
      world: that knows true scores; None: none does.
    """
    truth = None
    if world is not None:
        pairs = zip(drawn.prompts, drawn.texts, strict=True)
        truth = np.stack([world.true_scores(str(prompt), texts).mean(axis=0) for prompt, texts in pairs])
    return Means(scores.mean(axis=1), kl.mean(axis=1), truth, stats.mean(axis=1), scores)


def exact_means(
    logps: Mapping[str, np.ndarray],
    scores: np.ndarray,
    stats: np.ndarray,
    world: Enumeration,
    *,
    beta: float,
    margins: Sequence[float] | None,
    rng: np.random.Generator,
) -> dict[str, Means]:
    """Sums over every response of every prompt.

    Args:
      logps: by policy, [N, K] log-probabilities of all K responses; the reference first.
      scores: [N, K, 1+m] raw scores of the responses.
      stats: [N, K, 4] of `response_stats`.
      world: with the true scores.
      beta: KL weight.
      margins: asked, for the true optimum; None: it is not computed.
      rng: draws the responses that histograms show.
    """
    ref = next(iter(logps.values()))
    optimum = None
    if margins is not None:
        optimum = tree.exact_dual(ref, world.scores, beta=beta, margins=list(margins)).log_policy
    means = {}
    for name, values in logps.items():
        weights = np.exp(values)
        shown = np.stack([rng.choice(len(w), size=_SHOWN, p=w / w.sum()) for w in weights])
        means[name] = Means(
            np.einsum("py,pyd->pd", weights, scores),
            np.sum(weights * (values - ref), axis=1),
            np.einsum("py,pyd->pd", weights, world.scores),
            np.einsum("py,pyd->pd", weights, stats),
            np.take_along_axis(scores, shown[..., None], axis=1),
            None if optimum is None else float(tree.exact_kl(optimum, values)),
        )
    return means


def audit(
    means: Mapping[str, Means],
    comparison: Comparison,
    answer: DualAnswer,
    resampling: Resampling,
    judges: Mapping[str, JudgeSettings],
) -> Evaluation:
    """What was asked and predicted, and what every policy reaches.

    Args:
      means: by policy, the reference first.
      comparison: the policies' responses, with raw scores.
      answer: of the dual.
      resampling: for the intervals.
      judges: by dimension.

    Raises:
      InputError: the scores have another number of dimensions than the answer, or a judge fails.
    """
    base, names = means["reference"], answer.names
    if base.scores.shape[1] != 1 + len(names):
        raise InputError(
            f"constraints: {len(names)} are configured, the scores hold {base.scores.shape[1] - 1}; compute "
            "the scores again with --redo=scores."
        )
    calibrated = {name: raw @ resampling.matrix.T for name, raw in comparison.scores.items()}
    predicted = answer.predicted
    assert predicted is not None, "an infeasible answer is refused before anything is trained"
    return Evaluation(
        asked={name: asked.margin for name, asked in answer.asked.items()},
        predicted={
            "reward": predicted.reward,
            "kl": predicted.kl,
            "utilities": predicted.utilities,
            "margins": predicted.margins,
            **predicted.margins,
        },
        policies={name: _result(one, base, names, resampling) for name, one in means.items()},
        contests=contests(
            comparison._replace(scores=calibrated), ("reward", *names), judges, resampling.weights
        ),
    )


def _result(policy: Means, base: Means, names: Sequence[str], by: Resampling) -> PolicyResult:
    levels = calibrated_means(policy.scores, by.matrix, by.matrices, by.weights)
    gains = calibrated_means(policy.scores - base.scores, by.matrix, by.matrices, by.weights)
    stats = _named(RESPONSE_STATS, [mean_figure(column, by.weights) for column in policy.stats.T])
    true_reward = true_margins = optimum = None
    if policy.truth is not None and base.truth is not None:
        true_reward = mean_figure(policy.truth[:, 0], by.weights)
        rises = (policy.truth - base.truth)[:, 1 : 1 + len(names)]
        true_margins = _named(names, [mean_figure(column, by.weights) for column in rises.T])
    if policy.kl_from_optimum is not None:
        optimum = Figure(policy.kl_from_optimum, policy.kl_from_optimum, policy.kl_from_optimum)
    return PolicyResult(
        reward=levels[0],
        reward_gain=gains[0],
        kl=mean_figure(policy.kl, by.weights),
        utilities=_named(names, levels[1:]),
        margins=_named(names, gains[1:]),
        **stats,
        true_reward=true_reward,
        true_margins=true_margins,
        kl_from_optimum=optimum,
    )


def _named(names: Iterable[str], figures: Sequence[Figure]) -> dict[str, Figure]:
    return dict(zip(names, figures, strict=True))
