"""Relabels preference pairs for the final alignment with the score s = r + <lam*, g> of the dual."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import xlogy
from jax.typing import ArrayLike

from alignjax.errors import InputError


def relabel_pairs(rewards: ArrayLike, utilities: ArrayLike, lam: ArrayLike) -> Array:
    """Labels of pairs under the score of the Lagrangian at a multiplier.

        p = sigma(s(x, chosen) - s(x, rejected)),   s = r + <lam, g>

    Args:
      rewards: [n, 2] float, r of the chosen and of the rejected response.
      utilities: [n, 2, m] float, g likewise; higher is safer.
      lam: [m] float, multipliers >= 0.

    Returns:
      [n] float32 in [0, 1], P(chosen preferred).

    Raises:
      InputError: shapes that do not fit.

    Reference: Huang et al. 2024, arXiv 2405.19544, the optimal policy's exponent and the relabelling step.
    """
    r, g, multipliers = (np.asarray(x, np.float64) for x in (rewards, utilities, lam))
    if r.ndim != 2 or r.shape[1] != 2 or multipliers.ndim != 1 or g.shape != (*r.shape, multipliers.size):
        raise InputError(
            f"relabel_pairs: rewards {r.shape}, utilities {g.shape} and lam {multipliers.shape} must be "
            "[n, 2], [n, 2, m] and [m]; put the chosen response's scores first."
        )
    scores = r + g @ multipliers
    return soft_labels(jnp.asarray(scores[:, 0], jnp.float32), jnp.asarray(scores[:, 1], jnp.float32))


def soft_labels(scores_chosen: Array, scores_rejected: Array) -> Array:
    """Bradley-Terry probability that the chosen response is preferred.

        p = sigma(s(x, chosen) - s(x, rejected))

    Args:
      scores_chosen: [B] float32, s of the chosen response; a constant of the prompt cancels.
      scores_rejected: [B] float32, s of the rejected response.

    Returns:
      [B] float32 in [0, 1].

    Reference: Huang et al. 2024, arXiv 2405.19544, the pseudo-preference of the relabelling step; the authors
    draw from this probability, here it is the label.
    """
    return jax.nn.sigmoid(scores_chosen - scores_rejected)


def bernoulli_labels(key: Array, probs: Array, *, draws: int = 1) -> Array:
    """Draws labels from their probabilities; with several draws per pair the label is their mean.

    One draw is the published method. A pair whose label is the mean of n draws has the mean loss of n copies
    of the pair with one draw each. As n grows the label tends to the soft label.

    Args:
      key: PRNG key, used once.
      probs: [B] float32 in [0, 1], P(chosen preferred).
      draws: draws per pair, >= 1.

    Returns:
      [B] float32; 0 or 1 with one draw, multiples of 1 / draws otherwise.

    Raises:
      ValueError: draws < 1.
    """
    if draws < 1:
        raise ValueError(f"relabel.bernoulli_labels: draws is {draws}; give 1 or more.")
    drawn = jax.random.bernoulli(key, probs[None], shape=(draws, *probs.shape))
    return jnp.mean(drawn, axis=0, dtype=jnp.float32)


def flip_rate(labels: Array, human: Array) -> Array:
    """Share of pairs whose preferred response differs between two sets of labels.

        mean_b [ (p_b - 1/2) (q_b - 1/2) < 0 ]

    Args:
      labels: [B] float32 in [0, 1], P(chosen preferred) after relabelling.
      human: [B] float32 in [0, 1], the human labels; a tie in either set is not a flip.

    Returns:
      [] float32 in [0, 1].
    """
    return jnp.mean((labels - 0.5) * (human - 0.5) < 0, dtype=jnp.float32)


def entropy(labels: Array) -> Array:
    """Entropy of each label as a Bernoulli variable.

        -(p log p + (1 - p) log(1 - p)),   0 at p = 0 and p = 1

    Args:
      labels: [B] float32 in [0, 1].

    Returns:
      [B] float32, nats, at most log 2.
    """
    return -(xlogy(labels, labels) + xlogy(1.0 - labels, 1.0 - labels))
