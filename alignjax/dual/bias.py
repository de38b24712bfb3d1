"""What finite K adds to the estimates, and the estimates without it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, margins_or_levels, on_host
from alignjax.dual.newton import Scaled, describe, evaluate, newton_step, projected_error
from alignjax.dual.samples import Samples, every, over_prompts
from alignjax.dual.solver import Prepared, prepare, solve_jit, solve_samples

_QUARTERS_FROM = 16  # samples a prompt; below it a quarter holds too few
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


class Extrapolated(NamedTuple):
    """The estimates extrapolated to many samples a prompt, and what makes them so for other prompts.

    Attributes:
      scores: [N, 1 + m], the reward and the utilities of every prompt under pi_lam.
      kl: [N], nats.
      lam: [m], root of the corrected gradient; nan where Newton steps find none.
      unit: [m], of the multipliers in the next two.
      hessian: [m, m], between both roots.
      added: [m, N], what the correction adds to every prompt's gradient.
    """

    scores: Array
    kl: Array
    lam: Array
    unit: Array
    hessian: Array
    added: Array

    def shifted(self, lam: Array, prompt_weights: Array) -> Array:
        """The multiplier [m] found on prompts of other weights [N], corrected to first order in the bias."""
        point = lam / self.unit
        step = newton_step(point, self.added @ prompt_weights, self.hessian, jnp.zeros_like(point[0]))
        return lam + self.unit * step


def extrapolate(lam: Array, ready: Prepared) -> Extrapolated:
    """What finite K adds at the solution `lam` [m], taken off; as in `finite_sample_bias`."""
    problem = ready.problem
    point = lam / problem.unit
    end = _corrected_root(point, problem)
    # Scaled scores as they are without the scaling: centred in each prompt, in units of their spread.
    units = jnp.concatenate([(ready.beta / problem.tau)[None], problem.spread])
    scores = end.first[3:] * units[:, None] + ready.summary.mean
    root = jnp.where(end.error < _FOUND, end.point * problem.unit, jnp.nan)
    hessian = evaluate((point + end.point) / 2, problem, problem.tau).hessian
    return Extrapolated(scores.T, end.first[1], root, problem.unit, hessian, end.added)


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


def _corrected_root(point: Array, problem: Scaled) -> _Root:
    def step(i: Array, root: _Root) -> _Root:
        plain = describe(root.point, problem.samples, problem.tau)
        better = _corrected(root.point, problem.samples, problem.tau)
        added = (better - plain)[4:]
        at = evaluate(root.point, problem, problem.tau)
        gradient = at.gradient + over_prompts(added, problem.samples)
        moved = root.point + _SHARE * newton_step(root.point, gradient, at.hessian, jnp.zeros_like(at.value))
        moves = (i < _STEPS) & jnp.all(jnp.isfinite(moved))
        return _Root(
            jnp.where(moves, moved, root.point),
            projected_error(root.point, gradient),
            added,
            jnp.where(i == 0, better, root.first),
        )

    m, n, kind = point.size, problem.samples.rewards.shape[0], point.dtype
    begin = _Root(point, jnp.zeros((), kind), jnp.zeros((m, n), kind), jnp.zeros((4 + m, n), kind))
    return jax.lax.fori_loop(0, _STEPS + 1, step, begin)  # the last looks only, one body compiles faster


def _bias(inputs: Inputs, beta: float | Array, lam: Array) -> Bias:
    ready = prepare(inputs, beta, "dual.finite_sample_bias")
    plain, better = describe(lam, ready.samples, ready.beta), extrapolate(lam, ready)
    change = over_prompts(plain[3:] - better.scores.T, ready.samples)
    kl = over_prompts(plain[1] - better.kl, ready.samples)
    return Bias(lam - better.lam, change[1:], change[0], kl)


_bias_jit = jax.jit(_bias)
