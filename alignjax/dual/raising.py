"""The guarded problem: margins raised by a guard that depends on its own solution, until both agree."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from alignjax.dual.arguments import Inputs
from alignjax.dual.bias import Parts, extrapolated, joined, split
from alignjax.dual.newton import Minimum, newton
from alignjax.dual.samples import (
    Samples,
    by_chunks,
    loaded,
    over_prompts,
    standard_errors,
    sum_constraints,
    summarise_prompts,
)
from alignjax.dual.solver import Prepared, Solution, prepare, rebased, summarise

_STEPS = 80  # solves; a usual problem takes 5 to 10
_LEAST_STEP = 2.0**-10  # of a fixed-point step: below it the raised margins are beyond reach
_MIXING = 5.0  # the farthest that two steps are extrapolated
# Of `spread`. On each of five worlds whose tilts are known (benchmarks/promise.py) a margin was missed in at
# most 7.3% of the runs with an open gate, and in up to 14% without this part. Twice as much would make it 3%
# and cost more reward.
_SPREADS = 0.75


class Unguarded(NamedTuple):
    """The answer without a guard, with the bias of finite K taken off.

    Attributes:
      lam: [m].
      feasible: [] bool; where False the others mean nothing.
      margins: [m], reward: [], kl: [] of pi_lam.
    """

    lam: Array
    feasible: Array
    margins: Array
    reward: Array
    kl: Array


class Conservative(NamedTuple):
    """A multiplier whose margins hold with confidence and not only on average.

    Attributes:
      solution: of the margins asked + guard + bias; `solution.margins` are plain, the bias is in them. Not
        feasible where these cannot be met, and where the guard did not settle.
      asked: [m] float, margins.
      guard: [m] float >= 0, q sqrt(standard_error^2 + calibration^2) + |bias| + 0.75 spread.
      low: [m] float, solution.margins - bias - guard, lower confidence bounds of the margins at this
        multiplier; at least `asked` where the solution is feasible.
      standard_error: [m] float, of the margins over the draw of prompts; of the mean utilities where levels
        are asked.
      calibration: [m] float, standard deviation that the calibration of the scores brings.
      bias: [m] float, what finite K adds to the margins.
      spread: [m] float, sum_i p_i sd_ij (1 / ESS_i - 1 / K_i): the size that the bias can have.
      settled: [] bool, False where the guard, which depends on lam, did not come to rest.
      plain: the answer without a guard.
    """

    solution: Solution
    asked: Array
    guard: Array
    low: Array
    standard_error: Array
    calibration: Array
    bias: Array
    spread: Array
    settled: Array
    plain: Unguarded


class Terms(NamedTuple):
    """What the guard is made of, beside the scores.

    Attributes:
      quantile: [m], q.
      by_level: [m] bool, True where a level is asked and the reference is no part of the estimate.
      exposure: [m, N] float >= 0, how much of what is asked each prompt carries; None: 1.
      features: [N, K, F] float, further columns; None: none.
      covariances: [1 + m, 1 + m + F, 1 + m + F]; None: the scores are believed as they are.
    """

    quantile: Any
    by_level: Any
    exposure: Any = None
    features: Any = None
    covariances: Any = None


class _Problem(NamedTuple):
    """The problem without its guard, and what the guard is measured with.

    Attributes:
      ready: of `prepare`.
      columns: the scores and the further columns, in the units of the scores.
      parts: of them, shuffled.
      reference: [1 + m + F, N], mean columns.
      deviations: [m, N], standard deviations of the utilities.
      counts: [N], effective samples of the reference itself; K where all count alike.
      share: [m], sum_i p_i e_ij.
      terms: of the guard.
    """

    ready: Prepared
    columns: Samples
    parts: Parts
    reference: Array
    deviations: Array
    counts: Array
    share: Array
    terms: Terms


class _Measured(NamedTuple):
    """At one multiplier: the parts of the guard [m], and means over prompts of what pi_lam has."""

    standard_error: Array
    calibration: Array
    bias: Array
    spread: Array
    guard: Array
    margins: Array
    reward: Array
    kl: Array


class _Tried(NamedTuple):
    """Margins raised by `raised` [m] and solved, and what guard and bias there are above that, [m]."""

    found: Minimum
    raised: Array
    left: Array
    at: _Measured


class _State(NamedTuple):
    last: _Tried  # the last whose margins can be met
    before: tuple[Array, Array]  # raised and left of the one before
    raised: Array  # [m], to be tried next
    share: Array  # of the step to what is wanted; 0 where there is nothing to begin at
    refused: Minimum  # the last that could not be met
    plain: tuple[Array, _Measured]  # multiplier without a guard, and what it has
    step: Array


def raise_until_settled(
    inputs: Inputs, terms: Terms, beta: float | Array, key: Array, population: bool
) -> Conservative:
    """Solves for raised margins until guard and bias at the solution are what they were raised by.

    Args:
      inputs: with margins or levels in `vectors`, of the means over all prompts: (sum_i p_i e_ij) b_j.
      terms: of the guard.
      beta: KL weight > 0.
      key: of the shuffle that halves and quarters are taken from.
      population: True where the prompts are all there are: the standard error is that of drawing responses.
    """
    problem = _problem(inputs, terms, beta, key)
    ready, share, kind = problem.ready, problem.share, problem.share.dtype
    enough = jnp.asarray(1e-10 if kind == jnp.float64 else 1e-4, kind)

    def unsettled(state: _State) -> Array:
        # What is no number is not above `enough`: it ends the iteration, and is refused below.
        return (
            (_size(state.last.left, problem) > enough) & (state.step < _STEPS) & (state.share > _LEAST_STEP)
        )

    first = jnp.zeros_like(share)
    begin = jax.eval_shape(lambda: _try(problem, first, first, population))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), begin)
    nothing = nothing._replace(left=jnp.full_like(first, jnp.inf))
    start = _State(
        nothing,
        (first, first),
        first,
        jnp.ones((), kind),
        nothing.found,
        (first, nothing.at),
        jnp.zeros((), jnp.int32),
    )
    end = jax.lax.while_loop(unsettled, lambda state: _step(problem, state, population), start)
    last, at = end.last, end.last.at
    settled = _size(last.left, problem) <= 1e2 * enough
    # Where a step could not be shortened enough, the proof that what it asked cannot be met is the answer.
    beyond = ~settled & (end.share <= _LEAST_STEP) & end.refused.certified
    found = jax.tree.map(lambda old, new: jnp.where(beyond, new, old), last.found, end.refused)
    solution, _ = summarise(rebased(ready, ready.margins + share * last.raised), found)
    solution = solution._replace(feasible=solution.feasible & settled)
    lam, free = end.plain
    return Conservative(
        solution,
        ready.margins / share,
        at.guard,
        solution.margins / share - at.bias - at.guard,
        at.standard_error,
        at.calibration,
        at.bias,
        at.spread,
        settled | beyond,
        Unguarded(lam, end.share > 0, free.margins, free.reward, free.kl),
    )


def _problem(inputs: Inputs, terms: Terms, beta: float | Array, key: Array) -> _Problem:
    ready = prepare(inputs, beta, "dual.solve_conservative")
    kind = ready.margins.dtype
    terms = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(kind), jax.tree.map(jnp.asarray, terms))
    columns = joined(inputs, terms.features, kind, "dual.solve_conservative")
    share = jnp.ones_like(ready.margins) if terms.exposure is None else over_prompts(terms.exposure, columns)
    summary, m = summarise_prompts(columns, kind), share.size
    deviations = jnp.sqrt(summary.variance[1 : 1 + m])
    counts = by_chunks(partial(_reference_samples, kind=kind), columns)[0]
    parts = split(columns, key, kind)
    return _Problem(ready, columns, parts, summary.mean, deviations, counts, share, terms)


def _reference_samples(samples: Samples, kind: DTypeLike) -> Array:
    """Effective samples of the reference's own weights, [1, N]."""
    r, _, base = loaded(samples, kind)
    return 1 / jnp.sum(jnp.square(jnp.exp(base) * jnp.ones_like(r)), axis=1)[None]


