"""What every multiplier buys, which multiplier every margin costs, and what it does to every prompt."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, on_host
from alignjax.dual.dual_function import Derivatives
from alignjax.dual.newton import describe, evaluate, newton, newton_step
from alignjax.dual.plain import Array, module_of
from alignjax.dual.samples import gather, in_one_piece, over_prompts, standard_errors, summarise_prompts
from alignjax.dual.solver import Solution, prepare, rebased, solve_samples, summarise
from alignjax.errors import InputError

SATURATED = 2.0  # effective samples; below it one response has nearly all the weight of its prompt


class Frontier(NamedTuple):
    """What the tilted policy has on the samples, for P multipliers.

    Attributes:
      lams: [P, m] float, multipliers.
      margins: [P, m] float, mean utilities above the reference's; along a ray <lam, margins> never falls.
      margin_errors: [P, m] float, their standard errors over prompts.
      expected_reward: [P] float, E_x E_{pi_lam} r.
      expected_utilities: [P, m] float, E_x E_{pi_lam} g.
      kl: [P] float, E_x KL(pi_lam || reference), nats.
      value: [P] float, D(lam) + <lam, levels> = E r - beta KL + <lam, E g> under pi_lam, whatever the levels.
      ess: [P] float, mean effective samples of a prompt.
      saturated: [P] float, share of the prompts with fewer than 2 effective samples.
    """

    lams: Array
    margins: Array
    margin_errors: Array
    expected_reward: Array
    expected_utilities: Array
    kl: Array
    value: Array
    ess: Array
    saturated: Array


class Prompts(NamedTuple):
    """What the tilted policy has on every prompt.

    Attributes:
      reward: [N] float, E_{pi_lam} r.
      utilities: [N, m] float, E_{pi_lam} g.
      margins: [N, m] float, utilities minus those of the reference; a prompt's slack is this minus what is
        asked on average, and the prompts with the least carry the constraint.
      kl: [N] float, nats.
      ess: [N] float, effective samples, 1 / sum_k w_ik^2.
    """

    reward: Array
    utilities: Array
    margins: Array
    kl: Array
    ess: Array


def frontier(
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    beta: float | Array,
    lams: ArrayLike,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
) -> Frontier:
    """What pi_lam has for each of P multipliers; for m = 2 a grid of them gives the surface.

    Called plainly it works in float64 on the host's CPU; traced, in the type of the rewards.

    Args:
      rewards: [N, K] float.
      utilities: [N, K, m] float; higher is safer.
      beta: KL weight > 0, in the units of `rewards` per nat.
      lams: [P, m] float >= 0.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0; None: equal.
      importance: [N, K] float >= 0, as in `objective`.
      exposure: [N, m] float >= 0, as in `dual.answer`; margins and utilities are then those of the prompts
        that carry a constraint. None: 1.

    Returns:
      P points.

    Raises:
      InputError: shapes; called plainly also values, as in `solve`.
    """
    inputs = Inputs(rewards, utilities, mask, prompt_weights, importance, {"lams": lams})
    if is_traced(inputs, beta):
        return _frontier(floats(inputs), beta, None if exposure is None else jnp.asarray(exposure).T)
    inputs, beta = checked(inputs, "dual.frontier"), check_beta(beta, "dual.frontier")
    with on_host():
        carried = None if exposure is None else np.asarray(exposure, np.float64).T
        return jax.tree.map(np.asarray, _frontier(inputs, beta, carried))


def sweep(
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    beta: float | Array,
    margins: ArrayLike,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
) -> Solution:
    """Solves the dual for each of P margins: the inverse of `frontier`.

    Every problem begins where the one before it ended, so margins in order along a line are the quickest.

    Args:
      rewards: [N, K] float.
      utilities: [N, K, m] float; higher is safer.
      beta: KL weight > 0, in the units of `rewards` per nat.
      margins: [P, m] float.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0; None: equal.
      importance: [N, K] float >= 0, as in `objective`.

    Returns:
      P solutions, the points first in every array: lam [P, m], feasible [P], ess [P, N].

    Raises:
      InputError: shapes; called plainly also values, as in `solve`.
    """
    inputs = Inputs(rewards, utilities, mask, prompt_weights, importance, {"sweep": margins})
    if is_traced(inputs, beta):
        inputs = floats(inputs)
        first = _with_margins(inputs, _points(inputs)[0])
        return _sweep(inputs, beta, solve_samples(first, beta).lam)
    inputs, beta = checked(inputs, "dual.sweep"), check_beta(beta, "dual.sweep")
    with on_host():
        first = _with_margins(inputs, _points(inputs)[0])
        return jax.tree.map(np.asarray, _sweep_jit(inputs, beta, solve_samples(first, beta).lam))


def by_prompt(
    lam: ArrayLike,
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    beta: float | Array,
    mask: ArrayLike | None = None,
    importance: ArrayLike | None = None,
) -> Prompts:
    """What pi_lam has on each prompt alone.

    Args:
      lam: [m] float >= 0.
      rewards: [N, K] float.
      utilities: [N, K, m] float.
      beta: KL weight > 0, in the units of `rewards` per nat.
      mask: [N, K] bool, True where a sample exists; None: all.
      importance: [N, K] float >= 0, as in `objective`.

    Raises:
      InputError: shapes; called plainly also values, as in `solve`.
    """
    inputs = Inputs(rewards, utilities, mask, None, importance, {"lam": lam})
    if is_traced(inputs, beta):
        return _by_prompt(floats(inputs), beta)
    inputs, beta = checked(inputs, "dual.by_prompt"), check_beta(beta, "dual.by_prompt")
    with on_host():
        return jax.tree.map(np.asarray, _by_prompt(inputs, beta))


def _frontier(inputs: Inputs, beta: float | Array, exposure: Array | None) -> Frontier:
    xp = module_of(inputs, beta, exposure)
    lams = xp.asarray(inputs.vectors["lams"])
    samples = gather(*inputs[:5], kind=lams.dtype, where="dual.frontier")
    m = samples.utilities.shape[0]
    if lams.ndim != 2 or lams.shape[1] != m:
        raise InputError(f"dual.frontier: lams has shape {lams.shape}, must be (points, {m}).")
    kl_weight = xp.asarray(beta).astype(lams.dtype)
    reference = summarise_prompts(samples, lams.dtype).mean[1:]
    samples = in_one_piece(samples, lams.dtype)

    def at(lam: Array) -> tuple[Array, Array]:
        columns = describe(lam, samples, kl_weight)
        gained = columns[4:] - reference
        saturated = (columns[2] < SATURATED).astype(lams.dtype)
        columns = xp.concatenate([columns, gained, saturated[None]])
        return over_prompts(columns, samples), standard_errors(gained, samples, exposure)

    if xp is np:
        means, errors = (np.stack(x) for x in zip(*map(at, lams), strict=True))
    else:
        means, errors = jax.lax.map(at, lams)  # [P, 5 + 2 m], [P, m]
    share = xp.ones(m, lams.dtype)
    if exposure is not None:
        share = over_prompts(exposure.astype(lams.dtype), samples)
    tilted, margins = means[:, 4 : 4 + m] / share[None], means[:, 4 + m : 4 + 2 * m] / share[None]
    value = kl_weight * means[:, 0]
    return Frontier(lams, margins, errors, means[:, 3], tilted, means[:, 1], value, means[:, 2], means[:, -1])


def _points(inputs: Inputs) -> Array:
    margins, m = inputs.vectors["sweep"], jnp.shape(inputs.utilities)[-1]
    if margins.ndim != 2 or margins.shape[1] != m or not margins.shape[0]:
        raise InputError(f"dual.sweep: margins has shape {margins.shape}, must be (points, {m}), points > 0.")
    return margins


def _with_margins(inputs: Inputs, margins: Array) -> Inputs:
    return inputs._replace(vectors={"margins": margins})


def _sweep(inputs: Inputs, beta: float | Array, start: Array) -> Solution:
    """`sweep` from the solution of the first margins, [m]."""
    margins = _points(inputs)
    ready = prepare(_with_margins(inputs, margins[0]), beta, "dual.sweep")

    def step(last: _Last, margins: Array) -> tuple[_Last, Solution]:
        here = rebased(ready, margins)
        begin = _along_tangent(last, here.problem.margins)
        solution, found = summarise(here, newton(here.problem, begin, tau=here.problem.tau))
        # From an infeasible problem's end, far out, the next would have to come back.
        new = _Last(found.point, found.at, here.problem.margins)
        return jax.tree.map(lambda new, old: jnp.where(found.certified, old, new), new, last), solution

    begin = start / ready.problem.unit
    first = _Last(begin, evaluate(begin, ready.problem, ready.problem.tau), ready.problem.margins)
    _, solutions = jax.lax.scan(step, first, margins)
    return solutions


class _Last(NamedTuple):
    """The last minimum of a sweep, [m], derivatives there, and the scaled margins of its problem, [m]."""

    point: Array
    at: Derivatives
    margins: Array


def _along_tangent(last: _Last, margins: Array) -> Array:
    """Where the minimum for other margins will be, to first order, [m].

    Higher orders gain nothing: on samples the path of minima bends wherever a prompt changes its response.
    """
    gradient = last.at.gradient - (margins - last.margins)
    step = newton_step(last.point, gradient, last.at.hessian, jnp.zeros_like(last.at.value))
    return jnp.where(jnp.all(jnp.isfinite(step)), last.point + step, last.point)


def _by_prompt(inputs: Inputs, beta: float | Array) -> Prompts:
    xp = module_of(inputs, beta)
    lam = xp.asarray(inputs.vectors["lam"])
    samples = gather(*inputs[:5], kind=lam.dtype, where="dual.by_prompt")
    reference = summarise_prompts(samples, lam.dtype).mean[1:]
    columns = describe(lam, in_one_piece(samples, lam.dtype), xp.asarray(beta).astype(lam.dtype))
    return Prompts(columns[3], columns[4:].T, (columns[4:] - reference).T, columns[1], columns[2])


_sweep_jit = jax.jit(_sweep)
