"""Newton's method on the dual in units that make every problem alike, with a proof where there is no minimum.

With s_j the spread of g_j within prompts and S the larger of beta and the spread of r within prompts, the
variable is v = lam s / S, scores are centred in each prompt, and

    f(v) = tau E_x log E_y exp((rho + <v, h>) / tau) - <v, b / s> = D(lam) / S + const,    tau = beta / S <= 1

has a gradient of order one whatever the units; centring keeps float32 sums exact where prompts have large
constants. Where tau is small f is nearly piecewise linear; then the iteration follows the minimiser down from
a larger tau.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import jaxopt.base
import numpy as np
from jax.typing import DTypeLike

from alignjax.dual.dual_function import Derivatives, assemble, prompt_moments
from alignjax.dual.plain import Array, compiled, module_of
from alignjax.dual.samples import (
    Samples,
    Summary,
    by_chunks,
    in_one_piece,
    loaded,
    over_prompts,
    spreads,
    sum_constraints,
)

MAX_ITERATIONS = 300  # a usual problem takes 4 to 15
_FIRST_TAU = 0.1  # of few prompts; the mean over many is smooth at a smaller one
_FEW_PROMPTS = 16
_TAU_FACTOR = 0.2
_PATIENCE = 20  # steps without progress that end the iteration: rounding has been reached
_DAMPING = 1e-8  # at first: next to nothing, so that a start near the end is finished quadratically
_FAR = 30.0  # an infeasible problem's multiplier, in scaled units along the certificate


class Scaled(NamedTuple):
    """A problem in the units of the module's head.

    Attributes:
      samples: with centres and units, so that they are read as rho and h; of a plain call rho and h.
      margins: [m], b / s.
      tau: [], beta / S.
      unit: [m], S / s; lam = v * unit.
      spread: [m], s; 1 where a utility is constant.
      top, extent: [m, N], of `Summary`, in the units of the utilities.
      reach: [m], E_x max_k h, the largest scaled margin of each constraint alone.
      size: [m], size of the terms that the recession function sums, for its rounding error.
    """

    samples: Samples
    margins: Array
    tau: Array
    unit: Array
    spread: Array
    top: Array
    extent: Array
    reach: Array
    size: Array


class Minimum(NamedTuple):
    """The end of an iteration, in scaled units.

    Attributes:
      point: [m], v.
      error: [], largest entry of the projected gradient.
      iterations: [] int32, evaluations.
      certified: [] bool, True where f was proved to have no minimum.
      certificate: [m], v / s summing to 1, a direction in which D falls for ever; zeros where not certified.
      at: derivatives of f at `point`; where certified, at the last point kept.
    """

    point: Array
    error: Array
    iterations: Array
    certified: Array
    certificate: Array
    at: Derivatives


class _State(NamedTuple):
    error: Array  # what jaxopt looks at: the projected gradient, infinite at a larger tau, 0 to give up
    at: Derivatives
    tau: Array
    damping: Array
    fresh: Array  # the next evaluation is at the point itself: its tau is new
    iterations: Array
    idle: Array  # steps since the last progress
    best: Array  # least error at this tau
    certified: Array
    certificate: Array


def scale(samples: Samples, summary: Summary, margins: Array, beta: Array) -> Scaled:
    """Puts a problem into scaled units.

    Args:
      samples: of `gather`.
      summary: of `summarise_prompts`, in the type to work in.
      margins: [m] float, b.
      beta: [] float > 0.
    """
    xp = module_of(samples, summary, margins, beta)
    spread, real = spreads(summary, samples)
    big = xp.where(real[0], xp.maximum(beta, spread[0]), beta)
    s = xp.where(real[1:], spread[1:], xp.ones((), spread.dtype))
    scaled = samples._replace(centres=summary.mean, units=xp.concatenate([big[None], s]))
    scaled = in_one_piece(scaled, s.dtype)
    problem = Scaled(scaled, margins, beta / big, big / s, s, summary.top[1:], summary.extent[1:], s, s)
    return reweighted(problem, samples.prompt_weights, margins)


def reweighted(problem: Scaled, prompt_weights: Array | None, margins: Array) -> Scaled:
    """The problem with other weights of the prompts and other margins, in the same units.

    Args:
      problem: of `scale`.
      prompt_weights: [N] float, sums to 1; None: equal.
      margins: [m] float, b, in the units of the utilities.
    """
    samples = problem.samples._replace(prompt_weights=prompt_weights)
    s = problem.spread
    return problem._replace(
        samples=samples,
        margins=margins / s,
        reach=over_prompts(problem.top, samples) / s,
        size=(over_prompts(problem.extent, samples) + abs(margins)) / s,
    )


def first_tau(problem: Scaled) -> Array:
    """The temperature to begin at: f's own, or a larger one at which it is smooth."""
    few = min(1.0, (_FEW_PROMPTS / problem.samples.rewards.shape[0]) ** 0.5)
    xp = module_of(problem)
    return xp.maximum(problem.tau, xp.asarray(_FIRST_TAU * few, problem.tau.dtype))


