"""Solves the dual: jaxopt's L-BFGS-B into the neighbourhood of the minimum, Newton steps to its end."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, margins_or_levels, on_host
from alignjax.dual.newton import (
    Minimum,
    Scaled,
    describe,
    evaluate,
    first_tau,
    is_solved,
    last_step,
    newton,
    projected_error,
    scale,
    thinned,
    tolerances,
)
from alignjax.dual.samples import Samples, Summary, check_vector, gather, over_prompts, summarise_prompts
from alignjax.errors import InputError

_LBFGS_PROMPTS = 128  # it works on this many, evenly spread: its end is a start for Newton on all of them
_LBFGS_ITERATIONS = 12
_LBFGS_TOLERANCE = 1e-2  # of the projected gradient in scaled units; Newton converges from there
_LBFGS_BOUND = 30.0  # a minimum further out, or none at all, is left to Newton


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
      iterations: [] int, of both methods together.
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
        return jax.tree.map(np.asarray, solve_jit(inputs, beta))


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
        return jax.tree.map(np.asarray, _reachable_jit(inputs, np.dtype(np.float64)))


def margins_from_fraction(fraction: ArrayLike, most: ArrayLike) -> np.ndarray:
    """Margins asked as a share of what is reachable.

    Args:
      fraction: [m] or [] float, strictly between 0 and 1.
      most: [m] float, of `reachable`.

    Returns:
      [m] float64, fraction * most.

    Raises:
      InputError: a fraction outside (0, 1).
    """
    share = np.asarray(fraction, np.float64)
    if not ((share > 0) & (share < 1)).all():
        raise InputError(
            f"fraction is {share.tolist()}, must lie between 0 and 1: a share of what can be reached."
        )
    return share * np.asarray(most, np.float64)


def solve_samples(inputs: Inputs, beta: float | Array) -> Solution:
    """`solve` on inputs of one float type, without a look at their values; for use inside jit."""
    ready = prepare(inputs, beta, "dual.solve")
    start = inputs.vectors.get("start")
    first = jnp.zeros_like(ready.margins) if start is None else start / ready.problem.unit
    near, iterations = neighbourhood(ready.problem, first)
    solution, _ = finish(ready, near)
    return solution._replace(iterations=solution.iterations + iterations)


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
    given = jnp.asarray(margins if levels is None else levels)
    samples = gather(*inputs[:5], kind=given.dtype, where=where)
    check_vector(given, samples, "margins" if levels is None else "levels", where)
    summary = summarise_prompts(samples, given.dtype)
    reference = over_prompts(summary.mean[1:], samples)
    margins, levels = (given, given + reference) if levels is None else (given - reference, given)
    kl_weight = jnp.asarray(beta).astype(given.dtype)
    return Prepared(samples, summary, margins, levels, kl_weight, scale(samples, summary, margins, kl_weight))


def finish(ready: Prepared, start: Array, tau: Array | None = None) -> tuple[Solution, Minimum]:
    """Newton steps from `start` [m], scaled, and everything that the policy at their end has.

    The summary needs a pass over the table, and its gradient shows how good the last step was; so that step
    is taken without an evaluation of its own, and where it was not good enough the iteration goes on.

    Args:
      ready: the problem.
      start: [m] float >= 0.
      tau: [], the temperature to begin at, as for `newton`.

    Returns:
      The solution, and the same in scaled units: value and gradient there, the Hessian of a point nearby.
    """
    tight, loose = tolerances(start.dtype)
    first = newton(ready.problem, start, tolerance=loose, tau=tau)
    stepped = first._replace(point=last_step(first))

    def again(state: tuple[Solution, Minimum]) -> tuple[Solution, Minimum]:
        found = newton(ready.problem, state[1].point)
        return summarise(ready, found._replace(iterations=found.iterations + state[1].iterations))

    solution, end = summarise(ready, stepped)
    enough = first.certified | (solution.error <= tight)
    return jax.lax.cond(enough, lambda state: state, again, (solution, end))


def summarise(ready: Prepared, found: Minimum) -> tuple[Solution, Minimum]:
    """Everything that the tilted policy at a point has, in the units of the scores.

    Args:
      ready: the problem.
      found: the point, and whether it is a proof that there is no minimum.

    Returns:
      The solution, and `found` with the value, gradient and error at its point.
    """
    samples, summary, margins, levels, beta, problem = ready
    columns = describe(found.point, problem.samples, problem.tau)
    means = over_prompts(columns, samples)
    lam, big = found.point * problem.unit, beta / problem.tau
    gained = means[4:] * problem.spread
    gradient = gained - margins
    reference = over_prompts(summary.mean, samples)
    scaled = gradient / problem.spread
    value = problem.tau * means[0] - jnp.dot(found.point, problem.margins)
    error = jnp.where(found.certified, found.error, projected_error(found.point, scaled))
    found = found._replace(error=error, at=found.at._replace(value=value, gradient=scaled))
    solution = Solution(
        lam,
        beta * means[0] + reference[0] - jnp.dot(lam, margins),
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


def neighbourhood(problem: Scaled, start: Array) -> tuple[Array, Array]:
    """L-BFGS-B on some of the prompts, at a temperature where f is smooth.

    Args:
      problem: scaled.
      start: [m] float >= 0, scaled.

    Returns:
      Where it ended, or `start` where it failed, [m], and the iterations, [] int32.
    """
    tau = first_tau(problem)
    some = thinned(problem, _LBFGS_PROMPTS)

    def value_and_grad(point: Array) -> tuple[Array, Array]:
        at = evaluate(point, some, tau)
        return at.value, at.gradient

    solver = jaxopt.LBFGSB(
        value_and_grad,
        value_and_grad=True,
        maxiter=_LBFGS_ITERATIONS,
        tol=_LBFGS_TOLERANCE,
        linesearch="zoom",
        maxls=8,
        history_size=4,
        implicit_diff=False,
    )
    bounds = (jnp.zeros_like(start), jnp.full_like(start, _LBFGS_BOUND))
    # jaxopt mixes ranks and types in its line search.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        point, state = solver.run(start, bounds=bounds)
    before, after = evaluate(start, some, tau).value, jnp.asarray(state.value)
    better = jnp.all(jnp.isfinite(point)) & (after <= before) & jnp.all(point < _LBFGS_BOUND)
    return jnp.where(better, point, start), jnp.asarray(state.iter_num).astype(jnp.int32)


def _reachable(inputs: Inputs, kind: DTypeLike) -> Array:
    samples = gather(*inputs[:5], kind=kind, where="dual.reachable")
    return over_prompts(summarise_prompts(samples, kind).top[1:], samples)


solve_jit = jax.jit(solve_samples)
_reachable_jit = jax.jit(_reachable, static_argnums=1)
