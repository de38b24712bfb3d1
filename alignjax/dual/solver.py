"""Solves the dual by projected Newton steps, which jaxopt repeats; `newton.py` has the steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, margins_or_levels, on_host
from alignjax.dual.newton import (
    Minimum,
    Scaled,
    describe,
    is_solved,
    newton,
    projected_error,
    reweighted,
    scale,
)
from alignjax.dual.plain import Array, module_of
from alignjax.dual.samples import Samples, Summary, check_vector, gather, over_prompts, summarise_prompts
from alignjax.errors import InputError


class Solution(NamedTuple):
    """The multiplier and what the tilted policy pi_lam has on the samples.

    Attributes:
      lam: [m] float, lam* >= 0. Infeasible: a finite multiplier far along the certificate.
      objective: [] float, D(lam), units of the rewards.
      gradient: [m] float, expected_utilities - levels; complementary to lam at the optimum.
      feasible: [] bool, True where pi_lam reaches the levels, to within `error`.
      certificate: [m] float >= 0, sums to 1: a direction d with mean_i max_k <d, g_ik> < <d, levels>, which
        proves that no policy on these samples reaches the levels; zeros where there is none. A problem within
        rounding of the boundary can be neither solved nor refuted: then feasible is False and the certificate
        0.
      expected_reward: [] float, E_x E_{pi_lam} r.
      expected_utilities: [m] float, E_x E_{pi_lam} g.
      margins: [m] float, expected_utilities minus those of the reference.
      kl: [] float, E_x KL(pi_lam || reference), nats.
      ess: [N] float, effective samples of each prompt, 1 / sum_k w_ik^2; near 1 the estimate is saturated.
      iterations: [] int, evaluations of the dual function.
      error: [] float, largest entry of the projected gradient at lam, each relative to the spread of its
        utility within prompts. nan, with feasible False, where a traced call was given a score that is no
        number.
    """

    lam: Array
    objective: Array
    gradient: Array
    feasible: Array
    certificate: Array
    expected_reward: Array
    expected_utilities: Array
    margins: Array
    kl: Array
    ess: Array
    iterations: Array
    error: Array


def solve(
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    beta: float | Array,
    margins: ArrayLike | None = None,
    levels: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
    start: ArrayLike | None = None,
) -> Solution:
    """Minimises the dual over lam >= 0, or proves that no policy on the samples reaches the levels.

        lam* = argmin_{lam >= 0} D(lam),   levels = margins + E_ref[g]

    Called plainly it checks the values and works in float64 on the host's CPU, whatever the type of the
    scores, and returns float64 numpy arrays. Inside a caller's jit or vmap it keeps the caller's type; the
    error it can reach is then about 1e-12 in float64 and 1e-6 in float32, which cannot resolve a beta below
    1e-4 of the spread of the rewards. The iteration ends where the
    projected gradient, relative to the spread of the utilities, is below that, or where rounding allows no
    progress.

    Args:
      rewards: [N, K] float, r; K reference samples of each of N prompts.
      utilities: [N, K, m] float, g; higher is safer.
      beta: KL weight > 0, in the units of `rewards` per nat.
      margins: [m] float, how much each mean utility must improve on the reference's. Exactly one of this and
        levels.
      levels: [m] float, the mean utility to reach.
      mask: [N, K] bool, True where a sample exists; at least one a row; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt; None: equal.
      importance: [N, K] float >= 0, pi_ref / q where q drew the samples, up to a factor a prompt; None:
        equal.
      start: [m] float >= 0, where to begin; None: 0.

    Returns:
      The solution.

    Raises:
      InputError: shapes; both or neither of margins and levels. Called plainly also nan or infinite scores,
        beta <= 0, negative weights, a prompt without samples.

    Reference: Huang et al. 2024, arXiv 2405.19544, the dual function and the optimal policy.
    """
    vectors = margins_or_levels(margins, levels, "dual.solve") | {"start": start}
    inputs = Inputs(rewards, utilities, mask, prompt_weights, importance, vectors)
    if is_traced(inputs, beta):
        return solve_samples(floats(inputs), beta)
    inputs, beta = checked(inputs, "dual.solve"), check_beta(beta, "dual.solve")
    with on_host():
        return jax.tree.map(np.asarray, solve_samples(inputs, beta))


def reachable(
    utilities: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
) -> Array:
    """The largest margin of each constraint alone; what is above it is infeasible.

        mean_i max_k g_ik - mean_i mean_k g_ik

    Args:
      utilities: [N, K, m] float.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0; None: equal.
      importance: [N, K] float >= 0; None: equal.

    Returns:
      [m] float. Together less can be reached than alone: see `reachable_along`. Called plainly a float64
      numpy array; traced, the caller's type.

    Raises:
      InputError: shapes; called plainly also values, as in `solve`.
    """
    if jnp.ndim(utilities) != 3:
        raise InputError(f"dual.reachable: utilities has shape {jnp.shape(utilities)}, must be [N, K, m].")
    zeros = np.zeros(jnp.shape(utilities)[:2], np.float32)
    inputs = Inputs(zeros, utilities, mask, prompt_weights, importance)
    if is_traced(inputs):
        inputs = floats(inputs._replace(rewards=jnp.asarray(utilities)[..., 0]))
        return _reachable(inputs, inputs.rewards.dtype)
    inputs = checked(inputs, "dual.reachable")
    with on_host():
        return np.asarray(_reachable(inputs, np.dtype(np.float64)))


def margins_from_fraction(fraction: ArrayLike, most: ArrayLike) -> np.ndarray:
    """Margins asked as a share of another margin.

    Args:
      fraction: [m] or [] float, strictly between 0 and 1.
      most: [m] float, the margin of the safety-only tilt: `safety_only`.

    Returns:
      [m] float64, fraction * most.

    Raises:
      InputError: a fraction outside (0, 1).
    """
    share = np.asarray(fraction, np.float64)
    if not ((share > 0) & (share < 1)).all():
        raise InputError(
            f"fraction is {share.tolist()}, must lie between 0 and 1: a share of the margin that the "
            "tilt to safety alone has."
        )
    return share * np.asarray(most, np.float64)


def margin_of_level(level: ArrayLike, mean: ArrayLike) -> Any:
    """The margin that a level asks: level - mean, and 0 where that is no more than rounding.

    So the level of a utility that is the same everywhere can be met.

    Args:
      level: [m] or [] float, to reach.
      mean: the same shape and type, the reference's.

    Returns:
      The margins; of traced values a JAX array, else of NumPy.
    """
    xp = jnp if is_traced(level, mean) else np
    level, mean = xp.asarray(level), xp.asarray(mean)
    rounding = 8 * xp.finfo(mean.dtype).eps * xp.maximum(xp.abs(level), xp.abs(mean))
    return xp.where(xp.abs(level - mean) <= rounding, xp.zeros_like(mean), level - mean)


def solve_samples(inputs: Inputs, beta: float | Array) -> Solution:
    """`solve` on inputs of one float type, without a look at their values: inside jit, or NumPy's arrays."""
    ready = prepare(inputs, beta, "dual.solve")
    start = inputs.vectors.get("start")
    first = 0 * ready.margins if start is None else start / ready.problem.unit
    return summarise(ready, newton(ready.problem, first))[0]


