"""How sure the answer is: intervals over prompts, and margins kept with confidence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, margins_or_levels, on_host
from alignjax.dual.bias import extrapolate
from alignjax.dual.newton import Minimum, describe, newton, reweighted
from alignjax.dual.resampling import solve_again
from alignjax.dual.samples import gather, over_prompts, standard_errors, summarise_prompts
from alignjax.dual.solver import Prepared, Solution, prepare, solve_jit, solve_samples, summarise
from alignjax.errors import InputError

_GUARD_STEPS = 40


class Bounds(NamedTuple):
    """Ends of an interval, both of the quantity's shape."""

    low: Array
    high: Array


class Interval(NamedTuple):
    """Bootstrap intervals of a solution.

    Attributes:
      lam: [m], of lambda*: solved anew on every resample.
      margins: [m], of what pi_lam has at the lambda* of all prompts, the policy that will be trained.
      reward: [], likewise E r.
      kl: [], likewise KL, nats.
      feasible_share: [] float, share of the resamples on which the margins can be met; where they cannot
        lambda* counts as infinite.
    """

    lam: Bounds
    margins: Bounds
    reward: Bounds
    kl: Bounds
    feasible_share: Array


class Conservative(NamedTuple):
    """A multiplier whose margins hold with confidence and not only on average.

    Attributes:
      solution: of the raised margins, asked + guard.
      asked: [m] float, margins.
      guard: [m] float >= 0, what is asked on top.
      low: [m] float, lower confidence bounds of the margins at this multiplier; at least `asked` where the
        solution is feasible.
    """

    solution: Solution
    asked: Array
    guard: Array
    low: Array


def bootstrap(
    key: Array,
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    beta: float | Array,
    margins: ArrayLike | None = None,
    levels: ArrayLike | None = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    correct_bias: bool = False,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
) -> Interval:
    """Percentile intervals over resampled prompts, each prompt with its responses.

    Args:
      key: typed random key.
      rewards: [N, K] float.
      utilities: [N, K, m] float; higher is safer.
      beta: KL weight > 0, in the units of `rewards` per nat.
      margins: [m] float; exactly one of this and levels.
      levels: [m] float.
      num_resamples: R.
      confidence: probability that an interval covers, in (0, 1).
      correct_bias: take the bias of finite K off, as `finite_sample_bias` estimates it, with its own variance
        over prompts. Then the intervals are of what would be found with many samples a prompt, and may not
        hold the estimate itself.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0; None: equal.
      importance: [N, K] float >= 0, as in `objective`.

    Returns:
      The intervals. They know of the prompts that were drawn, not of errors in the scores.

    Raises:
      InputError: as in `solve`; num_resamples below 1; confidence outside (0, 1).

    Reference: Efron 1979.
    """
    if num_resamples < 1:
        raise InputError(f"dual.bootstrap: num_resamples is {num_resamples}, must be at least 1.")
    if not 0 < confidence < 1:
        raise InputError(f"dual.bootstrap: confidence is {confidence}, must lie between 0 and 1.")
    vectors = margins_or_levels(margins, levels, "dual.bootstrap")
    inputs = Inputs(rewards, utilities, mask, prompt_weights, importance, vectors)
    if is_traced(key, inputs, beta):
        inputs = floats(inputs)
        lam = solve_samples(inputs, beta).lam
        return _bootstrap(key, inputs, beta, lam, num_resamples, confidence, correct_bias)
    inputs, beta = checked(inputs, "dual.bootstrap"), check_beta(beta, "dual.bootstrap")
    with on_host():
        key = jax.device_put(key, jax.local_devices(backend="cpu")[0])
        lam = solve_jit(inputs, beta).lam
        found = _bootstrap_jit(key, inputs, beta, lam, num_resamples, confidence, correct_bias)
        return jax.tree.map(np.asarray, found)


