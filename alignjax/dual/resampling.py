"""The dual solved anew on resampled prompts and redrawn calibrations, each from the answer of all prompts."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, checked, on_host
from alignjax.dual.bias import Extrapolated, extrapolate, joined, shuffle_key
from alignjax.dual.dual_function import assemble, prompt_moments
from alignjax.dual.newton import Scaled, is_solved, newton, reweighted, scale
from alignjax.dual.plain import Array, module_of, on_all_cores
from alignjax.dual.samples import Samples, over_prompts, sum_constraints, summarise_prompts
from alignjax.dual.solver import margin_of_level, prepare, rebased

_ENOUGH = 1e-7  # projected gradient of a resample's solution; resamples of N prompts differ by 1 / sqrt(N)


class Resolved(NamedTuple):
    """The multiplier of one resample, or of R of them with R as the first axis.

    Attributes:
      lam: [m]; infinite where the margins cannot be met.
      corrected: [m], without the bias of finite K to first order; as `lam` where no correction is given.
      solved: [] bool, True where the margins can be met.
    """

    lam: Array
    corrected: Array
    solved: Array


class Wanted(NamedTuple):
    """What is asked of the constraints, ready to be asked of other weights of the prompts.

    Attributes:
      values: [m], margins, or levels where `by_level`.
      by_level: [m] bool.
      exposure: [m, N] float >= 0, how much of what is asked each prompt carries; None: 1.
    """

    values: Any
    by_level: Any
    exposure: Any = None

    def margins(self, prompt_weights: Array, reference: Array) -> Array:
        """The margins [m] of a resample.

            (sum_i w_i e_ij) b_j,     or   (sum_i w_i e_ij) c_j - sum_i w_i ref_ij   where a level is asked

        Args:
          prompt_weights: [N], w, sums to 1.
          reference: [m, N], mean utilities of the reference, in this resample's calibration.
        """
        asked = self.values if self.exposure is None else self.values * (self.exposure @ prompt_weights)
        xp = module_of(self, prompt_weights, reference)
        return xp.where(self.by_level, margin_of_level(asked, reference @ prompt_weights), asked)


def solve_again(
    problem: Scaled, lam: Array, better: Extrapolated | None, moments: Array | None = None
) -> Resolved:
    """Solves a problem that differs a little from one whose solution is known.

    Args:
      problem: scaled, with the resample's weights of the prompts.
      lam: [m], the known solution.
      better: the correction for finite K at the known solution; None: none.
      moments: of `prompt_moments` at the known solution, which do not depend on the weights; None: not known.
    """
    xp, start, at = module_of(problem, lam), lam / problem.unit, None
    if moments is not None:
        at = assemble(start, over_prompts(moments, problem.samples), problem.margins, problem.tau)
    end = newton(problem, start, tau=None if at is None else problem.tau, at=at, enough=_ENOUGH)
    found = corrected = end.point * problem.unit
    weights = problem.samples.prompt_weights
    if better is not None and weights is not None:
        corrected = better.shifted(found, end.at.gradient * problem.spread, weights)
    solved = is_solved(end)
    return Resolved(xp.where(solved, found, xp.inf), xp.where(solved, corrected, xp.inf), solved)


def resolve(
    rewards: ArrayLike,
    utilities: ArrayLike,
    lam: ArrayLike,
    *,
    beta: float,
    asked: ArrayLike,
    weights: np.ndarray,
    by_level: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
    features: ArrayLike | None = None,
    matrices: np.ndarray | None = None,
    correct_bias: bool = False,
    seed: int = 0,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
) -> tuple[Resolved, Extrapolated | None]:
    """Solves the dual on R resamples, each with its own weights of the prompts and its own calibration.

    Args:
      rewards: [N, K] float.
      utilities: [N, K, m] float.
      lam: [m], the solution on all prompts.
      beta: KL weight > 0.
      asked: [m], margins; levels where `by_level`, whose margin is counted from each resample's reference.
      weights: [R, N], each row sums to 1.
      by_level: [m] bool; None: none is.
      exposure: [N, m] float >= 0, as in `dual.answer`; None: 1.
      features: [N, K, F] float, further columns of the calibrations; None: none.
      matrices: [R, 1 + m, 1 + m + F], what each resample applies to the scores, the reward first, and the
        features after them; None: nothing.
      correct_bias: also correct for finite K; the correction is that of the scores as given.
      seed: of the shuffle that the correction takes halves and quarters from.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, of the correction; None: equal.

    Returns:
      The resamples' multipliers, in float64, and the estimates of all prompts extrapolated to many samples a
      prompt (None without `correct_bias`).
    """
    inputs = Inputs(rewards, utilities, mask, prompt_weights, None, {"margins": asked, "lam": lam})
    inputs = checked(inputs, "dual.answer")
    with on_host():
        values = inputs.vectors["margins"]
        levels = np.zeros(values.size, bool) if by_level is None else np.asarray(by_level, bool)
        carried = None if exposure is None else np.asarray(exposure, np.float64).T
        columns = None if features is None else np.asarray(features, np.float64)
        draws = (
            np.asarray(weights, np.float64),
            None if matrices is None else np.asarray(matrices, np.float64),
        )
        key = shuffle_key(seed) if correct_bias else None
        return _resolve(inputs, beta, Wanted(values, levels, carried), *draws, columns, key)


def _resolve(
    inputs: Inputs,
    beta: float,
    wanted: Wanted,
    weights: np.ndarray,
    matrices: np.ndarray | None,
    features: np.ndarray | None,
    key: Array | None,
) -> tuple[Resolved, Extrapolated | None]:
    """`resolve` on NumPy's arrays; with a key it corrects for finite K."""
    lam = inputs.vectors["lam"]
    ready = prepare(inputs, beta, "dual.answer")
    reference, outer = ready.summary.mean[1:], ready.samples.prompt_weights
    outer = np.full(reference.shape[1], 1 / reference.shape[1]) if outer is None else outer
    ready = rebased(ready, wanted.margins(outer, reference))
    better = None if key is None else extrapolate(lam, ready, key)
    problem, columns = ready.problem, joined(inputs, features, lam.dtype, "dual.answer")
    moments = prompt_moments(lam / problem.unit, problem.samples, problem.tau)

    def one(draw: int) -> Resolved:
        row = weights[draw]
        if matrices is None:
            again = reweighted(problem, row, wanted.margins(row, reference))
            return solve_again(again, lam, better, moments)
        samples = _calibrated(columns, matrices[draw])
        summary = summarise_prompts(samples, lam.dtype)
        margins = wanted.margins(row, summary.mean[1:])
        again = reweighted(scale(samples, summary, margins, ready.beta), row, margins)
        return solve_again(again, lam, better)

    found = on_all_cores(one, len(weights))
    return Resolved(*(np.stack(x) for x in zip(*found, strict=True))), better


def _calibrated(samples: Samples, matrix: np.ndarray) -> Samples:
    """Samples whose scores, the reward first, went through `matrix` [1 + m, 1 + m + F]."""
    scores = [x.astype(matrix.dtype) for x in (samples.rewards, *samples.utilities)]
    rows = [sum_constraints(row, scores) for row in matrix]
    return samples._replace(rewards=rows[0], utilities=np.stack(rows[1:]), prompt_weights=None)
