"""How sure the answer is: intervals over resampled prompts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, margins_or_levels, on_host
from alignjax.dual.bias import extrapolate, shuffle_key
from alignjax.dual.newton import describe, reweighted
from alignjax.dual.resampling import Wanted, solve_again
from alignjax.dual.solver import prepare, solve_samples
from alignjax.errors import InputError


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
        hold the plain estimate.
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
        lam = solve_samples(inputs, beta).lam
        found = _bootstrap_jit(key, inputs, beta, lam, num_resamples, confidence, correct_bias)
        return jax.tree.map(np.asarray, found)


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
    better = extrapolate(lam, ready, shuffle_key(0)) if correct_bias else None
    if better is None:
        columns = describe(lam, ready.samples, ready.beta)
        scores, kl = columns[3:], columns[1]
    else:
        scores, kl = better.scores.T, better.kl
    gained = scores[1:] - ready.summary.mean[1:]
    columns = jnp.concatenate([scores[:1], kl[None], gained])  # [2 + m, N]
    by_level = inputs.vectors.get("levels") is not None
    asked = ready.levels if by_level else ready.margins
    wanted = Wanted(asked, jnp.full(asked.size, by_level))
    outer = jnp.ones(n, kind) if ready.samples.prompt_weights is None else ready.samples.prompt_weights

    def one(key: Array) -> tuple[Array, Array, Array]:
        counts = jnp.zeros(n, kind).at[jax.random.randint(key, (n,), 0, n)].add(1)
        weights = counts * outer
        weights = weights / jnp.sum(weights)
        margins = wanted.margins(weights, ready.summary.mean[1:])
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


_bootstrap_jit = jax.jit(_bootstrap, static_argnums=(4, 5, 6))
