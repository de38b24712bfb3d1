"""Losses of preference alignment: plain functions, one value per pair or response.

The caller weights and averages them. Log-ratios are log pi_theta(y|x) - log pi_ref(y|x), float32 sums over
the response's tokens. Every preference loss has the signature of `dpo`; `pairwise_loss` gives one by its name
in the configuration. A label p = P(chosen preferred) mixes the loss of the pair as it stands with that of the
pair with its responses swapped:

    loss(h, p) = p loss(h, 1) + (1 - p) loss(-h, 1)         h = chosen_logratio - rejected_logratio

so a soft label is the expectation of the loss over drawn labels.

The losses of score models, `bradley_terry` and `cost`, take the scores themselves in place of log-ratios.
"""

from __future__ import annotations

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array

from alignjax.config.settings import check_loss


class PreferenceLoss(Protocol):
    """The signature of a loss of preference pairs, as the train step calls it; `dpo` documents it."""

    def __call__(
        self, chosen_logratio: Array, rejected_logratio: Array, *, beta: float, label: Array | float = 1.0
    ) -> Array:
        """[B], [B] -> [B]."""
        ...


def pairwise_loss(name: str, *, label_smoothing: float = 0.0) -> PreferenceLoss:
    """A preference loss by its name in the configuration, with its options.

    Args:
      name: dpo, cdpo, robust, ipo or hinge. Only dpo's optimum is the policy that the dual describes; see
        docs/method.md.
      label_smoothing: for cdpo and robust, share of labels taken to be wrong, in (0, 0.5); 0 for the others.

    Returns:
      A function of chosen and rejected log-ratios [B], `beta` and `label` [B], as `dpo`.

    Raises:
      ValueError: unknown name, or an option that is out of range or that this loss does not take; the message
        begins with the argument's name.
    """
    check_loss(name, label_smoothing)
    match name:
        case "cdpo":
            return functools.partial(cdpo, label_smoothing=label_smoothing)
        case "robust":
            return functools.partial(robust, label_smoothing=label_smoothing)
        case "ipo":
            return ipo
        case "hinge":
            return hinge
        case _:
            return dpo


def dpo(
    chosen_logratio: Array, rejected_logratio: Array, *, beta: float, label: Array | float = 1.0
) -> Array:
    """Direct preference optimization, with hard or soft labels.

        z = beta (chosen_logratio - rejected_logratio)
        loss = -(p log sigma(z) + (1 - p) log sigma(-z))

    With p = sigma(s(x, chosen) - s(x, rejected)) the minimum is the policy proportional to
    pi_ref exp(s / beta).

    Args:
      chosen_logratio: [B] float32, log pi_theta / pi_ref of the chosen response, nats.
      rejected_logratio: [B] float32, the same of the rejected response.
      beta: KL weight > 0, in the units of the scores per nat.
      label: [B] float32 or scalar in [0, 1], p, the probability that chosen is preferred.

    Returns:
      [B] float32, nats; log 2 where both log-ratios are 0.

    Reference: Rafailov et al. 2023, arXiv 2305.18290, the DPO objective (equation 7); with soft labels its
    expectation over Bradley-Terry labels.
    """
    z = beta * (chosen_logratio - rejected_logratio)
    return -(label * jax.nn.log_sigmoid(z) + (1.0 - label) * jax.nn.log_sigmoid(-z))


def cdpo(
    chosen_logratio: Array,
    rejected_logratio: Array,
    *,
    beta: float,
    label_smoothing: float,
    label: Array | float = 1.0,
) -> Array:
    """Conservative DPO: every label is taken to be wrong with probability `label_smoothing`.

        p' = (1 - label_smoothing) p + label_smoothing (1 - p);   loss = dpo at label p'

    Args:
      chosen_logratio: [B] float32, nats.
      rejected_logratio: [B] float32, nats.
      beta: KL weight > 0.
      label_smoothing: share of wrong labels, in [0, 0.5).
      label: [B] float32 or scalar in [0, 1], p.

    Returns:
      [B] float32, nats.

    Reference: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", the conservative
    DPO loss.
    """
    smoothed = (1.0 - label_smoothing) * label + label_smoothing * (1.0 - label)
    return dpo(chosen_logratio, rejected_logratio, beta=beta, label=smoothed)