def _size(left: Array, problem: _Problem) -> Array:
    return jnp.max(jnp.abs(left) * problem.share / problem.ready.problem.spread)


def _try(problem: _Problem, raised: Array, start: Array, population: bool) -> _Tried:
    """The minimum for margins raised by `raised`, begun at `start`, and what remains there."""
    ready = problem.ready
    found = newton(rebased(ready, ready.margins + problem.share * raised).problem, start)
    at = _measured(problem, found.point, population)
    return _Tried(found, raised, at.guard + at.bias - raised, at)


def _measured(problem: _Problem, point: Array, population: bool) -> _Measured:
    ready, columns, parts, reference, deviations, counts, share, terms = problem
    kind, m = share.dtype, share.size
    by_level = terms.by_level
    weights = jnp.concatenate([point * ready.problem.unit, jnp.zeros(len(columns.utilities) - m, kind)])
    plain, better = extrapolated(weights, parts, ready.beta)
    bias = over_prompts(plain[4 : 4 + m] - better[4 : 4 + m], columns) / share
    spread = over_prompts(deviations * (1 / plain[2] - 1 / counts)[None], columns) / share
    if population:
        error = _within_errors(weights, columns, ready.beta, by_level) / share
    else:
        own = better[4 : 4 + m] - jnp.where(by_level[:, None], 0, reference[1 : 1 + m])
        error = standard_errors(own, columns, terms.exposure)
    tilted, before = over_prompts(better[3:], columns), over_prompts(reference, columns)
    calibration = jnp.zeros(m, kind)
    if terms.covariances is not None:
        change = (tilted[None] - jnp.where(by_level[:, None], 0, before[None])) / share[
            :, None
        ]  # [m, 1 + m + F]
        squares = jnp.einsum("ja,jab,jb->j", change, terms.covariances[1:], change)
        calibration = jnp.sqrt(jnp.maximum(squares, 0))
    drawn = terms.quantile * jnp.sqrt(jnp.square(error) + jnp.square(calibration))
    guard = drawn + jnp.abs(bias) + _SPREADS * spread
    margins, kl = (tilted - before)[1 : 1 + m] / share, over_prompts(better[1], columns)
    return _Measured(error, calibration, bias, spread, guard, margins, tilted[0], kl)


