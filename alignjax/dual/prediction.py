"""What a multiplier brings on a table of scores, with intervals: the fields of a feasible answer."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from alignjax.dual.asked import prompt_references
from alignjax.dual.bias import Extrapolated
from alignjax.dual.curves import SATURATED, by_prompt, frontier
from alignjax.dual.resampling import Resolved, resolve
from alignjax.dual.statistics import calibrated_means, mean_figure, resampling_weights
from alignjax.records import answer as records
from alignjax.records.figure import Figure

CORRECTED_FROM = 8  # samples a prompt; of fewer, halves and quarters say nothing of what many would show
CURVE_POINTS = 61
_SHOWN_PROMPTS = 3


class Table(NamedTuple):
    """Scores: names (m), rewards [N, K], utilities [N, K, m], mask [N, K], weights [N] (sum to 1), ids."""

    names: tuple[str, ...]
    rewards: np.ndarray
    utilities: np.ndarray
    mask: np.ndarray | None
    weights: np.ndarray | None
    ids: Sequence[str | int]

    @property
    def given(self) -> dict[str, Any]:
        """The two keywords that most functions of the dual take."""
        return {"mask": self.mask, "prompt_weights": self.weights}


class Draws(NamedTuple):
    """The resamples: weights [R, N] of the prompts, matrices [R, 1+m, 1+m] of the scores (None: identity)."""

    weights: np.ndarray
    matrices: np.ndarray | None
    confidence: float


class Shown(NamedTuple):
    """The fields of an answer that exist only where it is feasible."""

    lam: dict[str, float] | None = None
    predicted: records.Predicted | None = None
    intervals: records.Intervals | None = None
    corrected: records.Corrected | None = None
    frontier: records.FrontierCurve | None = None
    prompts: dict[str, records.PromptMargins] | None = None
    warnings: tuple[str, ...] = ()


def predict(
    table: Table,
    lam: np.ndarray,
    *,
    beta: float,
    asked: np.ndarray,
    solved_for: np.ndarray | None,
    draws: Draws,
) -> Shown:
    """Everything about the tilt to a multiplier that exists; its warnings are left empty.

    Args:
      table: the scores.
      lam: [m], the multiplier.
      beta: KL weight > 0.
      asked: [m], the margins that are asked; nan where none is.
      solved_for: [m], the margins whose solution `lam` is; None: it was given.
      draws: the resamples of the intervals.
    """
    at = by_prompt(lam, table.rewards, table.utilities, beta=beta, mask=table.mask)
    references = prompt_references(scores_of(table), table.mask)  # [N, 1 + m]
    tilted = np.column_stack([at.reward, at.utilities])
    levels, gains = _figures(table, tilted, draws), _figures(table, tilted - references, draws)
    ess = np.asarray(at.ess)
    saturated = float(np.mean(ess < SATURATED))
    predicted = records.Predicted(
        reward=levels[0],
        kl=_mean_figure(table, np.asarray(at.kl), draws),
        utilities=dict(zip(table.names, levels[1:], strict=True)),
        margins=dict(zip(table.names, gains[1:], strict=True)),
        reward_gain=gains[0],
        ess=records.EffectiveSamples(
            float(np.median(ess)), float(ess.min()), table.rewards.shape[1], saturated
        ),
    )
    intervals = corrected = None
    if solved_for is not None and len(draws.weights):
        resolved, better = resolve(
            table.rewards,
            table.utilities,
            lam,
            beta=beta,
            margins=solved_for,
            weights=draws.weights,
            matrices=draws.matrices,
            correct_bias=table.rewards.shape[1] >= CORRECTED_FROM,
            **table.given,
        )
        intervals = _intervals(table, lam, resolved, draws.confidence)
        if better is not None:
            corrected = _corrected(table, references, resolved, better, draws)
    return Shown(
        lam=named(table, lam),
        predicted=predicted,
        intervals=intervals,
        corrected=corrected,
        frontier=_curve(table, lam, beta, asked),
        prompts=_prompts(table, (tilted - references)[:, 1:]),
    )


def _figures(table: Table, values: np.ndarray, draws: Draws) -> list[Figure]:
    """Means of scores [N, 1 + m] over prompts, with intervals over prompts and calibrations."""
    identity = np.eye(values.shape[1])
    matrices = draws.matrices
    if matrices is None:
        matrices = np.broadcast_to(identity, (len(draws.weights), *identity.shape))
    given: dict[str, Any] = {"prompt_weights": table.weights, "confidence": draws.confidence}
    return calibrated_means(values, identity, matrices, draws.weights, **given)


def _mean_figure(table: Table, values: np.ndarray, draws: Draws) -> Figure:
    return mean_figure(values, draws.weights, prompt_weights=table.weights, confidence=draws.confidence)


def _ends(mean: float, draws: np.ndarray, confidence: float) -> records.Ends:
    """As `figure_of`, of draws that may be infinite: between order statistics there would be no number."""
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1.0 - tail], method="nearest")
    return records.Ends(finite(min(low, mean)), finite(max(high, mean)))


def _intervals(table: Table, lam: np.ndarray, resolved: Resolved, confidence: float) -> records.Intervals:
    columns = zip(table.names, lam, np.asarray(resolved.lam).T, strict=True)
    ends = {name: _ends(float(mean), draws, confidence) for name, mean, draws in columns}
    return records.Intervals(ends, float(np.mean(resolved.solved)))


def _corrected(
    table: Table, references: np.ndarray, resolved: Resolved, better: Extrapolated, draws: Draws
) -> records.Corrected:
    scores = np.asarray(better.scores)
    levels, gains = _figures(table, scores, draws), _figures(table, scores - references, draws)
    lams: dict[str, Figure | None] = {}
    columns = zip(table.names, np.asarray(better.lam), np.asarray(resolved.corrected).T, strict=True)
    for name, mean, again in columns:
        lams[name] = None
        if math.isfinite(mean):
            ends = _ends(float(mean), again, draws.confidence)
            if ends.low is not None and ends.high is not None:
                lams[name] = Figure(float(mean), ends.low, ends.high)
    return records.Corrected(
        lam=lams,
        margins=dict(zip(table.names, gains[1:], strict=True)),
        reward=levels[0],
        kl=_mean_figure(table, np.asarray(better.kl), draws),
    )


def _curve(table: Table, lam: np.ndarray, beta: float, margins: np.ndarray) -> records.FrontierCurve:
    """The curve along lambda from 0 to three times its length (to 3 where it is 0)."""
    direction = lam if lam.any() else np.ones_like(lam)
    lams = np.linspace(0.0, 3.0, CURVE_POINTS)[:, None] * direction
    line = frontier(table.rewards, table.utilities, beta=beta, lams=lams, **table.given)
    levels = means_of(table, prompt_references(table.utilities, table.mask)) + np.nan_to_num(margins)
    return records.FrontierCurve(
        lams=lams,
        margins=np.asarray(line.margins),
        margin_errors=np.asarray(line.margin_errors),
        reward=np.asarray(line.expected_reward),
        kl=np.asarray(line.kl),
        objective=np.asarray(line.value) - lams @ levels,  # asked for nothing: margin 0
    )


def _prompts(table: Table, gains: np.ndarray) -> dict[str, records.PromptMargins]:
    """By constraint: quartiles of the prompts' margins, and the prompts that lift and hold back the most."""
    shown = {}
    for name, margins in zip(table.names, gains.T, strict=True):
        order = np.argsort(margins, kind="stable")

        def of(rows: np.ndarray, margins: np.ndarray = margins) -> tuple[records.PromptMargin, ...]:
            return tuple(records.PromptMargin(table.ids[i], float(margins[i])) for i in rows)

        tenth = order[::-1][: max(1, len(order) // 10)]
        total = float(margins.sum())
        shown[name] = records.PromptMargins(
            quartiles=tuple(np.quantile(margins, [0, 0.25, 0.5, 0.75, 1]).tolist()),
            least=of(order[:_SHOWN_PROMPTS]),
            most=of(order[::-1][:_SHOWN_PROMPTS]),
            share_of_top_tenth=float(margins[tenth].sum() / total) if total > 0 else None,
        )
    return shown


def resample(table: Table, rng: np.random.Generator, num_resamples: int, population: bool) -> np.ndarray:
    """Weights of the prompts in every resample, [R, N]; prompts of weight 0 are never drawn."""
    outer = np.full(len(table.rewards), 1.0) if table.weights is None else table.weights
    real = outer > 0
    weights = np.zeros((num_resamples, len(outer)))
    weights[:, real] = resampling_weights(rng, int(real.sum()), num_resamples, population=population)
    weights *= outer
    return weights / weights.sum(axis=1, keepdims=True)


def scores_of(table: Table) -> np.ndarray:
    """[N, K, 1 + m], the reward first."""
    return np.concatenate([table.rewards[..., None], table.utilities], axis=-1)


def means_of(table: Table, values: np.ndarray) -> np.ndarray:
    """Weighted means over the prompts: [N, ...] -> [...]."""
    return np.average(values, axis=0, weights=table.weights)


def named(table: Table, values: ArrayLike) -> dict[str, float]:
    """Numbers by the constraints' names."""
    return dict(zip(table.names, np.asarray(values, np.float64).tolist(), strict=True))


def finite(value: ArrayLike) -> float | None:
    """The number; None where it is infinite or nan, which JSON cannot hold."""
    number = float(np.asarray(value))
    return number if math.isfinite(number) else None
