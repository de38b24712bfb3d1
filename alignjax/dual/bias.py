"""What finite K adds to the estimates, and the estimates without it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, margins_or_levels, on_host
from alignjax.dual.newton import describe, evaluate, newton_step, projected_error
from alignjax.dual.samples import Samples, every, over_prompts
from alignjax.dual.solve import Prepared, prepare, solve_jit, solve_samples

_QUARTERS_FROM = 16  # samples a prompt; below it a quarter holds too few
# Newton's method on the corrected gradient with the plain Hessian: the correction may make the slope up to
# 8/3 as large, and steps of this share still converge.
_STEPS, _SHARE = 12, 0.6


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
) -> Bias:
    """Bias of the estimates by K samples a prompt, from halves and quarters of every prompt's samples.

    An estimate by K samples is off by about a / K + b / K^2. With E_K, E_{K/2}, E_{K/4} the estimates by all,
    by halves and by quarters (means over these), both terms vanish from

        (8 E_K - 6 E_{K/2} + E_{K/4}) / 3,        and the first from  2 E_K - E_{K/2}  where K < 16;

    the bias is E_K minus that. That of lam is what the same correction of the gradient of D moves its root.

    Args:
      rewards: [N, K] float, K >= 2.
      utilities: [N, K, m] float; higher is safer.
      beta: KL weight > 0, in the units of `rewards` per nat.
      margins: [m] float; exactly one of this and levels.
      levels: [m] float.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0; None: equal.
      importance: [N, K] float >= 0, as in `objective`.

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
        return _bias(inputs, beta, solve_samples(inputs, beta).lam)
    inputs, beta = checked(inputs, where), check_beta(beta, where)
    with on_host():
        return jax.tree.map(np.asarray, _bias_jit(inputs, beta, solve_jit(inputs, beta).lam))


def prompt_means(lam: Array, ready: Prepared) -> Array:
    """Reward, KL and margins of every prompt under pi_lam: [2 + m, N]."""
    return _rows(describe(lam, ready.samples, ready.beta), ready.summary.mean[1:])


def corrected_means(lam: Array, ready: Prepared) -> Array:
    """`prompt_means` without the bias of finite K; as they are where a prompt has too few samples."""
    columns = _corrected(lam, ready.samples, ready.beta)
    return _rows(columns, ready.summary.mean[1:])


def shift_of_lam(point: Array, ready: Prepared) -> tuple[Array, Array]:
    """What moves a root of D's gradient, scaled, to that of the corrected gradient.

    Args:
      point: [m], the root v of the gradient as it is.
      ready: the problem.

    Returns:
      The Hessian between both roots [m, m], and what the correction adds to every prompt's gradient [m, N].
    """
    corrected, _, added = _corrected_root(point, ready)
    problem = ready.problem
    return evaluate((point + corrected) / 2, problem, problem.tau).hessian, added


def _rows(columns: Array, reference: Array) -> Array:
    return jnp.concatenate([columns[3:4], columns[1:2], columns[4:] - reference])


def _corrected(lam: Array, samples: Samples, beta: Array) -> Array:
    """`describe` extrapolated to many samples a prompt."""
    whole = describe(lam, samples, beta)
    k = samples.rewards.shape[1]

    def by(parts: int) -> Array:
        found = [describe(lam, every(samples, i, parts), beta) for i in range(parts)]
        return sum(found[1:], found[0]) / parts

    if k < 2:
        return whole
    halves = by(2)
    better = 2 * whole - halves if k < _QUARTERS_FROM else (8 * whole - 6 * halves + by(4)) / 3
    return jnp.where(jnp.isfinite(better), better, whole)


def _corrected_root(point: Array, ready: Prepared) -> tuple[Array, Array, Array]:
    """The root of the corrected gradient [m], its projected gradient [], what is added a prompt [m, N]."""
    problem = ready.problem

    def added_at(point: Array) -> Array:
        plain = describe(point, problem.samples, problem.tau)
        return (_corrected(point, problem.samples, problem.tau) - plain)[4:]

    def gradient_at(point: Array, added: Array) -> tuple[Array, Array]:
        at = evaluate(point, problem, problem.tau)
        return at.gradient + over_prompts(added, problem.samples), at.hessian

    def step(_: int, point: Array) -> Array:
        gradient, hessian = gradient_at(point, added_at(point))
        moved = point + _SHARE * newton_step(point, gradient, hessian, jnp.zeros_like(gradient[0]))
        return jnp.where(jnp.all(jnp.isfinite(moved)), moved, point)

    end = jax.lax.fori_loop(0, _STEPS, step, point)
    added = added_at(end)
    return end, projected_error(end, gradient_at(end, added)[0]), added


def _bias(inputs: Inputs, beta: float | Array, lam: Array) -> Bias:
    ready = prepare(inputs, beta, "dual.finite_sample_bias")
    change = over_prompts(prompt_means(lam, ready) - corrected_means(lam, ready), ready.samples)
    unit = ready.problem.unit
    end, error, _ = _corrected_root(lam / unit, ready)
    found = jnp.where(error < 1e-3, end * unit, jnp.nan)
    return Bias(lam - found, change[2:], change[0], change[1])


_bias_jit = jax.jit(_bias)