def _step(problem: _Problem, state: _State, population: bool) -> _State:
    """Tries raised margins, and says which to try next."""
    tried = _try(problem, state.raised, state.last.found.point, population)
    first, old = state.step == 0, state.last
    # Beyond reach, or no number: a shorter step from where the last one began.
    far = tried.found.certified | ~jnp.all(jnp.isfinite(tried.left))
    turns = (jnp.dot(old.left, tried.left) < 0) & (_size(tried.left, problem) > _size(old.left, problem) / 2)
    turns = turns & ~first
    share = jnp.where(
        far, state.share / 4, jnp.where(turns, state.share / 2, jnp.minimum(2 * state.share, 1))
    )
    share = jnp.where(first & far, 0, share)

    def unless(condition: Array, new: Any, kept: Any) -> Any:
        return jax.tree.map(lambda x, y: jnp.where(condition, y, x), new, kept)

    last = unless(far, tried, old)
    earlier = unless(far | first, (old.raised, old.left), state.before)
    # Two steps, extrapolated to where nothing is left (Anderson 1965, depth 1).
    turned = last.left - earlier[1]
    tiny = jnp.finfo(share.dtype).tiny
    mixing = jnp.dot(turned, last.left) / jnp.maximum(jnp.dot(turned, turned), tiny)
    mixing = jnp.where((state.step > 0) & (jnp.abs(mixing) < _MIXING), mixing, 0)
    ahead = last.raised + last.left - mixing * (last.raised - earlier[0] + turned)
    lam = tried.found.point * problem.ready.problem.unit
    return _State(
        last,
        earlier,
        jnp.where(share < 1, last.raised + share * last.left, ahead),
        share,
        unless(~tried.found.certified, tried.found, state.refused),
        unless(~first, (lam, tried.at), state.plain),
        state.step + 1,
    )


def _within_errors(lam: Array, samples: Samples, beta: Array, by_level: Array) -> Array:
    """Standard errors [m] of drawing the responses of fixed prompts, by the delta method.

        se_j^2 = sum_i p_i^2 sum_k (w_ik (g_ikj - gbar_ij) - u_ik (g_ikj - ref_ij))^2

    with w the weights of the tilt and u those of the reference, whose part is 0 where a level is asked.
    """
    m = by_level.size

    def of(part: Samples) -> Array:
        r, g, base = loaded(part, lam.dtype)
        weights = jax.nn.softmax((r + sum_constraints(lam, g)) / beta + base, axis=1)
        own = jnp.exp(base) * jnp.ones_like(r)
        rows = []
        for j in range(m):
            tilted = weights * (g[j] - jnp.sum(weights * g[j], axis=1, keepdims=True))
            before = own * (g[j] - jnp.sum(own * g[j], axis=1, keepdims=True))
            rows.append(jnp.sum(jnp.square(tilted - jnp.where(by_level[j], 0, before)), axis=1))
        return jnp.stack(rows)

    squares, n = by_chunks(of, samples), samples.rewards.shape[0]
    p = samples.prompt_weights
    p = jnp.full(n, 1 / n, lam.dtype) if p is None else p.astype(lam.dtype)
    return jnp.sqrt(squares @ jnp.square(p))
