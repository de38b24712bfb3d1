"""What is asked on top, so that what is asked holds with confidence: the guarded problem and its solution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, margins_or_levels, on_host
from alignjax.dual.bias import shuffle_key
from alignjax.dual.raising import Conservative, Terms, raise_until_settled
from alignjax.errors import InputError
from alignjax.records.uncertainty import ScoreUncertainty


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
    uncertainty: ScoreUncertainty | None = None,
    population: bool = False,
    seed: int = 0,
) -> Conservative:
    """Solves for the lower confidence bound of every margin in place of its estimate.

        margin_j(lam) - bias_j(lam) - guard_j(lam) >= b_j,
        guard_j = q sqrt(se_j^2 + v_j' Sigma_j v_j) + |bias_j| + 0.75 spread_j,
        q = t_{1 - (1 - confidence) / m, N - 1},    spread_j = sum_i p_i sd_ij (1 / ESS_i - 1 / K_i)

    bias_j is what finite K adds (`finite_sample_bias`); as it is an extrapolation itself, its size is room
    too. spread_j, with sd_ij the standard deviation of the utility over the responses to prompt i, is the
    size that the bias can have at the effective samples ESS_i: it is 0 where the tilt changes nothing, and
    does not cancel between prompts. se_j is the standard error over prompts of the estimate without bias;
    v_j' Sigma_j v_j the variance that the calibration of score j brings, v_j the mean change of the columns
    that the calibration reads; or the spread over an ensemble of utilities. All m hold together with the
    confidence (Bonferroni). bias and guard depend on lam: they are found by repeated solves, each begun at
    the last, and a guard that does not settle is refused.

    Args:
      rewards: [N, K] float.
      utilities: [N, K, m] float, or [E, N, K, m] of an ensemble of E models: the tilt uses their mean.
      beta: KL weight > 0, in the units of `rewards` per nat.
      margins: [m] float; exactly one of this and levels.
      levels: [m] float. What is estimated is then the mean utility itself, without the reference's.
      confidence: in (0.5, 1), one-sided.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0; None: equal. In a plain call N - 1 above is 1 / sum_i p_i^2 - 1.
      importance: [N, K] float >= 0, as in `objective`.
      uncertainty: of calibrated scores; not together with an ensemble. Its draws are not used. None: the
        scores are believed as they are.
      population: True where the prompts are all there are: se_j is then that of drawing K responses to each
        of them, and q a normal quantile.
      seed: of the shuffle that halves and quarters are taken from.

    Returns:
      The solution with its guard; infeasible where the raised margins cannot be met.

    Raises:
      InputError: as in `solve`; confidence outside (0.5, 1); a single prompt, of which there is no standard
        error; an ensemble together with `uncertainty`.

    Reference: Student 1908 for the quantile; Richardson 1911 for the bias.
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
    if len(members) > 1 and uncertainty is not None:
        raise InputError(f"{where}: both an ensemble of utilities and uncertainty given; give one of them.")
    vectors = margins_or_levels(margins, levels, where)
    inputs = Inputs(rewards, utilities, mask, prompt_weights, importance, vectors)
    m, n = members.shape[-1], members.shape[1]
    features, covariances = _members(members) if uncertainty is None else uncertainty[0::2]
    counts = np.full(m, float(n))
    if not is_traced(inputs, beta):
        counts = prompt_counts(None if prompt_weights is None else np.asarray(prompt_weights), None, m, n)
    q = quantiles(counts, confidence, population=population, where=where)
    terms = Terms(q, np.full(m, levels is not None), None, features, covariances)
    if is_traced(inputs, beta):
        inputs = floats(inputs._replace(utilities=members.mean(axis=0)))
        return raise_until_settled(inputs, terms, beta, shuffle_key(seed), population)
    for member in np.asarray(members):
        checked(inputs._replace(utilities=member), where)
    inputs = inputs._replace(utilities=np.asarray(members).mean(axis=0, dtype=np.float64))
    return guarded(inputs, terms, beta=beta, population=population, seed=seed, where=where)


def guarded(
    inputs: Inputs,
    terms: Terms,
    *,
    beta: Any,
    population: bool = False,
    seed: int = 0,
    where: str = "dual.answer",
) -> Conservative:
    """`solve_conservative` in a plain call, where some constraints may ask a margin and others a level.

    Args:
      inputs: with margins or levels in `vectors`, of the means over all prompts: (sum_i p_i e_ij) b_j.
      terms: of the guard.
      beta: KL weight > 0.
      population: as in `solve_conservative`.
      seed: of the shuffle that halves and quarters are taken from.
      where: the public function's name, for messages.
    """
    inputs, beta = checked(inputs, where), check_beta(beta, where)
    with on_host():
        parts = (None if x is None else np.asarray(x, np.float64) for x in terms[2:])
        terms = Terms(np.asarray(terms.quantile, np.float64), np.asarray(terms.by_level, bool), *parts)
        found = _conservative_jit(inputs, terms, beta, shuffle_key(seed), population)
        return jax.tree.map(np.asarray, found)


def prompt_counts(
    prompt_weights: np.ndarray | None, exposure: np.ndarray | None, m: int, n: int
) -> np.ndarray:
    """How many prompts each constraint's mean rests on, 1 / sum_i q_i^2 with q_i ~ p_i e_ij: [m] float64.

    Args:
      prompt_weights: [N], p; None: equal.
      exposure: [N, m], e; None: 1.
      m: constraints.
      n: prompts, N.
    """
    p = np.full(n, 1.0 / n) if prompt_weights is None else np.asarray(prompt_weights, np.float64)
    q = p[:, None] * (np.ones((n, m)) if exposure is None else exposure)
    return q.sum(axis=0) ** 2 / np.maximum((q**2).sum(axis=0), np.finfo(float).tiny)


def quantiles(
    counts: np.ndarray,
    confidence: float,
    *,
    population: bool = False,
    names: tuple[str, ...] | None = None,
    where: str = "dual.answer",
) -> np.ndarray:
    """One-sided quantiles of the guard, the error shared by all constraints: [m] float64.

    Args:
      counts: [m], of `prompt_counts`; the degrees of freedom are one less.
      confidence: that all hold.
      population: normal quantiles, as no prompts are drawn.
      names: of the constraints, for the message.
      where: the public function's name, for the message.

    Raises:
      InputError: a single prompt, of which there is no standard error.
    """
    level = 1 - (1 - confidence) / len(counts)
    if population:
        return np.full(len(counts), ndtri(level))
    alone = np.flatnonzero(counts < 1 + 1e-6)
    if len(alone):
        name = f"constraint {alone[0]}" if names is None else names[alone[0]]
        raise InputError(
            f"{where}: {name} rests on a single prompt, of which there is no standard error, so that nothing "
            "can be promised with confidence; give more prompts, or ask without a guard."
        )
    return stdtrit(counts - 1, level)


def _members(members: ArrayLike) -> tuple[Array | None, Array | None]:
    """An ensemble's utilities [E, N, K, m] as columns, and the covariances that say how they spread."""
    size, *_, m = jnp.shape(members)
    if size == 1:
        return None, None
    columns = jnp.moveaxis(jnp.asarray(members), 0, 2)
    columns = columns.reshape(*columns.shape[:2], size * m)
    spread = (np.eye(size) - 1 / size) / (size - 1)
    covariances = np.zeros((1 + m, 1 + m + size * m, 1 + m + size * m))
    for j in range(m):
        at = 1 + m + m * np.arange(size) + j
        covariances[1 + j, at[:, None], at] = spread
    return columns, jnp.asarray(covariances)


_conservative_jit = jax.jit(raise_until_settled, static_argnums=4)
