"""The dual solved anew on resampled prompts and redrawn calibrations, each from the answer of all prompts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, checked, on_host
from alignjax.dual.bias import Extrapolated, extrapolate
from alignjax.dual.newton import Scaled, is_solved, newton, reweighted, scale
from alignjax.dual.samples import Samples, sum_constraints, summarise_prompts
from alignjax.dual.solver import prepare


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
        corrected = better.shifted(found, weights)
    solved = is_solved(end)
    return Resolved(jnp.where(solved, found, jnp.inf), jnp.where(solved, corrected, jnp.inf), solved)


def resolve(
    rewards: ArrayLike,
    utilities: ArrayLike,
    lam: ArrayLike,
    *,
    beta: float,
    margins: ArrayLike,
    weights: np.ndarray,
    matrices: np.ndarray | None = None,
    correct_bias: bool = False,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
) -> tuple[Resolved, Extrapolated | None]:
    """Solves the dual on R resamples, each with its own weights of the prompts and its own calibration.

    Args:
      rewards: [N, K] float.
      utilities: [N, K, m] float.
      lam: [m], the solution on all prompts.
      beta: KL weight > 0.
      margins: [m], asked; the same on every resample.
      weights: [R, N], each row sums to 1.
      matrices: [R, 1 + m, 1 + m], what each resample applies to the scores, the reward first; None: nothing.
      correct_bias: also correct for finite K; the correction is that of the scores as given.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, of the correction; None: equal.

    Returns:
      The resamples' multipliers, in float64, and the estimates of all prompts extrapolated to many samples a
      prompt (None without `correct_bias`).
    """
    inputs = Inputs(rewards, utilities, mask, prompt_weights, None, {"margins": margins, "lam": lam})
    inputs = checked(inputs, "dual.answer")
    with on_host():
        drawn = np.asarray(weights, np.float64), None if matrices is None else np.asarray(matrices)
        return jax.tree.map(np.asarray, _resolve_jit(inputs, beta, *drawn, correct_bias))


def _resolve(
    inputs: Inputs, beta: float, weights: Array, matrices: Array | None, correct_bias: bool
) -> tuple[Resolved, Extrapolated | None]:
    lam = inputs.vectors["lam"]
    ready = prepare(inputs, beta, "dual.answer")
    better = extrapolate(lam, ready) if correct_bias else None

    def one(draw: tuple[Array, Array | None]) -> Resolved:
        row, matrix = draw
        problem = ready.problem
        if matrix is not None:
            samples = _calibrated(ready.samples, matrix)
            summary = summarise_prompts(samples, lam.dtype)
            problem = scale(samples, summary, ready.margins, ready.beta)
        return solve_again(reweighted(problem, row, ready.margins), lam, better)

    return jax.lax.map(one, (weights, matrices)), better


def _calibrated(samples: Samples, matrix: Array) -> Samples:
    """Samples whose scores, the reward first, went through `matrix` [1 + m, 1 + m]."""
    scores = [x.astype(matrix.dtype) for x in (samples.rewards, *samples.utilities)]
    rows = [sum_constraints(row, scores) for row in matrix]
    return samples._replace(rewards=rows[0], utilities=jnp.stack(rows[1:]), prompt_weights=None)


_resolve_jit = jax.jit(_resolve, static_argnums=4)
