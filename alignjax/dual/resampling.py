"""The dual solved anew on resampled prompts and redrawn calibrations, each from the answer of all prompts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, checked, on_host
from alignjax.dual.bias import Extrapolated, extrapolate, joined, shuffle_key
from alignjax.dual.newton import Scaled, is_solved, newton, reweighted, scale
from alignjax.dual.samples import Samples, sum_constraints, summarise_prompts
from alignjax.dual.solver import margin_of_level, prepare, rebased


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
        return jnp.where(self.by_level, margin_of_level(asked, reference @ prompt_weights), asked)


def solve_again(problem: Scaled, lam: Array, better: Extrapolated | None) -> Resolved:
    """Solves a problem that differs a little from one whose solution is known.

    Args:
      problem: scaled, with the resample's weights of the prompts.
      lam: [m], the known solution.
      better: the correction for finite K at the known solution; None: none.
    """
    end = newton(problem, lam / problem.unit)
    found = corrected = end.point * problem.unit
    weights = problem.samples.prompt_weights
    if better is not None and weights is not None:
        corrected = better.shifted(found, end.at.gradient * problem.spread, weights)
    solved = is_solved(end)
    return Resolved(jnp.where(solved, found, jnp.inf), jnp.where(solved, corrected, jnp.inf), solved)


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
        wanted = Wanted(values, levels, carried)
        drawn = tuple(None if x is None else np.asarray(x, np.float64) for x in (weights, features, matrices))
        return jax.tree.map(
            np.asarray, _resolve_jit(inputs, beta, wanted, *drawn, shuffle_key(seed), correct_bias)
        )


def _resolve(
    inputs: Inputs,
    beta: float,
    wanted: Wanted,
    weights: Array,
    features: Array | None,
    matrices: Array | None,
    key: Array,
    correct_bias: bool,
) -> tuple[Resolved, Extrapolated | None]:
    lam = inputs.vectors["lam"]
    ready = prepare(inputs, beta, "dual.answer")
    reference, outer = ready.summary.mean[1:], ready.samples.prompt_weights
    outer = jnp.full(reference.shape[1], 1 / reference.shape[1], lam.dtype) if outer is None else outer
    ready = rebased(ready, wanted.margins(outer, reference))
    better = extrapolate(lam, ready, key) if correct_bias else None
    columns = joined(inputs, features, lam.dtype, "dual.answer")

    def one(draw: tuple[Array, Array | None]) -> Resolved:
        row, matrix = draw
        if matrix is None:
            again = reweighted(ready.problem, row, wanted.margins(row, reference))
            return solve_again(again, lam, better)
        samples = _calibrated(columns, matrix)
        summary = summarise_prompts(samples, lam.dtype)
        margins = wanted.margins(row, summary.mean[1:])
        return solve_again(
            reweighted(scale(samples, summary, margins, ready.beta), row, margins), lam, better
        )

    return jax.lax.map(one, (weights, matrices)), better


def _calibrated(samples: Samples, matrix: Array) -> Samples:
    """Samples whose scores, the reward first, went through `matrix` [1 + m, 1 + m + F]."""
    scores = [x.astype(matrix.dtype) for x in (samples.rewards, *samples.utilities)]
    rows = [sum_constraints(row, scores) for row in matrix]
    return samples._replace(rewards=rows[0], utilities=jnp.stack(rows[1:]), prompt_weights=None)


_resolve_jit = jax.jit(_resolve, static_argnums=7)
