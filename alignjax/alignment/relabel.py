"""Labels for the final alignment: preference pairs relabelled by the dual's score s = r + <lam*, g>."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import xlogy


def combine(rewards: Array, utilities: Array, lam: Array) -> Array:
    """Score of the Lagrangian at a multiplier.

        s = r + <lam, g>

    Args:
      rewards: [B] float32, r.
      utilities: [B, m] float32, g; higher is safer.
      lam: [m] float32, multipliers >= 0.

    Returns:
      [B] float32, in the units of the rewards.

    Reference: Huang et al. 2024, arXiv 2405.19544, the optimal policy's exponent.
    """
    return rewards + utilities @ lam


def soft_labels(scores_chosen: Array, scores_rejected: Array) -> Array:
    """Bradley-Terry probability that the chosen response is preferred.

        p = sigma(s(x, chosen) - s(x, rejected))

    Args:
      scores_chosen: [B] float32, s of the chosen response; a constant per prompt cancels.
      scores_rejected: [B] float32, s of the rejected response.

    Returns:
      [B] float32 in [0, 1].

    Reference: Huang et al. 2024, arXiv 2405.19544, the pseudo-preference of the relabelling step, kept as a
    probability where the authors draw from it.
    """
    return jax.nn.sigmoid(scores_chosen - scores_rejected)


def raw_logratio_labels(scores_chosen: Array, scores_rejected: Array, *, beta_pre: float) -> Array:
    """Labels of the authors' released code: the same from raw log-ratios, without beta_pre.

        p = sigma((s(x, chosen) - s(x, rejected)) / beta_pre)

    An implicit score is beta_pre log(pi / pi_ref), so these labels are 1 / beta_pre sharper than the scores
    imply. Kept to reproduce published runs; `soft_labels` is what the mathematics says.

    Args:
      scores_chosen: [B] float32, s from implicit scores of the chosen response.
      scores_rejected: [B] float32, of the rejected response.
      beta_pre: KL weight > 0 of the pre-alignment the scores were read from.

    Returns:
      [B] float32 in [0, 1].

    Reference: the code released with Huang et al. 2024, arXiv 2405.19544; METHOD section 4, first trap.
    """
    return soft_labels(scores_chosen / beta_pre, scores_rejected / beta_pre)


def bernoulli_labels(key: Array, probs: Array, *, draws: int = 1) -> Array:
    """Labels drawn from their probabilities; the mean of several draws a pair.

    One draw is the published method. A pair with the mean of n draws as its label has the loss of n copies of
    the pair with one draw each; as n grows it tends to the soft label.

    Args:
      key: PRNG key, used once.
      probs: [B] float32 in [0, 1], P(chosen preferred).
      draws: draws a pair, >= 1.

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
      human: [B] float32 in [0, 1], the same by the people; exact ties count as no flip.

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