class Prepared(NamedTuple):
    """A problem in both units: of the scores, and scaled.

    Attributes:
      samples: in the units of the scores.
      summary: the reference's scores of every prompt.
      margins: [m], levels: [m], beta: [], in one float type.
      problem: scaled.
    """

    samples: Samples
    summary: Summary
    margins: Array
    levels: Array
    beta: Array
    problem: Scaled


def prepare(inputs: Inputs, beta: float | Array, where: str) -> Prepared:
    """Brings inputs that hold margins or levels into the type of these; the scores stay as they are."""
    margins, levels = inputs.vectors.get("margins"), inputs.vectors.get("levels")
    xp = module_of(inputs, beta)
    given = xp.asarray(margins if levels is None else levels)
    samples = gather(*inputs[:5], kind=given.dtype, where=where)
    check_vector(given, samples, "margins" if levels is None else "levels", where)
    summary = summarise_prompts(samples, given.dtype)
    reference = over_prompts(summary.mean[1:], samples)
    if levels is None:
        margins, levels = given, given + reference
    else:
        margins, levels = margin_of_level(given, reference), given
    kl_weight = xp.asarray(beta).astype(given.dtype)
    return Prepared(samples, summary, margins, levels, kl_weight, scale(samples, summary, margins, kl_weight))


def rebased(ready: Prepared, margins: Array) -> Prepared:
    """The same problem with other margins [m]."""
    problem = reweighted(ready.problem, ready.samples.prompt_weights, margins)
    return ready._replace(margins=margins, levels=ready.levels - ready.margins + margins, problem=problem)


def summarise(ready: Prepared, found: Minimum) -> tuple[Solution, Minimum]:
    """Everything that the tilted policy at a point has, in the units of the scores.

    Args:
      ready: the problem.
      found: the point, and whether it is a proof that there is no minimum.

    Returns:
      The solution, and `found` with the value, gradient and error at its point.
    """
    samples, summary, margins, levels, beta, problem = ready
    xp = module_of(ready, found)
    columns = describe(found.point, problem.samples, problem.tau)
    means = over_prompts(columns, samples)
    lam, big = found.point * problem.unit, beta / problem.tau
    gained = means[4:] * problem.spread
    gradient = gained - margins
    reference = over_prompts(summary.mean, samples)
    scaled = gradient / problem.spread
    value = problem.tau * means[0] - found.point @ problem.margins
    error = xp.where(found.certified, found.error, projected_error(found.point, scaled))
    found = found._replace(error=error, at=found.at._replace(value=value, gradient=scaled))
    solution = Solution(
        lam,
        beta * means[0] + reference[0] - lam @ margins,
        gradient,
        is_solved(found),
        found.certificate,
        big * means[3] + reference[0],
        gained + reference[1:],
        gained,
        means[1],
        columns[2],
        found.iterations,
        error,
    )
    return solution, found


def _reachable(inputs: Inputs, kind: DTypeLike) -> Array:
    samples = gather(*inputs[:5], kind=kind, where="dual.reachable")
    return over_prompts(summarise_prompts(samples, kind).top[1:], samples)
