"""The sampled dual function, its tilted weights, and its derivatives in closed form.

Letters: N prompts, K reference samples a prompt, m constraints. `rewards` and `utilities` are in any units;
higher is better, higher is safer. Everything here is a pure function of arrays and keeps the type it is
given.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from alignjax.dual.plain import Array, compiled, module_of
from alignjax.dual.samples import (
    Samples,
    by_chunks,
    check_vector,
    gather,
    loaded,
    log_base,
    over_prompts,
    sum_constraints,
)


class Derivatives(NamedTuple):
    """The dual function at one multiplier.

    Attributes:
      value: [], D(lam).
      gradient: [m], E_x E_{pi_lam} g - c.
      hessian: [m, m], E_x Cov_{pi_lam}(g) / beta.
      recession: [], D_inf(lam) = E_x max_k <lam, g_k> - <lam, c>; negative: no policy reaches the levels.
    """

    value: Array
    gradient: Array
    hessian: Array
    recession: Array


def objective(
    lam: ArrayLike,
    rewards: ArrayLike,
    utilities: ArrayLike,
    levels: ArrayLike,
    *,
    beta: float | Array,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
) -> Array:
    """Sampled dual at one multiplier; convex in `lam`.

        D(lam) = beta mean_i log mean_k exp((r_ik + <lam, g_ik>) / beta) - <lam, c>

    Args:
      lam: [m] float, multipliers; the caller keeps them >= 0.
      rewards: [N, K] float, r; K reference samples of each of N prompts.
      utilities: [N, K, m] float, g; higher is safer.
      levels: [m] float, c; the mean utility to reach, in the units of `utilities`.
      beta: KL weight > 0, in the units of `rewards` per nat.
      mask: [N, K] bool, True where a sample exists; at least one a row; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt in the outer mean; None: equal.
      importance: [N, K] float >= 0, weight of every sample in the inner mean, pi_ref(y|x) / q(y|x) up to a
        factor a prompt where q drew the samples; None: equal.

    Returns:
      [] float, in the units of `rewards`.

    Raises:
      InputError: shapes that do not fit.

    Reference: Huang et al. 2024, arXiv 2405.19544, the dual function.
    """
    lam, levels = jnp.asarray(lam), jnp.asarray(levels)
    scores = jnp.asarray(rewards), jnp.asarray(utilities)
    samples = gather(*scores, mask, prompt_weights, importance, where="dual.objective")
    check_vector(lam, samples, "lam", "dual.objective")
    check_vector(levels, samples, "levels", "dual.objective")
    logits = _logits(lam, samples, beta)
    return beta * over_prompts(jax.nn.logsumexp(logits, axis=1), samples) - jnp.dot(lam, levels)


def tilt(
    lam: ArrayLike,
    rewards: ArrayLike,
    utilities: ArrayLike,
    *,
    beta: float | Array,
    mask: ArrayLike | None = None,
    importance: ArrayLike | None = None,
) -> Array:
    """Weights of the tilted policy pi_lam on the reference's samples.

        w_ik = softmax_k((r_ik + <lam, g_ik>) / beta)

    Args:
      lam: [m] float, multipliers >= 0.
      rewards: [N, K] float.
      utilities: [N, K, m] float; higher is safer.
      beta: KL weight > 0, in the units of `rewards` per nat.
      mask: [N, K] bool, True where a sample exists; None: all.
      importance: [N, K] float >= 0, as in `objective`.

    Returns:
      [N, K] float; each row sums to 1, absent samples have 0.

    Raises:
      InputError: shapes that do not fit.

    Reference: Huang et al. 2024, arXiv 2405.19544, the optimal policy.
    """
    scores = jnp.asarray(rewards), jnp.asarray(utilities)
    samples = gather(*scores, mask, None, importance, where="dual.tilt")
    check_vector(jnp.asarray(lam), samples, "lam", "dual.tilt")
    return jax.nn.softmax(_logits(jnp.asarray(lam), samples, beta), axis=1)


def derivatives(lam: Array, samples: Samples, levels: Array, beta: Array) -> Derivatives:
    """Value, gradient, Hessian and recession function of the dual, in closed form and one pass.

        grad D = E_x E_w[g] - c,   Hess D = E_x Cov_w[g] / beta,   D_inf = E_x max_k <lam, g_k> - <lam, c>

    Args:
      lam: [m] float; its type is the type of the sums.
      samples: of `gather`.
      levels: [m] float.
      beta: [] float > 0.

    Returns:
      All of them at `lam`.

    Reference: Huang et al. 2024, arXiv 2405.19544, derivatives of the dual; the recession function is the
    limit of D(t lam) / t as t grows (Rockafellar 1970, section 8).
    """
    sums = over_prompts(prompt_moments(lam, samples, beta), samples)
    return assemble(lam, sums, levels, beta)


@compiled
def prompt_moments(lam: Array, samples: Samples, beta: Array) -> Array:
    """What `derivatives` needs of every prompt.

    Args:
      lam: [m] float; its type is the type of the result.
      samples: of `gather`.
      beta: [] float > 0.

    Returns:
      [2 + m + m (m + 1) / 2, N]: log mean exp, max_k <lam, g_k>, means of g, covariances of g (upper triangle
      by rows).
    """
    m = samples.utilities.shape[0]
    samples = jax.tree.map(jnp.asarray, samples)  # NumPy's, where they alone are constants of a trace

    def of(part: Samples) -> Array:
        r, g, base = loaded(part, lam.dtype)
        along = sum_constraints(lam, g)  # [n, K]
        logits = (r + along) / beta + base
        top = jnp.max(logits, axis=1, keepdims=True)
        # Held, or every sum below takes the exponentials anew.
        weights = jax.lax.optimization_barrier(jnp.exp(logits - top))
        total = jnp.sum(weights, axis=1)
        means = [jnp.sum(weights * g[a], axis=1) / total for a in range(m)]
        centred = [g[a] - means[a][:, None] for a in range(m)]
        seconds = [
            jnp.sum(weights * centred[a] * centred[b], axis=1) / total for a in range(m) for b in range(a, m)
        ]
        highest = along if part.log_base is None else jnp.where(jnp.isneginf(base), -jnp.inf, along)
        return jnp.stack([top[:, 0] + jnp.log(total), jnp.max(highest, axis=1), *means, *seconds])

    return by_chunks(of, samples)


def assemble(lam: Array, sums: Array, levels: Array, beta: Array) -> Derivatives:
    """Derivatives from the means over prompts of `prompt_moments`, [2 + m + m (m + 1) / 2]."""
    m, xp = lam.size, module_of(lam, sums, levels, beta)
    place = {pair: i for i, pair in enumerate((a, b) for a in range(m) for b in range(a, m))}
    rows = [[sums[2 + m + place[min(a, b), max(a, b)]] for b in range(m)] for a in range(m)]
    hessian = xp.stack([xp.stack(row) for row in rows]) / beta
    dot = lam @ levels
    return Derivatives(beta * sums[0] - dot, sums[2 : 2 + m] - levels, hessian, sums[1] - dot)


def _logits(lam: Array, samples: Samples, beta: float | Array) -> Array:
    return (samples.rewards + sum_constraints(lam, samples.utilities)) / beta + log_base(
        samples, samples.rewards.dtype
    )
