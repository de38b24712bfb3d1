"""Policies of one multiplier on the same prompts: draw-K from the reference's responses, and distances."""

import numpy as np
from scipy.special import logsumexp, softmax

from alignjax.evaluation.means import Basis, Scored, utilities_of

_SIMULATED = 256  # times that K draws are simulated for each prompt


def exponents(scored: Scored, basis: Basis, lam: np.ndarray, beta: float) -> np.ndarray:
    """(r + <lam, g>) / beta of every response: [T, K] float64.

    Args:
      scored: T prompts with K responses each.
      basis: of these prompts.
      lam: [m], multipliers of the constraints.
      beta: KL weight > 0.
    """
    values = utilities_of(scored, basis)
    return (values[..., 0] + values[..., 1:] @ np.asarray(lam, np.float64)) / beta


def draw_k(
    reference: Scored, basis: Basis, lam: np.ndarray, beta: float, *, count: int, rng: np.random.Generator
) -> Scored:
    """What the policy has that draws K responses of the reference and keeps one with the tilt's weights.

        w_k = softmax_k((r_k + <lam, g_k>) / beta),     KL <= sum_k w_k log(K w_k)

    Where responses were sampled, the K responses to each prompt are the K draws, and their weighted means are
    exact in expectation. Where all are listed, K draws are simulated many times.

    Args:
      reference: its responses to T prompts.
      basis: of the prompts.
      lam: [m], multipliers.
      beta: KL weight > 0.
      count: K where all responses are listed.
      rng: of the simulation.

    Returns:
      The reference's responses with the weights.
    """
    tilts = exponents(reference, basis, lam, beta)
    if reference.weights is None:
        weights = softmax(tilts, axis=1)
        return reference._replace(weights=weights, kl=_bound(weights))
    found, bounds = np.zeros_like(tilts), np.zeros(len(tilts))
    for t, probabilities in enumerate(reference.weights):
        drawn = rng.choice(tilts.shape[1], size=(_SIMULATED, count), p=probabilities / probabilities.sum())
        weights = softmax(tilts[t][drawn], axis=1)
        np.add.at(found[t], drawn.ravel(), weights.ravel() / _SIMULATED)
        bounds[t] = _bound(weights).mean()
    return reference._replace(weights=found, kl=bounds)


def distances(policy: Scored, reference: Scored, basis: Basis, lam: np.ndarray, beta: float) -> np.ndarray:
    """KL(policy || pi_lam) on every prompt, [T] nats.

        KL(pi || pi_ref) - E_pi e + log E_ref exp(e),     e = (r + <lam, g>) / beta

    Where responses are sampled the last term is the log of a mean over the K of the reference, which is too
    small where few of them carry the weight.

    Args:
      policy: its responses to T prompts, with its KL from the reference.
      reference: the reference's.
      basis: of the prompts.
      lam: [m], multipliers.
      beta: KL weight > 0.
    """
    own = policy.mean(exponents(policy, basis, lam, beta))
    tilts = exponents(reference, basis, lam, beta)
    shares = np.full(tilts.shape, 1.0 / tilts.shape[1]) if reference.weights is None else reference.weights
    return policy.kl - own + logsumexp(tilts, b=shares, axis=1)


def _bound(weights: np.ndarray) -> np.ndarray:
    """Sum_k w_k log(K w_k): [..., K] -> [...]."""
    scaled = weights * weights.shape[-1]
    return np.sum(weights * np.log(np.where(scaled > 0, scaled, 1.0)), axis=-1)