def robust(
    chosen_logratio: Array,
    rejected_logratio: Array,
    *,
    beta: float,
    label_smoothing: float,
    label: Array | float = 1.0,
) -> Array:
    """Robust DPO: with a share `label_smoothing` of labels flipped, its mean is the loss on the true labels.

        loss = ((1 - label_smoothing) dpo(p) - label_smoothing dpo(1 - p)) / (1 - 2 label_smoothing)

    This is dpo at the label (p - label_smoothing) / (1 - 2 label_smoothing). Where that lies outside [0, 1],
    the loss of the pair has no lower bound: use it on labels that are noisy, not on exact probabilities.

    Args:
      chosen_logratio: [B] float32, nats.
      rejected_logratio: [B] float32, nats.
      beta: KL weight > 0.
      label_smoothing: share of flipped labels, in [0, 0.5).
      label: [B] float32 or scalar in [0, 1], p.

    Returns:
      [B] float32, nats; can be negative.

    Reference: Ray Chowdhury, Kini, Natarajan 2024, arXiv 2403.00409, the unbiased (robust) DPO loss.
    """
    as_labelled = dpo(chosen_logratio, rejected_logratio, beta=beta, label=label)
    flipped = dpo(chosen_logratio, rejected_logratio, beta=beta, label=1.0 - label)
    return ((1.0 - label_smoothing) * as_labelled - label_smoothing * flipped) / (1.0 - 2.0 * label_smoothing)


def ipo(
    chosen_logratio: Array, rejected_logratio: Array, *, beta: float, label: Array | float = 1.0
) -> Array:
    """Identity preference optimization: regress the log-ratio difference on a finite target.

        loss = p (h - 1 / (2 beta))^2 + (1 - p) (h + 1 / (2 beta))^2

    Log-ratios are sums over tokens as in the paper (TRL averages them over tokens).

    Args:
      chosen_logratio: [B] float32, nats.
      rejected_logratio: [B] float32, nats.
      beta: regularisation > 0; the paper's tau.
      label: [B] float32 or scalar in [0, 1], p.

    Returns:
      [B] float32, nats squared; 1 / (4 beta^2) where both log-ratios are 0.

    Reference: Azar et al. 2023, arXiv 2310.12036, the sampled IPO loss (equation 17).
    """
    h = chosen_logratio - rejected_logratio
    target = 1.0 / (2.0 * beta)
    return label * jnp.square(h - target) + (1.0 - label) * jnp.square(h + target)


def hinge(
    chosen_logratio: Array, rejected_logratio: Array, *, beta: float, label: Array | float = 1.0
) -> Array:
    """Hinge loss on the implicit reward difference.

        loss = p max(0, 1 - z) + (1 - p) max(0, 1 + z)        z = beta (chosen_logratio - rejected_logratio)

    Args:
      chosen_logratio: [B] float32, nats.
      rejected_logratio: [B] float32, nats.
      beta: inverse of the margin > 0, per nat.
      label: [B] float32 or scalar in [0, 1], p.

    Returns:
      [B] float32, no unit; 1 where both log-ratios are 0.

    Reference: Zhao et al. 2023 (SLiC-HF), arXiv 2305.10425, normalised by the reference as in Liu et al. 2023
    (RSO), arXiv 2309.06657, the hinge-norm loss.
    """
    z = beta * (chosen_logratio - rejected_logratio)
    return label * jax.nn.relu(1.0 - z) + (1.0 - label) * jax.nn.relu(1.0 + z)


