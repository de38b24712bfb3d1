"""How much of what is asked of several constraints together can be met at all: exactly, with both proofs."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, checked, on_host
from alignjax.dual.samples import (
    Samples,
    by_chunks,
    gather,
    in_one_piece,
    loaded,
    over_prompts,
    spreads,
    sum_constraints,
    summarise_prompts,
)
from alignjax.errors import InputError

_MAX_CUTS = 400
_GAP = 1e-9  # relative, between what is proved and what is reached
_FAR = 1e4  # bound of the directions, in scaled units: keeps the first linear programs bounded


class Reach(NamedTuple):
    """The largest t such that some policy on the samples has margins of at least t b.

    Attributes:
      multiple: t, float; infinite where nothing above the reference is asked.
      certificate: [m] float >= 0, sums to 1: mean_i max_k <d, g_ik - E_ref g_i> = t <d, b>, so that nothing
        above t b can be met. Zeros where t is infinite.
      gap: what is proved beyond reach minus what a policy was found for, relative to t.
    """

    multiple: float
    certificate: np.ndarray
    gap: float


def reachable_along(
    utilities: ArrayLike,
    margins: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
) -> Reach:
    """The largest multiple of the asked margins that can be met together.

        t* = min over d >= 0 with <d, b> = 1 of  mean_i max_k <d, g_ik - E_ref g_i>

    which is the linear program max t with margins >= t b, dualised. Solved by cutting planes: the best
    response of every prompt to a direction d is a policy, and its margins are a cut. One pass over the table
    a cut. A multiple of 1 or more says that the margins can be met.

    Args:
      utilities: [N, K, m] float; higher is safer.
      margins: [m] float, b.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0; None: equal.
      importance: [N, K] float >= 0, as in `objective`: it moves the reference's means.

    Returns:
      The multiple with its certificate.

    Raises:
      InputError: shapes or values, as in `solve`.

    Reference: Kelley 1960 for the cutting planes; the recession function is Rockafellar 1970, section 8.
    """
    utilities = np.asarray(utilities)
    if utilities.ndim != 3:
        raise InputError(f"dual.reachable_along: utilities has shape {utilities.shape}, must be [N, K, m].")
    zeros = np.zeros(utilities.shape[:2], np.float32)
    inputs = Inputs(zeros, utilities, mask, prompt_weights, importance, {"margins": margins})
    inputs = checked(inputs, "dual.reachable_along")
    asked = inputs.vectors["margins"]
    if (asked <= 0).all():
        return Reach(float("inf"), np.zeros(len(asked)), 0.0)
    with on_host():
        return _cut(*_centred(inputs), asked)


def _cut(samples: Samples, spread: np.ndarray, asked: np.ndarray) -> Reach:
    """Cutting planes in scaled directions v = d s, over v >= 0 with <v, b / s> = max_j b_j / s_j."""
    b = asked / spread
    b = b / (unit := np.max(b))
    highest, direction, low = np.inf, np.zeros(len(b)), 0.0
    cuts: list[np.ndarray] = []
    points = [np.eye(len(b))[j] / b[j] for j in np.flatnonzero(b > 0)]
    while len(cuts) < _MAX_CUTS:
        for point in points:
            best = _best_responses(point, samples)  # [1 + m]: support value, margins / s
            cuts.append(best[1:])
            if best[0] < highest:
                highest, direction = float(best[0]), point
        if (size := len(b)) == 1:  # there is one direction, and what is proved along it is reached
            low = highest
            break
        master = scipy.optimize.linprog(
            [*np.zeros(size), 1.0],
            A_ub=np.column_stack([np.array(cuts), -np.ones(len(cuts))]),
            b_ub=np.zeros(len(cuts)),
            A_eq=[[*b, 0.0]],
            b_eq=[1.0],
            bounds=[(0, _FAR)] * size + [(None, None)],
        )
        low = max(low, float(master.fun))
        if highest - low <= _GAP * highest:
            break
        points = [np.maximum(master.x[:size], 0)]
    highest = highest if highest > 1e-12 else 0.0  # rounding: margins of 0 are always met
    certificate = direction / spread
    gap = 0.0 if highest == 0 else max(0.0, (highest - low) / highest)
    with np.errstate(over="ignore"):  # of a margin that is nearly 0, every multiple can be reached
        return Reach(float(highest / unit), certificate / certificate.sum(), gap)


def _best_responses(direction: np.ndarray, samples: Samples) -> np.ndarray:
    """Mean over prompts of max_k <v, h_k>, and of h at that response: [1 + m]."""

    def of(part: Samples) -> np.ndarray:
        _, g, base = loaded(part, direction.dtype)
        along = sum_constraints(direction, g)
        along = np.where(np.isneginf(base), -np.inf, along)
        best = np.argmax(along, axis=1)[:, None]
        return np.stack([np.take_along_axis(x, best, axis=1)[:, 0] for x in (along, *g)])

    return over_prompts(by_chunks(of, samples), samples)


def _centred(inputs: Inputs) -> tuple[Samples, np.ndarray]:
    """Samples that are read centred in each prompt and in units of their spread [m]."""
    kind = inputs.vectors["margins"].dtype
    samples = gather(*inputs[:5], kind=kind, where="dual.reachable_along")
    summary = summarise_prompts(samples, kind)
    spread, real = spreads(summary, samples)
    units = np.where(real, spread, 1.0)
    return in_one_piece(samples._replace(centres=summary.mean, units=units), kind), units[1:]
