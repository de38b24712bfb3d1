"""What a multiplier brings on a table of scores, with intervals: the fields of a feasible answer."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from alignjax.dual.asked import per_exposure, prompt_references, shares
from alignjax.dual.bias import Extrapolated, policies
from alignjax.dual.curves import SATURATED, by_prompt, frontier
from alignjax.dual.gate import Crowding
from alignjax.dual.resampling import Resolved, resolve
from alignjax.dual.statistics import figure_of, resampling_weights, skewed_ends
from alignjax.records import answer as records
from alignjax.records.figure import Figure

CORRECTED_FROM = 8  # samples a prompt; of fewer, halves say nothing of the multiplier that many would give
CURVE_POINTS = 61
_SHOWN_PROMPTS = 3


class Table(NamedTuple):
    """Scores: names (m), rewards [N, K], utilities [N, K, m], mask [N, K], weights [N] (sum to 1), ids.

    exposure [N, m] says how much of what is asked each prompt carries; features [N, K, F] are further columns
    that calibrations read. Both may be None.
    """

    names: tuple[str, ...]
    rewards: np.ndarray
    utilities: np.ndarray
    mask: np.ndarray | None
    weights: np.ndarray | None
    ids: Sequence[str | int]
    exposure: np.ndarray | None = None
    features: np.ndarray | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The two keywords that most functions of the dual take."""
        return {"mask": self.mask, "prompt_weights": self.weights}

    @property
    def shares(self) -> np.ndarray:
        """How much of each constraint the prompts carry on average, [m]."""
        return shares(self.exposure, len(self.names), self.weights)

    def carried(self, weights: np.ndarray | None) -> np.ndarray:
        """How much of the reward (1) and each constraint weighted prompts carry: [..., N] -> [..., 1 + m]."""
        n = len(self.rewards)
        own = np.ones((n, len(self.names))) if self.exposure is None else self.exposure
        weights = np.full(n, 1.0 / n) if weights is None else weights
        return weights @ np.column_stack([np.ones(n), own])

    def exposure_of(self, score: int) -> np.ndarray | None:
        """How much every prompt carries of the reward (0) or a constraint (from 1), [N]; None: 1 each."""
        return None if self.exposure is None or score == 0 else self.exposure[:, score - 1]


class Draws(NamedTuple):
    """The resamples.

    Attributes:
      weights: [R, N] of the prompts.
      matrices: [R, 1+m, 1+m+F] of the columns; None: the scores are believed as they are.
      confidence: of the intervals.
      population: whether the prompts are all there are, so that none are drawn.
    """

    weights: np.ndarray
    matrices: np.ndarray | None
    confidence: float
    population: bool = False


class SolvedFor(NamedTuple):
    """What a multiplier solves: values [m], margins or, where by_level [m], levels; whether with a guard."""

    values: np.ndarray
    by_level: np.ndarray
    guarded: bool


class Shown(NamedTuple):
    """The fields of an answer that exist only where it is feasible."""

    lam: dict[str, float] | None = None
    predicted: records.Predicted | None = None
    forecast: records.Forecast | None = None
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
    solved_for: SolvedFor | None,
    draws: Draws,
    seed: int = 0,
) -> Shown:
    """Everything about a multiplier that exists; its warnings are left empty.

    Args:
      table: the scores.
      lam: [m], the multiplier.
      beta: KL weight > 0.
      asked: [m], the margins that are asked; nan where none is.
      solved_for: what `lam` solves; None: it was given.
      draws: the resamples of the intervals.
      seed: of the shuffle that halves and quarters are taken from.
    """
    at = policies(
        lam,
        table.rewards,
        table.utilities,
        beta=beta,
        features=table.features,
        mask=table.mask,
        seed=seed,
    )
    plain, tilted, reference = (np.asarray(x) for x in at[:3])
    ess = _effective(table, plain[2])
    forecast = records.Forecast(
        draw_k=_predicted(table, plain, plain, reference, ess, draws),
        tilt=_predicted(table, tilted, plain, reference, ess, draws),
    )
    intervals = corrected = None
    if solved_for is not None and len(draws.weights):
        correct = not solved_for.guarded and table.rewards.shape[1] >= CORRECTED_FROM
        resolved, better = resolve(
            table.rewards,
            table.utilities,
            lam,
            beta=beta,
            asked=solved_for.values,
            by_level=solved_for.by_level,
            exposure=table.exposure,
            features=table.features,
            weights=draws.weights,
            matrices=draws.matrices,
            correct_bias=correct,
            seed=seed,
            **table.given,
        )
        intervals = _intervals(table, lam, resolved, draws.confidence)
        if better is not None:
            corrected = _corrected(table, tilted, reference, resolved, better, draws)
    size = 1 + len(table.names)
    gains = (plain[3:] - reference)[1:size].T
    return Shown(
        lam=named(table, lam),
        predicted=forecast.tilt,
        forecast=forecast,
        intervals=intervals,
        corrected=corrected,
        frontier=_curve(table, lam, beta, asked),
        prompts=_prompts(table, gains),
    )