def solve_conservative(
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    beta: float | Array,
    margins: ArrayLike | None = None,
    levels: ArrayLike | None = None,
    confidence: float = 0.95,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
) -> Conservative:
    """Solves for the lower confidence bound of every margin in place of its mean.

        margin_j(lam) - z sqrt(se_j(lam)^2 + sd_j(lam)^2) >= b_j,     z = Phi^-1(1 - (1 - confidence) / m)

    se_j is the standard error over prompts and sd_j the spread over an ensemble of utilities; all m hold
    together with the confidence (Bonferroni). The guard z sqrt(...) depends on lam and is found by repeated
    solves, each begun at the last.

    Args:
      rewards: [N, K] float.
      utilities: [N, K, m] float, or [E, N, K, m] of an ensemble of E models: the tilt uses their mean.
      beta: KL weight > 0, in the units of `rewards` per nat.
      margins: [m] float; exactly one of this and levels.
      levels: [m] float.
      confidence: in (0.5, 1), one-sided.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0; None: equal.
      importance: [N, K] float >= 0, as in `objective`.

    Returns:
      The solution with its guard; infeasible where the raised margins cannot be met.

    Raises:
      InputError: as in `solve`; confidence outside (0.5, 1).
    """
    where = "dual.solve_conservative"
    if not 0.5 < confidence < 1:
        raise InputError(f"{where}: confidence is {confidence}, must lie between 0.5 and 1.")
    if jnp.ndim(utilities) not in (3, 4):
        raise InputError(
            f"{where}: utilities has shape {jnp.shape(utilities)}, must be [N, K, m] or [E, N, K, m]."
        )
    as_array = jnp.asarray if is_traced(utilities) else np.asarray
    members = as_array(utilities)
    members = members if members.ndim == 4 else members[None]
    vectors = margins_or_levels(margins, levels, where)
    inputs = Inputs(rewards, utilities, mask, prompt_weights, importance, vectors)
    if is_traced(inputs, beta):
        members = jnp.asarray(members)
        inputs = floats(inputs._replace(utilities=members.mean(axis=0)))
        lam = solve_samples(inputs, beta).lam
        return _conservative(inputs, members, beta, lam, confidence)
    beta, members = check_beta(beta, where), np.asarray(members)
    for member in members:
        checked(inputs._replace(utilities=member), where)
    inputs = checked(inputs._replace(utilities=members.mean(axis=0, dtype=np.float64)), where)
    with on_host():
        lam = solve_jit(inputs, beta).lam
        return jax.tree.map(np.asarray, _conservative_jit(inputs, members, beta, lam, confidence))


def _by_level(inputs: Inputs) -> bool:
    return inputs.vectors.get("levels") is not None


def _bootstrap(
    key: Array,
    inputs: Inputs,
    beta: float | Array,
    lam: Array,
    num_resamples: int,
    confidence: float,
    correct_bias: bool,
) -> Interval:
    ready = prepare(inputs, beta, "dual.bootstrap")
    n, kind = ready.samples.rewards.shape[0], lam.dtype
    better = extrapolate(lam, ready) if correct_bias else None
    if better is None:
        columns = describe(lam, ready.samples, ready.beta)
        scores, kl = columns[3:], columns[1]
    else:
        scores, kl = better.scores.T, better.kl
    gained = scores[1:] - ready.summary.mean[1:]
    columns = jnp.concatenate([scores[:1], kl[None], gained])  # [2 + m, N]
    outer = jnp.ones(n, kind) if ready.samples.prompt_weights is None else ready.samples.prompt_weights

    def one(key: Array) -> tuple[Array, Array, Array]:
        counts = jnp.zeros(n, kind).at[jax.random.randint(key, (n,), 0, n)].add(1)
        weights = counts * outer
        weights = weights / jnp.sum(weights)
        margins = ready.levels - ready.summary.mean[1:] @ weights if _by_level(inputs) else ready.margins
        found = solve_again(reweighted(ready.problem, weights, margins), lam, better)
        return found.lam if better is None else found.corrected, columns @ weights, found.solved

    lams, means, solved = jax.lax.map(one, jax.random.split(key, num_resamples))
    tail = (1 - confidence) / 2

    def bounds(draws: Array) -> Bounds:
        # "nearest" and not a line between two draws: an infinite one would make nan of it.
        ends = jnp.quantile(draws, jnp.asarray([tail, 1 - tail], draws.dtype), axis=0, method="nearest")
        return Bounds(ends[0], ends[1])

    return Interval(
        bounds(lams),
        bounds(means[:, 2:]),
        bounds(means[:, 0]),
        bounds(means[:, 1]),
        jnp.mean(solved.astype(kind)),
    )


