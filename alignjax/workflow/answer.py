"""What the dual says of a score table: the multiplier, what it brings, how surely, and how near the limit."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import dual
from alignjax.dual import Asked, Bias, Bounds, Conservative, Interval, Prompts, Reach, Solution
from alignjax.errors import InfeasibleError
from alignjax.report.figures import Curve
from alignjax.scores.table import ScoreTable

NEAR_LIMIT = 0.9  # of the largest multiple that can be met; above it lambda and its interval grow fast
_CURVE_POINTS = 61
CORRECTED_FROM = 8  # samples a prompt; of fewer, halves and quarters say nothing of what many would show
_SHOWN_PROMPTS = 3


class Answer(NamedTuple):
    """All that was computed of one table.

    Attributes:
      table: the scores.
      asked: what was asked of each constraint.
      margins: [m] float64, the same as margins.
      beta: KL weight.
      confidence: of intervals and guard.
      solution: of the dual, of the raised margins where it is conservative.
      reach: the largest multiple of the margins that can be met together.
      conservative: the guard, where one was asked for.
      interval: bootstrap intervals; None where infeasible or none were asked for.
      bias: of finite K; likewise.
      prompts: what the tilted policy has on each prompt.
    """

    table: ScoreTable
    asked: Sequence[Asked]
    margins: np.ndarray
    beta: float
    confidence: float
    solution: Solution
    reach: Reach
    conservative: Conservative | None
    interval: Interval | None
    bias: Bias | None
    prompts: Prompts


def answer(
    table: ScoreTable,
    asked: Sequence[Asked],
    *,
    beta: float,
    confidence: float = 0.95,
    conservative: bool = False,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Answer:
    """Solves the dual on a table.

    Args:
      table: the scores.
      asked: one for each constraint.
      beta: KL weight > 0.
      confidence: of the intervals, and of the margins where `conservative`.
      conservative: solve for the lower confidence bounds of the margins.
      num_resamples: of the bootstrap; 0: no intervals.
      seed: of the bootstrap.

    Returns:
      The answer, feasible or not.

    Raises:
      InputError: values that cannot be used.
    """
    rewards, utilities, mask = table.rewards, table.utilities, table.mask
    margins = dual.asked_margins(asked, utilities, mask=mask)
    reach = dual.reachable_along(utilities, margins, mask=mask)
    guarded = interval = bias = None
    if conservative:
        guarded = dual.solve_conservative(
            rewards, utilities, beta=beta, margins=margins, confidence=confidence, mask=mask
        )
        solution, raised = guarded.solution, guarded.asked + guarded.guard
    else:
        solution, raised = dual.solve(rewards, utilities, beta=beta, margins=margins, mask=mask), margins
    if bool(solution.feasible) and num_resamples:
        given: dict[str, Any] = {"beta": beta, "margins": raised, "mask": mask}
        resampling: dict[str, Any] = {"num_resamples": num_resamples, "confidence": confidence}
        resampling["correct_bias"] = rewards.shape[1] >= CORRECTED_FROM
        interval = dual.bootstrap(jax.random.key(seed), rewards, utilities, **given, **resampling)
        if rewards.shape[1] > 1:
            bias = dual.finite_sample_bias(rewards, utilities, **given)
    prompts = dual.by_prompt(solution.lam, rewards, utilities, beta=beta, mask=mask)
    return Answer(table, asked, margins, beta, confidence, solution, reach, guarded, interval, bias, prompts)


def require_answer(found: Answer) -> None:
    """Refuses an answer whose margins are not met.

    Raises:
      InfeasibleError: the margins cannot be met on these samples, on average or with the confidence; the
        message names the most that can.
    """
    table, guarded = found.table, found.conservative
    if guarded is not None and not found.solution.feasible and found.reach.multiple > 1:
        most = np.asarray(dual.reachable(table.utilities, table.mask))
        shown = "; ".join(
            f"{name}: asked {b:.6g}, raised to {b + more:.6g}, the largest is {top:.6g}"
            for name, b, more, top in zip(table.names, found.margins, guarded.guard, most, strict=True)
        )
        raise InfeasibleError(
            f"constraints: the margins can be met on average but not with confidence {found.confidence:g} "
            f"({shown}); ask for less, lower the confidence, or sample more prompts."
        )
    dual.require_feasible(table.names, found.solution, found.margins, table.utilities, mask=table.mask)


def record(found: Answer) -> dict[str, Any]:
    """The answer as one JSON value; where the margins cannot be met, what the policy would have is None."""
    table, solution = found.table, found.solution
    feasible = bool(solution.feasible)
    ess = np.asarray(solution.ess)

    def named(values: Any) -> dict[str, float]:
        return _named(table.names, values)

    value: dict[str, Any] = {
        "names": list(table.names),
        "num_prompts": table.rewards.shape[0],
        "num_samples": int(table.rewards.size if table.mask is None else table.mask.sum()),
        "beta": found.beta,
        "confidence": found.confidence,
        "asked": {
            name: {**one._asdict(), "margin": float(margin)}
            for name, one, margin in zip(table.names, found.asked, found.margins, strict=True)
        },
        "reference": {
            "reward": float(dual.reference_means(table.rewards, table.mask)),
            "utilities": named(dual.reference_means(table.utilities, table.mask)),
        },
        "reachable": named(dual.reachable(table.utilities, table.mask)),
        "multiple": found.reach.multiple if math.isfinite(found.reach.multiple) else None,
        "feasible": feasible,
        "certificate": named(solution.certificate) if np.any(solution.certificate) else None,
        "conservative": None,
        "iterations": int(solution.iterations),
        "error": float(solution.error),
    }
    if found.conservative is not None:
        value["conservative"] = {
            "guard": named(found.conservative.guard),
            "low": named(found.conservative.low) if feasible else None,
        }
    for name in ("lam", "margins", "utilities", "reward", "kl", "objective", "ess", "saturated"):
        value[name] = None
    value |= {"intervals": None, "bias": None, "prompts": None, "warnings": []}
    if not feasible:
        return value
    return value | {
        "lam": named(solution.lam),
        "margins": named(solution.margins),
        "utilities": named(solution.expected_utilities),
        "reward": float(solution.expected_reward),
        "kl": float(solution.kl),
        "objective": float(solution.objective),
        "ess": {"median": float(np.median(ess)), "least": float(ess.min())},
        "saturated": float(np.mean(ess < dual.SATURATED)),
        "intervals": _intervals(found),
        "bias": _bias(found),
        "prompts": _prompts(found),
        "warnings": warnings(found),
    }


def warnings(found: Answer) -> list[str]:
    """What a reader should know before believing a feasible answer, with numbers."""
    said = []
    ess = np.asarray(found.solution.ess)
    saturated = float(np.mean(ess < dual.SATURATED))
    if saturated > 0:
        said.append(
            f"{saturated:.3g} of the prompts have fewer than {dual.SATURATED:g} effective samples (least "
            f"{ess.min():.2g}): there the estimate is saturated; draw more samples or raise beta."
        )
    share = 1 / found.reach.multiple
    if share > NEAR_LIMIT:
        said.append(
            f"What is asked is {share:.4g} of the most that can be met on these samples: lambda is at the "
            "edge and moves much with the sample; ask for less."
        )
    if found.interval is not None and found.interval.feasible_share < 0.95:
        said.append(
            f"On {1 - float(found.interval.feasible_share):.3g} of the resamples the margins cannot be met."
        )
    return said


def curve(found: Answer) -> tuple[Curve, np.ndarray]:
    """What is predicted along the ray through lambda*, and the standard errors of its margins [P, m]."""
    table, lam = found.table, np.asarray(found.solution.lam)
    direction = lam if lam.any() else np.ones_like(lam)
    lams = np.linspace(0.0, 3.0, _CURVE_POINTS)[:, None] * direction
    line = dual.frontier(table.rewards, table.utilities, beta=found.beta, lams=lams, mask=table.mask)
    levels = dual.reference_means(table.utilities, table.mask) + found.margins
    objective = np.asarray(line.value) - lams @ levels
    margins, reward, kl = (np.asarray(a) for a in (line.margins, line.expected_reward, line.kl))
    return Curve(lams, margins, reward, kl, objective), np.asarray(line.margin_errors)


def _named(names: Sequence[str], values: Any) -> dict[str, Any]:
    return dict(zip(names, np.asarray(values).tolist(), strict=True))


def _intervals(found: Answer) -> dict[str, Any] | None:
    if found.interval is None:
        return None

    def end(value: Any) -> float | None:
        # Infinite where that many resamples are infeasible: no number to write.
        return float(value) if math.isfinite(value) else None

    def ends(bounds: Bounds) -> Any:
        low, high = np.asarray(bounds.low), np.asarray(bounds.high)
        if low.ndim == 0:
            return {"low": end(low), "high": end(high)}
        rows = zip(found.table.names, low, high, strict=True)
        return {name: {"low": end(a), "high": end(b)} for name, a, b in rows}

    shown = {name: ends(getattr(found.interval, name)) for name in ("lam", "margins", "reward", "kl")}
    return shown | {
        "feasible_share": float(found.interval.feasible_share),
        "bias_corrected": found.table.rewards.shape[1] >= CORRECTED_FROM,
    }


def _bias(found: Answer) -> dict[str, Any] | None:
    if found.bias is None:
        return None
    names, bias = found.table.names, found.bias
    lam = _named(names, bias.lam) if np.isfinite(bias.lam).all() else None
    return {
        "lam": lam,
        "margins": _named(names, bias.margins),
        "reward": float(bias.reward),
        "kl": float(bias.kl),
    }


def _prompts(found: Answer) -> dict[str, Any]:
    """By constraint: quartiles of the prompts' margins, and the prompts that lift and hold back the most."""
    ids = found.table.prompt_ids or tuple(range(len(found.table.rewards)))
    shown = {}
    for j, name in enumerate(found.table.names):
        margins = np.asarray(found.prompts.margins)[:, j]
        order = np.argsort(margins, kind="stable")
        least, most = order[:_SHOWN_PROMPTS], order[::-1][:_SHOWN_PROMPTS]
        tenth = order[::-1][: max(1, len(order) // 10)]
        total = float(margins.sum())
        shown[name] = {
            "quartiles": np.quantile(margins, [0, 0.25, 0.5, 0.75, 1]).tolist(),
            "least": [[ids[i], float(margins[i])] for i in least],
            "most": [[ids[i], float(margins[i])] for i in most],
            "share_of_top_tenth": float(margins[tenth].sum() / total) if total > 0 else None,
        }
    return shown