def is_solved(found: Minimum) -> Array:
    """True where the end of an iteration is a minimum, to within what its float type can reach."""
    loose = 1e-6 if found.point.dtype == jnp.float64 else 1e-3
    return ~found.certified & (found.error <= loose)


def evaluate(point: Array, problem: Scaled, tau: Array) -> Derivatives:
    """Derivatives of f at one point and temperature."""
    sums = over_prompts(prompt_moments(point, problem.samples, tau), problem.samples)
    return assemble(point, sums, problem.margins, tau)


def tolerance(kind: DTypeLike) -> float:
    """The projected gradient, scaled, that a float type can reach."""
    eps = float(jnp.finfo(kind).eps)
    return 1e4 * eps if kind == jnp.float64 else 8 * eps


@dataclasses.dataclass(eq=False)
class _ProjectedNewton(jaxopt.base.IterativeSolver):
    """A jaxopt solver: its `run` repeats `update` until `state.error` is at most `tol`."""

    tol: float
    maxiter: int = MAX_ITERATIONS
    verbose: bool = False
    implicit_diff: bool = False
    jit: bool = True
    unroll: bool = False

    def init_state(
        self, init_params: Array, problem: Scaled, tau: Array, at: Derivatives | None, enough: Array
    ) -> _State:
        """At the start, evaluated or not yet; a constraint out of reach alone is refuted without that."""
        del enough
        kind = init_params.dtype
        zero, count = jnp.zeros_like(init_params), jnp.zeros((), jnp.int32)
        nothing = Derivatives(jnp.zeros((), kind), zero, jnp.eye(zero.size, dtype=kind), jnp.zeros((), kind))
        alone = problem.reach < problem.margins - 64 * jnp.finfo(kind).eps * problem.size
        share = alone.astype(kind) / jnp.maximum(jnp.sum(alone), 1).astype(kind)
        infinite, damping = jnp.asarray(jnp.inf, kind), jnp.asarray(_DAMPING, kind)
        certified = jnp.any(alone)
        best = infinite if at is None else projected_error(init_params, at.gradient)
        return _State(
            jnp.where(tau > problem.tau, infinite, best),
            nothing if at is None else at,
            tau,
            damping,
            jnp.asarray(at is None),
            count if at is None else count + 1,
            count,
            best,
            certified,
            jnp.where(certified, share, 0),
        )

    def update(
        self, params: Array, state: _State, problem: Scaled, tau: Array, at: Derivatives | None, enough: Array
    ) -> jaxopt.OptStep:
        """One evaluation; nothing where the problem is refuted already."""
        del tau, at
        done = jaxopt.OptStep(params, state._replace(error=jnp.zeros_like(state.error)))
        step = _advance(params, state, problem, enough)
        return jax.tree.map(lambda old, new: jnp.where(state.certified, old, new), done, step)