def crowding(table: Table, lam: np.ndarray, beta: float) -> Crowding:
    """What the gate looks at, at a multiplier [m]."""
    at = by_prompt(lam, table.rewards, table.utilities, beta=beta, mask=table.mask)
    counts = np.full(len(table.rewards), table.rewards.shape[1])
    counts = counts if table.mask is None else table.mask.sum(axis=1)
    return Crowding(np.asarray(at.kl), counts, table.weights)


def _predicted(
    table: Table,
    columns: np.ndarray,
    plain: np.ndarray,
    reference: np.ndarray,
    ess: records.EffectiveSamples,
    draws: Draws,
) -> records.Predicted:
    """What one of the two policies has, its intervals widened by how far its estimates are from the plain."""
    levels = _figures(table, columns[3:], draws, plain[3:])
    gains = _figures(table, columns[3:] - reference, draws, plain[3:] - reference)
    return records.Predicted(
        reward=levels[0],
        kl=_mean_figure(table, columns[1], draws, plain[1]),
        utilities=dict(zip(table.names, levels[1:], strict=True)),
        margins=dict(zip(table.names, gains[1:], strict=True)),
        reward_gain=gains[0],
        ess=ess,
    )


def _effective(table: Table, ess: np.ndarray) -> records.EffectiveSamples:
    """Effective samples [N] over the prompts by their weights."""
    weights = table.weights
    real, middle = np.ones(len(ess), bool), np.median(ess)
    if weights is not None:
        real, middle = weights > 0, np.quantile(ess, 0.5, weights=weights, method="inverted_cdf")
    saturated = float(np.average(ess < SATURATED, weights=weights))
    return records.EffectiveSamples(float(middle), float(ess[real].min()), table.rewards.shape[1], saturated)


def _figures(table: Table, values: np.ndarray, draws: Draws, plain: np.ndarray) -> list[Figure]:
    """Means of the reward and the utilities, with intervals over prompts and calibrations.

        mean_j = sum_i p_i x_ij / sum_i p_i e_ij,   resample b: its weights, and x = columns T_b^T, instead

    Args:
      table: the scores.
      values: [1 + m + F, N], a number a prompt of each column.
      draws: the resamples.
      plain: [1 + m + F, N], without correction; by how far its means differ the intervals are widened.
    """
    size = 1 + len(table.names)
    base = table.carried(table.weights)
    means, before = (means_of(table, x[:size].T) / base for x in (values, plain))
    carried = table.carried(draws.weights)
    again = draws.weights @ values.T
    again = again[:, :size] if draws.matrices is None else np.einsum("bjd,bd->bj", draws.matrices, again)
    figures = []
    for j in range(size):
        # A resample that drew none of a group's prompts says nothing of the group.
        drawn = carried[:, j] > 0
        column = again[drawn, j] / carried[drawn, j]
        ends = _skewed(table, values[j], table.exposure_of(j), draws)
        figures.append(_widened(means[j], column, before[j], draws.confidence, ends))
    return figures