def bradley_terry(
    chosen: Array,
    rejected: Array,
    *,
    label: Array | float = 1.0,
    regularizer: float = 0.0,
    centering: float = 0.0,
) -> Array:
    """Loss of a reward model: log-likelihood of Bradley-Terry labels, hard or soft.

        loss = -(p log sigma(d) + (1 - p) log sigma(-d)) + regularizer (c^2 + r^2) + centering (c + r)^2

    with c = chosen, r = rejected, d = c - r. Labels determine the difference alone; either of the last two
    terms determines the rest: the first keeps scores small, the second keeps a pair's mean near 0.

    Args:
      chosen: [B] float32, score of the chosen response; higher is better.
      rejected: [B] float32, score of the rejected response.
      label: [B] float32 or scalar in [0, 1], p, the probability that chosen is preferred.
      regularizer: weight >= 0 of the squares of the scores.
      centering: weight >= 0 of the square of their sum.

    Returns:
      [B] float32, nats; log 2 where both scores are 0.

    Reference: Bradley and Terry 1952; the first term on magnitudes as in the code of Dai et al. 2023 (Safe
    RLHF), arXiv 2310.12773; centering: Eisenstein et al. 2023, arXiv 2312.09244, as TRL's
    center_rewards_coefficient.
    """
    # The DPO loss is this one on implicit rewards.
    loss = dpo(chosen, rejected, beta=1.0, label=label)
    loss += regularizer * (jnp.square(chosen) + jnp.square(rejected))
    return loss + centering * jnp.square(chosen + rejected)


def cost(
    chosen_cost: Array,
    rejected_cost: Array,
    *,
    chosen_sign: Array | float = 0.0,
    rejected_sign: Array | float = 0.0,
    label: Array | float = 1.0,
    regularizer: float = 0.0,
    centering: float = 0.0,
) -> Array:
    """Loss of a cost model: the safer response costs less, and unsafe ones cost more than 0.

        loss = bradley_terry(-c, -r) - log sigma(s_c c) - log sigma(s_r r)

    with c = chosen_cost, r = rejected_cost; a term whose sign is unknown is left out. Where no sign is known
    only differences of costs are learned, and their zero means nothing.

    Args:
      chosen_cost: [B] float32, cost of the chosen, that is the safer response; higher is more harmful.
      rejected_cost: [B] float32, cost of the rejected, the more harmful one.
      chosen_sign: [B] float32 or scalar, s_c: +1 where the response is unsafe, -1 where it is safe, 0 or nan
        where that is unknown.
      rejected_sign: [B] float32 or scalar, s_r, likewise.
      label: [B] float32 or scalar in [0, 1], p, the probability that chosen is the safer one.
      regularizer: as in `bradley_terry`.
      centering: as in `bradley_terry`; it pulls against the signs of pairs that are both safe or both unsafe.

    Returns:
      [B] float32, nats.

    Reference: Dai et al. 2023 (Safe RLHF), arXiv 2310.12773, the loss of the cost model.
    """
    pair = bradley_terry(
        -chosen_cost, -rejected_cost, label=label, regularizer=regularizer, centering=centering
    )
    return pair + _sign_loss(chosen_cost, chosen_sign) + _sign_loss(rejected_cost, rejected_sign)


def _sign_loss(costs: Array, sign: Array | float) -> Array:
    """-log sigma(sign cost), and 0 where the sign is 0 or nan: [B] -> [B]."""
    sign = jnp.where(jnp.isnan(sign), 0.0, sign)
    return jnp.where(sign != 0, -jax.nn.log_sigmoid(sign * costs), 0.0)


def sft(logps: Array, lengths: Array) -> Array:
    """Negative log-likelihood of a response, per token.

        loss = -log pi(y|x) / |y|

    Args:
      logps: [B] float32, log pi(y|x), sums over response tokens, nats.
      lengths: [B] int32, response tokens, EOS included; 0 (a padding row) gives 0.

    Returns:
      [B] float32, nats a token. Weighted by `lengths` its mean is that of all tokens.
    """
    tokens = jnp.maximum(lengths, 1).astype(logps.dtype)
    return jnp.where(lengths > 0, -logps, 0.0) / tokens


def weighted_mean(values: Array, weights: Array) -> Array:
    """Mean over rows that count: sum_b w_b v_b / sum_b w_b, and 0 when no row counts.

    Args:
      values: [B] float32; what a row of weight 0 holds reaches neither the mean nor a gradient.
      weights: [B] float32 >= 0; 0 marks padding rows.

    Returns:
      [] float32.
    """
    values = jnp.where(weights > 0, values, 0.0)
    total = jnp.sum(weights)
    return jnp.sum(weights * values) / jnp.where(total > 0, total, 1.0)