def newton(
    problem: Scaled,
    start: Array,
    *,
    tau: Array | None = None,
    at: Derivatives | None = None,
    enough: float = 0.0,
) -> Minimum:
    """Minimises f over v >= 0 from `start` by damped, projected Newton steps, as a jaxopt solver.

    A step is kept when f does not rise, which convexity shows by the sign of the slope at its end; so nothing
    is lost to rounding near the minimum. Every point visited is tried as a certificate of infeasibility.

    Args:
      problem: of `scale`.
      start: [m] float >= 0.
      tau: [], the temperature to begin at; None: `first_tau`.
      at: derivatives of f at `start` and that temperature, where they are known.
      enough: a projected gradient that ends the iteration although the float type can reach less.

    Returns:
      The minimum, or the proof that there is none.
    """
    tau = first_tau(problem) if tau is None else tau
    if module_of(problem, start) is np:  # so that all plain calls are of one program
        at = evaluate(start, problem, tau) if at is None else at
        if problem.samples.prompt_weights is None:
            n = len(problem.samples.rewards)
            problem = problem._replace(samples=problem.samples._replace(prompt_weights=np.full(n, 1 / n)))
    return _newton(problem, start, tau, at, module_of(problem, start).asarray(enough, start.dtype))


@compiled
def _newton(problem: Scaled, start: Array, tau: Array, at: Derivatives | None, enough: Array) -> Minimum:
    solver = _ProjectedNewton(tol=tolerance(start.dtype))
    point, state = solver.run(jnp.maximum(start, 0), problem, tau, at, enough)
    # A certificate is stated in the units of the scores: <d, g> with d = v / s.
    direction = state.certificate / problem.spread
    certificate = direction / jnp.where(state.certified, jnp.sum(direction), 1)
    error = projected_error(point, state.at.gradient)
    point = jnp.where(state.certified, state.certificate * _FAR, point)
    return Minimum(
        point, error, state.iterations, state.certified, jnp.where(state.certified, certificate, 0), state.at
    )


def projected_error(point: Array, gradient: Array) -> Array:
    """Largest entry of the projected gradient: at the bound only what points inward counts."""
    xp = module_of(point, gradient)
    return xp.max(abs(xp.where(point > 0, gradient, xp.minimum(gradient, 0))))


def _advance(last: Array, state: _State, problem: Scaled, enough: Array) -> jaxopt.OptStep:
    """One evaluation: a step from `last` tried and kept or refused, or a first look at a new tau."""
    eps = jnp.finfo(last.dtype).eps
    step = newton_step(last, state.at.gradient, state.at.hessian, state.damping)
    step = jnp.where(state.fresh, 0, step)
    point = last + step
    at = evaluate(point, problem, state.tau)
    slope = jnp.dot(at.gradient, step)
    rounding = 8 * eps * (1 + jnp.abs(state.at.value))
    finite = jnp.isfinite(at.value) & jnp.all(jnp.isfinite(at.gradient))
    kept = state.fresh | (finite & ((slope <= 0) | (at.value <= state.at.value + rounding)))
    error = projected_error(point, at.gradient)
    gained = kept & ((error < 0.9 * state.best) | (at.value < state.at.value - 8 * rounding))
    # A refused step was too long. On a flat piece the Hessian is next to 0 and does not say how long a step
    # may be; the gradient then limits it to a thousand times the point's own size, and less from there.
    least = 1e-3 * projected_error(last, state.at.gradient) / (1 + jnp.max(last))
    raised = jnp.maximum(jnp.maximum(state.damping * 8, least), 1e-3 * jnp.trace(at.hessian))
    damping = jnp.where(kept, state.damping / 8, raised)
    damping = jnp.where(state.fresh, state.damping, damping)
    cooler = kept & (state.tau > problem.tau) & ((error < 0.05) | (state.idle >= _PATIENCE - 2))
    # Rounding of the recession function must not be taken for a proof.
    total = jnp.sum(point)
    proof = at.recession < -64 * eps * jnp.dot(point, problem.size)
    proof = proof & (total > 0) & finite
    idle = jnp.where(gained | cooler | state.fresh, 0, state.idle + 1)
    best = jnp.where(cooler, jnp.inf, jnp.where(kept, jnp.minimum(error, state.best), state.best))
    now = jnp.where(kept, point, last)
    at = jax.tree.map(lambda new, old: jnp.where(kept, new, old), at, state.at)
    colder = jnp.where(cooler, jnp.maximum(state.tau * _TAU_FACTOR, problem.tau), state.tau)
    left = jnp.where(cooler | (colder > problem.tau), jnp.inf, projected_error(now, at.gradient))
    ended = proof | (idle >= _PATIENCE) | (left <= enough)
    return jaxopt.OptStep(
        now,
        _State(
            jnp.where(ended, 0, left),
            at,
            colder,
            jnp.maximum(damping, jnp.finfo(damping.dtype).tiny * 1e6),
            cooler,
            state.iterations + 1,
            idle,
            best,
            proof,
            jnp.where(proof, point / jnp.where(total > 0, total, 1), 0),
        ),
    )