def _mean_figure(table: Table, values: np.ndarray, draws: Draws, plain: np.ndarray) -> Figure:
    """The mean of one number a prompt, [N]; see `_figures`."""
    mean, before = (float(means_of(table, x)) for x in (values, plain))
    ends = _skewed(table, values, None, draws)
    return _widened(mean, draws.weights @ values, before, draws.confidence, ends)


def _skewed(
    table: Table, values: np.ndarray, exposure: np.ndarray | None, draws: Draws
) -> tuple[float, float] | None:
    """What `skewed_ends` says of prompts that were drawn, [N]; None where none were or too few to tell."""
    if draws.population or not len(draws.weights):
        return None
    weights = np.full(values.shape, 1.0 / len(values)) if table.weights is None else table.weights
    if exposure is not None:
        values, weights = per_exposure(values, exposure), weights * exposure
    low, high = skewed_ends(values, weights, confidence=draws.confidence)
    return (low, high) if math.isfinite(low) else None


def _widened(
    mean: float, draws: np.ndarray, plain: float, confidence: float, ends: tuple[float, float] | None
) -> Figure:
    figure = figure_of(float(mean), draws, confidence=confidence)
    if not len(draws):
        return figure
    low, high = (figure.low, figure.high) if ends is None else ends
    bias = abs(float(plain) - float(mean))
    return Figure(figure.mean, min(figure.low, low) - bias, max(figure.high, high) + bias)


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
    table: Table,
    tilted: np.ndarray,
    reference: np.ndarray,
    resolved: Resolved,
    better: Extrapolated,
    draws: Draws,
) -> records.Corrected:
    levels = _figures(table, tilted[3:], draws, tilted[3:])
    gains = _figures(table, tilted[3:] - reference, draws, tilted[3:] - reference)
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
        kl=_mean_figure(table, tilted[1], draws, tilted[1]),
    )


def _curve(table: Table, lam: np.ndarray, beta: float, margins: np.ndarray) -> records.FrontierCurve:
    """The curve along lambda from 0 to three times its length (to 3 where it is 0)."""
    direction = lam if lam.any() else np.ones_like(lam)
    lams = np.linspace(0.0, 3.0, CURVE_POINTS)[:, None] * direction
    given = {**table.given, "exposure": table.exposure}
    line = frontier(table.rewards, table.utilities, beta=beta, lams=lams, **given)
    levels = means_of(table, prompt_references(table.utilities, table.mask))
    levels = levels + table.shares * np.nan_to_num(margins)
    return records.FrontierCurve(
        lams=lams,
        margins=np.asarray(line.margins),
        margin_errors=np.asarray(line.margin_errors),
        reward=np.asarray(line.expected_reward),
        kl=np.asarray(line.kl),
        objective=np.asarray(line.value) - lams @ levels,  # asked for nothing: margin 0
    )


def _prompts(table: Table, gains: np.ndarray) -> dict[str, records.PromptMargins]:
    """By constraint: quartiles of the prompts' margins, and the prompts that lift and hold back the most.

    Only prompts that carry the constraint are counted, in the units of what is asked of them.
    """
    shown = {}
    for j, name in enumerate(table.names):
        own, rows = gains[:, j], np.arange(len(gains))
        if table.exposure is not None:
            rows = np.flatnonzero(table.exposure[:, j] > 0)
            own = per_exposure(own, table.exposure[:, j])[rows]
        order = np.argsort(own, kind="stable")

        tenth = order[::-1][: max(1, len(order) // 10)]
        total = float(own.sum())
        shown[name] = records.PromptMargins(
            quartiles=tuple(np.quantile(own, [0, 0.25, 0.5, 0.75, 1]).tolist()),
            least=_listed(table, rows, own, order[:_SHOWN_PROMPTS]),
            most=_listed(table, rows, own, order[::-1][:_SHOWN_PROMPTS]),
            share_of_top_tenth=float(own[tenth].sum() / total) if total > 0 else None,
        )
    return shown


def _listed(
    table: Table, rows: np.ndarray, margins: np.ndarray, places: np.ndarray
) -> tuple[records.PromptMargin, ...]:
    return tuple(records.PromptMargin(table.ids[int(rows[i])], float(margins[i])) for i in places)


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
