"""What a reader should know before believing an answer, in sentences with numbers; and the refusal of one."""

import math

import numpy as np

from alignjax.dual.asked import refusal
from alignjax.dual.bias import QUARTERS_FROM
from alignjax.dual.curves import SATURATED
from alignjax.dual.gate import SHARE
from alignjax.dual.prediction import Shown, Table
from alignjax.errors import InfeasibleError
from alignjax.records.answer import DualAnswer, Gate

NEAR_LIMIT = 0.9  # of what can be met together; above it lambda and its interval grow fast
_RARELY_MET = 0.95  # share of the resamples; below it the margins are near what can be met


def remarks(
    table: Table, shown: Shown, gate: Gate | None, margins: np.ndarray, multiple: float, solved: bool
) -> tuple[str, ...]:
    """The warnings of a feasible answer.

    Args:
      table: the scores.
      shown: what was predicted.
      gate: of the tilt's forecast.
      margins: [m], asked; nan where nothing is.
      multiple: the largest multiple of the margins that can be met together.
      solved: False where the multiplier was given.
    """
    said = []
    if shown.predicted is None:
        return ()
    if gate is not None and not gate.open:
        said.append(closed(gate))
    said += _few_samples(table)
    ess = shown.predicted.ess
    if ess.saturated > SHARE:
        said.append(
            f"{ess.saturated:.1%} of the prompts have fewer than {SATURATED:g} effective samples (median "
            f"{ess.median:.3g}, least {ess.least:.3g}, of {ess.num_samples}): there one response has nearly "
            "all the weight; draw more samples or raise beta."
        )
    share = 1 / multiple if multiple > 0 else math.inf
    if solved and share > NEAR_LIMIT:
        said.append(
            f"What is asked is {share:.4g} of the most that can be met on these samples: lambda changes much "
            "with the sample; ask for less."
        )
    if shown.intervals is not None and shown.intervals.feasible_share < _RARELY_MET:
        said.append(
            f"On {1 - shown.intervals.feasible_share:.1%} of the resamples the margins cannot be met: they "
            "are near the most that these samples allow."
        )
    for name, margin in zip(table.names, margins, strict=True):
        reached = shown.predicted.margins[name].mean
        if not solved and reached < margin:
            said.append(
                f"The given multiplier reaches a margin of {reached:.4g} for {name}, {margin:.4g} is "
                "asked; give a larger one, or leave it out to solve for it."
            )
    return tuple(said)


def closed(gate: Gate) -> str:
    """Why the forecast of the tilted policy is not to be believed, and what would open the gate."""
    return (
        f"The forecast of the tilted policy cannot be believed: {'; '.join(gate.reasons)}. To open the gate, "
        f"{', or '.join(gate.remedies)}."
    )


def _few_samples(table: Table) -> list[str]:
    """What finite K keeps the bias from being estimated by."""
    counts = np.full(len(table.rewards), table.rewards.shape[1])
    counts = counts if table.mask is None else table.mask.sum(axis=1)
    alone = float(np.average(counts < 2, weights=table.weights))
    few = float(np.average(counts < QUARTERS_FROM, weights=table.weights))
    if alone > SHARE:
        return [
            f"{alone:.1%} of the prompts have a single response: the bias of finitely many samples cannot be "
            "estimated there and is not taken off; draw more."
        ]
    if few > SHARE:
        return [
            f"{few:.1%} of the prompts have fewer than {QUARTERS_FROM} responses: the bias of finitely many "
            "samples is taken from halves alone there, without quarters, and is rough."
        ]
    return []


def require_answer(answer: DualAnswer) -> None:
    """Refuses an answer whose margins are not met.

    Raises:
      InfeasibleError: the margins cannot be met on these samples, on average or with the confidence; the
        message names the most that can.
    """
    if answer.feasible:
        return
    margins = np.array([answer.asked[name].margin for name in answer.names], np.float64)
    most = np.array([answer.reachable[name] for name in answer.names])
    if answer.guard is not None:
        raise InfeasibleError(_guard_refusal(answer, margins, most))
    proof = answer.certificate or dict.fromkeys(answer.names, 0.0)
    direction = np.array([proof[name] for name in answer.names])
    multiple = answer.multiple if len(answer.names) > 1 else None
    together = answer.certificate_reachable or 0.0
    raise InfeasibleError(refusal(answer.names, margins, most, direction, together, multiple))


def _guard_refusal(answer: DualAnswer, margins: np.ndarray, most: np.ndarray) -> str:
    guard = answer.guard
    assert guard is not None
    if not guard.settled:
        return (
            "constraints: the margins can be met on average, but the guard for confidence "
            f"{guard.confidence:g} does not settle: what must be asked on top grows as fast "
            "as what is asked; draw more samples, raise beta, or ask for less."
        )
    raised = [b + guard.room[name] + guard.bias[name] for name, b in zip(answer.names, margins, strict=True)]
    shown = "; ".join(
        f"{name}: asked {b:.6g}, raised to {more:.6g}, the largest is {top:.6g}"
        for name, b, more, top in zip(answer.names, margins, raised, most, strict=True)
    )
    remedy = "ask for less, lower the confidence, or sample more prompts"
    if answer.gate is not None and not answer.gate.open:
        numbers = answer.gate.remedies if answer.gate.beta is not None else answer.gate.remedies[:1]
        remedy = f"{', or '.join(numbers)}, or {remedy}"
    return (
        f"constraints: the margins can be met on average but not with confidence {guard.confidence:g} "
        f"({shown}); {remedy}."
    )