def _conservative(
    inputs: Inputs, members: ArrayLike, beta: float | Array, lam: Array, confidence: float
) -> Conservative:
    ready = prepare(inputs, beta, "dual.solve_conservative")
    kind, m = ready.margins.dtype, ready.margins.size
    z = jax.scipy.special.ndtri(jnp.asarray(1 - (1 - confidence) / m, kind))
    # Members join the table as further utilities that no multiplier weighs.
    extra = jnp.moveaxis(jnp.asarray(members), 0, 2).reshape(*jnp.shape(inputs.rewards), -1)
    joined = gather(inputs.rewards, extra, *inputs[2:5], kind=kind, where="dual.solve_conservative")
    joined = joined._replace(utilities=jnp.concatenate([ready.samples.utilities, joined.utilities]))

    before = summarise_prompts(joined, kind).mean[1:]
    reference = jnp.zeros_like(before) if _by_level(inputs) else before

    def guard_at(point: Array) -> Array:
        weighted = jnp.concatenate([point * ready.problem.unit, jnp.zeros(extra.shape[2], kind)])
        values = describe(weighted, joined, ready.beta)[4:] - reference
        ensemble = over_prompts(values[m:], joined).reshape(-1, m)
        among = jnp.sum(jnp.square(ensemble - jnp.mean(ensemble, axis=0, keepdims=True)), axis=0)
        among = among / max(ensemble.shape[0] - 1, 1)
        return z * jnp.sqrt(jnp.square(standard_errors(values[:m], joined)) + among)

    def raised(guard: Array) -> Prepared:
        margins = ready.margins + guard
        problem = reweighted(ready.problem, ready.samples.prompt_weights, margins)
        return ready._replace(margins=margins, levels=ready.levels + guard, problem=problem)

    def body(state: tuple[Minimum, Array, Array, Array]) -> tuple[Minimum, Array, Array, Array]:
        found, guard, _, step = state
        wanted = guard_at(found.point)
        # A guard that also falls could circle; where it must, half a step settles it.
        guard_next = jnp.where(step < 8, wanted, (guard + wanted) / 2)
        end = newton(raised(guard_next).problem, found.point)
        moved = jnp.max(jnp.abs(guard_next - guard) / ready.problem.spread)
        return end, guard_next, moved, step + 1

    def not_converged(state: tuple[Minimum, Array, Array, Array]) -> Array:
        found, _, moved, step = state
        return (moved > 1e4 * jnp.finfo(kind).eps) & (step < _GUARD_STEPS) & ~found.certified

    first = newton(ready.problem, lam / ready.problem.unit)
    start = (first, jnp.zeros_like(ready.margins), jnp.asarray(jnp.inf, kind), jnp.zeros((), jnp.int32))
    found, guard, _, _ = jax.lax.while_loop(not_converged, body, start)
    solution, _ = summarise(raised(guard), found)
    return Conservative(solution, ready.margins, guard, solution.margins - guard_at(found.point))


_bootstrap_jit = jax.jit(_bootstrap, static_argnums=(4, 5, 6))
_conservative_jit = jax.jit(_conservative, static_argnums=4)