def newton_step(point: Array, gradient: Array, hessian: Array, damping: Array) -> Array:
    """A damped Newton step within v >= 0: entries that would cross the bound stop at it, the others adapt.

    Args:
      point: [m] float >= 0.
      gradient: [m] float.
      hessian: [m, m] float.
      damping: [] float, added to the diagonal.

    Returns:
      [m] float, the change of the point.
    """
    m, xp = point.size, module_of(point, gradient, hessian, damping)
    eps = jnp.finfo(point.dtype).eps
    identity = xp.eye(m, dtype=point.dtype)
    damped = hessian + (damping + 4 * eps * xp.trace(hessian)) * identity
    free = (point > 0) | (gradient < 0)
    step = xp.zeros_like(point)
    for _ in range(m):
        stopped = xp.where(free, 0, -point)
        matrix = xp.where(free[:, None] & free[None, :], damped, 0) + xp.where(free, 0, 1)[:, None] * identity
        right = xp.where(free, -gradient - hessian @ stopped, stopped)
        step = _solved(xp, matrix, right) if m > 1 else right / matrix[0]
        free = free & (point + step >= 0)
    return xp.maximum(step, -point)


def _solved(xp: Any, matrix: Array, right: Array) -> Array:
    """The solution [m] of linear equations; nan where NumPy finds none, as JAX has it."""
    try:
        return xp.linalg.solve(matrix, right[:, None])[:, 0]
    except np.linalg.LinAlgError:
        return xp.full_like(right, xp.nan)


@compiled
def describe(lam: Array, samples: Samples, beta: Array) -> Array:
    """What the tilted policy has on every prompt, in the units of the scores.

    Args:
      lam: [m] float.
      samples: of `gather`.
      beta: [] float > 0.

    Returns:
      [4 + m, N]: log mean exp, KL in nats, effective samples, mean reward, mean utilities [m] under pi_lam.
    """
    samples = jax.tree.map(jnp.asarray, samples)

    def of(part: Samples) -> Array:
        r, g, base = loaded(part, lam.dtype)
        score = r + sum_constraints(lam, g)
        centre = jnp.max(jnp.where(jnp.isneginf(base), -jnp.inf, score), axis=1, keepdims=True)
        logits = jnp.where(jnp.isneginf(base), 0, (score - centre) / beta)
        # Sums to at most 1; at least one term has the base's own weight. Held, or every sum takes exp anew.
        w = jax.lax.optimization_barrier(jnp.exp(logits + base))
        total = jnp.sum(w, axis=1)
        log_total = jnp.log(total)
        kl = jnp.sum(w * logits, axis=1) / total - log_total
        ess = total * total / jnp.sum(w * w, axis=1)
        means = [jnp.sum(w * x, axis=1) / total for x in (r, *g)]
        return jnp.stack([centre[:, 0] / beta + log_total, kl, ess, *means])

    return by_chunks(of, samples)
