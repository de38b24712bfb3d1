"""Metrics of a policy in training on held-out pairs."""

import numpy as np
from scipy.optimize import minimize_scalar

_STEEPEST = 1e4  # largest slope tried; for separable labels no finite slope is optimal


def preference_metrics(
    logps: np.ndarray, ref_logps: np.ndarray, labels: np.ndarray, *, beta: float
) -> dict[str, float]:
    """Means over held-out pairs under the implicit reward h = beta (log pi - log pi_ref).

        loss = mean CE(label, sigma(h_chosen - h_rejected)),   calibrated_loss = min_{a >= 0} of it at a h

    calibrated_loss is the loss after the scale has been fitted. Scores are calibrated before they are used,
    so this is what counts: it still falls while an over-confident policy improves the order of pairs.

    Args:
      logps: [n, 2] float, of the chosen and the rejected response under the policy, nats.
      ref_logps: [n, 2] float, the same under the reference.
      labels: [n] float in [0, 1], P(chosen preferred).
      beta: KL weight > 0.

    Returns:
      Means under TRL's names (loss, rewards/chosen, rewards/rejected, rewards/margins, rewards/accuracies,
      logps/chosen, logps/rejected) and calibrated_loss.

    Reference: Rafailov et al. 2023, arXiv 2305.18290, equation 7; Platt 1999 for the slope.
    """
    values, labels = np.asarray(logps, np.float64), np.asarray(labels, np.float64)
    rewards = beta * (values - np.asarray(ref_logps, np.float64))
    margins = rewards[:, 0] - rewards[:, 1]
    agrees = np.where(labels >= 0.5, margins > 0, margins < 0)
    return {
        "loss": _cross_entropy(margins, labels),
        "calibrated_loss": _calibrated(margins, labels),
        "rewards/chosen": float(rewards[:, 0].mean()),
        "rewards/rejected": float(rewards[:, 1].mean()),
        "rewards/margins": float(margins.mean()),
        "rewards/accuracies": float(agrees.mean()),
        "logps/chosen": float(values[:, 0].mean()),
        "logps/rejected": float(values[:, 1].mean()),
    }


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))


def _calibrated(margins: np.ndarray, labels: np.ndarray) -> float:
    """The smallest cross-entropy over slopes; margins are divided by their size, so that any scale works."""
    size = float(np.sqrt(np.mean(margins**2)))
    if size == 0.0:
        return float(np.log(2.0))
    found = minimize_scalar(
        lambda log_slope: _cross_entropy(np.exp(log_slope) * margins / size, labels),
        bounds=(-np.log(_STEEPEST), np.log(_STEEPEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return min(float(found.fun), float(np.log(2.0)))  # a = 0 is allowed
