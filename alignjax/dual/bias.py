"""What finite K adds to the estimates, and the estimates without it."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, margins_or_levels, on_host
from alignjax.dual.newton import Scaled, describe, evaluate, newton_step, projected_error
from alignjax.dual.plain import Array, aligned, module_of
from alignjax.dual.samples import Samples, gather, over_prompts, shuffled, summarise_prompts
from alignjax.dual.solver import Prepared, prepare, solve_samples

QUARTERS_FROM = 16  # samples a prompt; below it a quarter holds too few
# Newton's method on the corrected gradient with the plain Hessian: the correction may make the slope up to
# 8/3 as large, and steps of this share still converge.
_STEPS, _SHARE = 12, 0.6
_FOUND = 1e-3  # projected gradient, scaled, at a root that counts as found


class Bias(NamedTuple):
    """What finite K adds to an estimate, on average: subtract it for an estimate of more samples.

    Attributes:
      lam: [m], margins: [m], reward: [], kl: [] as in `Interval`.
    """

    lam: Array
    margins: Array
    reward: Array
    kl: Array


def finite_sample_bias(
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    beta: float | Array,
    margins: ArrayLike | None = None,
    levels: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
    seed: int = 0,
) -> Bias:
    """Bias of the estimates by K samples a prompt, from random halves and quarters of every prompt's samples.

    An estimate by K samples is off by about a / K + b / K^2. With E_K, E_{K/2}, E_{K/4} the estimates by all,
    by halves and by quarters (means over these), both terms vanish from

        (8 E_K - 6 E_{K/2} + E_{K/4}) / 3,        and the first from  2 E_K - E_{K/2}  where K < 16;

    the bias is E_K minus that. That of lam is what the same correction of the gradient of D moves its root.
    The samples of each prompt are shuffled once, so that the order in which they are given has no meaning.

    Args:
      rewards: [N, K] float, K >= 2.
      utilities: [N, K, m] float; higher is safer.
      beta: KL weight > 0, in the units of `rewards` per nat.
      margins: [m] float; exactly one of this and levels.
      levels: [m] float.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0; None: equal.
      importance: [N, K] float >= 0, as in `objective`.
      seed: of the shuffle.

    Returns:
      The biases; that of lam is nan where the corrected gradient has no root that Newton steps find.

    Raises:
      InputError: as in `solve`.

    Reference: Richardson 1911 for the extrapolation; Quenouille 1956 for halves.
    """
    where = "dual.finite_sample_bias"
    vectors = margins_or_levels(margins, levels, where)
    inputs = Inputs(rewards, utilities, mask, prompt_weights, importance, vectors)
    if is_traced(inputs, beta):
        inputs = floats(inputs)
        return _bias(inputs, beta, solve_samples(inputs, beta).lam, shuffle_key(seed))
    inputs, beta = checked(inputs, where), check_beta(beta, where)
    with on_host():
        lam = solve_samples(inputs, beta).lam
        return jax.tree.map(np.asarray, _bias(inputs, beta, lam, shuffle_key(seed)))


def shuffle_key(seed: int) -> Array:
    """The key of the shuffle that halves and quarters are taken from."""
    return jax.random.key(seed % 2**32)


class Policies(NamedTuple):
    """What the two policies of one multiplier have on every prompt, F further columns of scores among it.

    Attributes:
      plain: [4 + m + F, N] of `describe`: draw K samples, keep one by its weight.
      tilted: the same, extrapolated to many samples a prompt: pi_lam.
      reference: [1 + m + F, N], mean scores.
      counts: [N], samples.
    """

    plain: Array
    tilted: Array
    reference: Array
    counts: Array


def policies(
    lam: ArrayLike,
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    beta: float,
    features: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    seed: int = 0,
) -> Policies:
    """What draw-K and pi_lam have on each prompt alone.

    Args:
      lam: [m] float >= 0.
      rewards: [N, K] float.
      utilities: [N, K, m] float.
      beta: KL weight > 0, in the units of `rewards` per nat.
      features: [N, K, F] float, further columns whose means are wanted; None: none.
      mask: [N, K] bool, True where a sample exists; None: all.
      seed: of the shuffle.

    Returns:
      Both, in float64.

    Raises:
      InputError: shapes and values, as in `solve`.
    """
    inputs = checked(Inputs(rewards, utilities, mask, None, None, {"lam": lam}), "dual.answer")
    with on_host():
        given = inputs, None if features is None else np.asarray(features, np.float64)
        return jax.tree.map(np.asarray, _policies(*given, beta, shuffle_key(seed)))


def _policies(inputs: Inputs, features: Array | None, beta: float, key: Array) -> Policies:
    lam = inputs.vectors["lam"]
    samples = joined(inputs, features, lam.dtype, "dual.answer")
    weights = np.concatenate([lam, np.zeros(samples.utilities.shape[0] - lam.size, lam.dtype)])
    kl_weight = np.asarray(beta, lam.dtype)
    return Policies(
        *extrapolated(weights, split(samples, key, lam.dtype), kl_weight),
        summarise_prompts(samples, lam.dtype).mean,
        _counts(samples),
    )


def joined(inputs: Inputs, features: Array | None, kind: DTypeLike, where: str) -> Samples:
    """Samples with further columns [N, K, F] after the utilities, for means that no multiplier weighs."""
    xp = module_of(inputs, features)
    utilities = xp.asarray(inputs.utilities)
    if features is not None:
        utilities = xp.concatenate([utilities.astype(kind), features.astype(kind)], axis=-1)
    return gather(inputs.rewards, utilities, *inputs[2:5], kind=kind, where=where)


class Extrapolated(NamedTuple):
    """The estimates extrapolated to many samples a prompt, and what makes them so for other prompts.

    Attributes:
      scores: [N, 1 + m], the reward and the utilities of every prompt under pi_lam.
      kl: [N], nats.
      lam: [m], root of the corrected gradient; nan where Newton steps find none.
      unit: [m], of the multipliers in the next two.
      spread: [m], of the utilities in the next two.
      hessian: [m, m], between both roots.
      added: [m, N], what the correction adds to every prompt's gradient.
    """

    scores: Array
    kl: Array
    lam: Array
    unit: Array
    spread: Array
    hessian: Array
    added: Array

    def shifted(self, lam: Array, gradient: Array, prompt_weights: Array) -> Array:
        """The multiplier found on prompts of other weights, corrected to first order in the bias.

        Args:
          lam: [m], found.
          gradient: [m], of the dual there, in the units of the utilities: 0 where a constraint binds, its
            slack where it does not. Without the slack a constraint that binds nowhere would seem to bind.
          prompt_weights: [N], sums to 1.
        """
        point = lam / self.unit
        whole = gradient / self.spread + self.added @ prompt_weights
        return lam + self.unit * newton_step(point, whole, self.hessian, 0 * point[0])


def extrapolate(lam: Array, ready: Prepared, key: Array) -> Extrapolated:
    """What finite K adds at the solution `lam` [m], taken off; as in `finite_sample_bias`."""
    problem = ready.problem
    point = lam / problem.unit
    end = _corrected_root(point, problem, split(problem.samples, key, lam.dtype))
    # Scaled scores as they are without the scaling: centred in each prompt, in units of their spread.
    xp = module_of(lam, ready)
    units = xp.concatenate([(ready.beta / problem.tau)[None], problem.spread])
    scores = end.first[3:] * units[:, None] + ready.summary.mean
    root = xp.where(end.error < _FOUND, end.point * problem.unit, xp.nan)
    hessian = evaluate((point + end.point) / 2, problem, problem.tau).hessian
    return Extrapolated(scores.T, end.first[1], root, problem.unit, problem.spread, hessian, end.added)


class Parts(NamedTuple):
    """The samples of every prompt in random parts, so that one pass gives parts, halves and all of them.

    Attributes:
      samples: of P N prompts: part 0 of every prompt, then part 1. P is 4, or 2 of few samples, or 1.
      masses: [P, N], the reference's weight of each part.
      finer: [N] bool, True where a prompt has enough samples for quarters.
    """

    samples: Samples
    masses: Array
    finer: Array


def split(samples: Samples, key: Array, kind: DTypeLike) -> Parts:
    """Shuffles each prompt's samples and deals them out to quarters (halves of fewer than 16 samples).

    Args:
      samples: of `gather`.
      key: of the shuffle.
      kind: float type of the sums.
    """
    xp = module_of(samples)
    mixed = shuffled(samples, key)
    n, k = mixed.rewards.shape
    parts = 1 if k < 2 else 2 if k < QUARTERS_FROM else 4
    base = mixed.log_base
    base = xp.full((n, k), -np.log(k), kind) if base is None else base.astype(kind)
    room = -k % parts

    def dealt(x: Array, fill: float) -> Array:
        """[..., N, K] -> [..., P N, K / P]: sample k goes to part k mod P."""
        x = xp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, room)], constant_values=fill)
        x = x.reshape(*x.shape[:-1], -1, parts)
        x = xp.moveaxis(x, -1, -3).reshape(*x.shape[:-3], parts * n, -1)
        return aligned(x) if xp is np else x

    own = dealt(base, -xp.inf)
    mass = _log_sum(xp, own, axis=1)
    # A part that holds no sample has weights of some sort, and no mass.
    own = xp.where(xp.isneginf(mass)[:, None], -np.log(own.shape[1]), own - mass[:, None])
    centres = None if mixed.centres is None else xp.tile(mixed.centres, (1, parts))
    cut = Samples(
        dealt(mixed.rewards, 0), dealt(mixed.utilities, 0), own.astype(kind), None, centres, mixed.units
    )
    return Parts(cut, xp.exp(mass).reshape(parts, n), _counts(samples) >= QUARTERS_FROM)


def extrapolated(lam: Array, parts: Parts, beta: Array) -> tuple[Array, Array]:
    """`describe` of all samples, and extrapolated to many samples a prompt.

    A prompt with fewer than 16 samples has no use of quarters, one with a single sample none of halves.

    Args:
      lam: [m] float.
      parts: of `split`.
      beta: [] float > 0.

    Returns:
      [4 + m, N] each, as `describe`; effective samples are not extrapolated.
    """
    count, xp = parts.masses.shape[0], module_of(lam, parts, beta)
    found = describe(lam, parts.samples, beta)
    found = found.reshape(found.shape[0], count, -1)  # [4 + m, P, N]
    whole = _union(found, parts.masses)
    if count == 1:
        return whole, whole
    halves = [_union(found[:, i::2], parts.masses[i::2]) for i in range(2)]
    half = (halves[0] + halves[1]) / 2
    better = 2 * whole - half
    if count == 4:
        better = xp.where(parts.finer[None], (8 * whole - 6 * half + xp.mean(found, axis=1)) / 3, better)
    better = xp.where(xp.isfinite(better), better, whole)
    return whole, xp.concatenate([better[:2], whole[2:3], better[3:]])


def _union(found: Array, masses: Array) -> Array:
    """`describe` of parts together, exactly: [4 + m, P, N], [P, N] -> [4 + m, N]; nan where all are empty."""
    xp = module_of(found, masses)
    log_mean, kl, ess, *means = found
    logs = xp.where(masses > 0, xp.log(xp.where(masses > 0, masses, 1)) + log_mean, -xp.inf)
    total = _log_sum(xp, logs, axis=0)
    weights = xp.exp(logs - total[None])  # of the parts under the tilt
    value = total - xp.log(xp.sum(masses, axis=0))
    divergence = xp.sum(weights * (kl + log_mean), axis=0) - value
    effective = 1 / xp.sum(xp.square(weights) / ess, axis=0)
    return xp.stack([value, divergence, effective, *[xp.sum(weights * x, axis=0) for x in means]])


def _log_sum(xp: Any, logs: Array, axis: int) -> Array:
    """The logarithm of sums of exponentials along an axis; -inf where all are."""
    top = xp.max(logs, axis=axis, keepdims=True)
    top = xp.where(xp.isneginf(top), xp.zeros((), logs.dtype), top)
    return xp.log(xp.sum(xp.exp(logs - top), axis=axis)) + xp.squeeze(top, axis)


def _counts(samples: Samples) -> Array:
    """Samples of each prompt, [N]."""
    xp = module_of(samples)
    n, k = samples.rewards.shape
    if samples.log_base is None:
        return xp.full(n, k)
    return xp.sum(~xp.isneginf(samples.log_base), axis=1)


class _Root(NamedTuple):
    """A root of the corrected gradient, scaled.

    Attributes:
      point: [m].
      error: [], projected gradient there.
      added: [m, N], what the correction adds to every prompt's gradient there.
      first: [4 + m, N], `describe` extrapolated to many samples at the point where the search began.
    """

    point: Array
    error: Array
    added: Array
    first: Array


def _corrected_root(point: Array, problem: Scaled, parts: Parts) -> _Root:
    xp = module_of(point, problem, parts)

    def step(i: Array, root: _Root) -> _Root:
        plain, better = extrapolated(root.point, parts, problem.tau)
        added = (better - plain)[4:]
        at = evaluate(root.point, problem, problem.tau)
        gradient = at.gradient + over_prompts(added, problem.samples)
        moved = root.point + _SHARE * newton_step(root.point, gradient, at.hessian, 0 * at.value)
        moves = (i < _STEPS) & xp.all(xp.isfinite(moved))
        return _Root(
            xp.where(moves, moved, root.point),
            projected_error(root.point, gradient),
            added,
            xp.where(i == 0, better, root.first),
        )

    m, n, kind = point.size, problem.samples.rewards.shape[0], point.dtype
    begin = _Root(point, xp.zeros((), kind), xp.zeros((m, n), kind), xp.zeros((4 + m, n), kind))
    if xp is np:
        return functools.reduce(lambda root, i: step(i, root), range(_STEPS + 1), begin)
    return jax.lax.fori_loop(0, _STEPS + 1, step, begin)  # the last looks only, one body compiles faster


def _bias(inputs: Inputs, beta: float | Array, lam: Array, key: Array) -> Bias:
    ready = prepare(inputs, beta, "dual.finite_sample_bias")
    plain, better = describe(lam, ready.samples, ready.beta), extrapolate(lam, ready, key)
    change = over_prompts(plain[3:] - better.scores.T, ready.samples)
    kl = over_prompts(plain[1] - better.kl, ready.samples)
    return Bias(lam - better.lam, change[1:], change[0], kl)
