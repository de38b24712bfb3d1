"""Logistic regression on labels that may depend on each other."""

import numpy as np
from scipy.special import expit

_STEPS = 100
# Prior precision on coefficients of standardised differences: too weak to matter beside a hundred labels,
# enough to keep separable ones finite.
_RIDGE = 1e-3


def logistic(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression without intercept, by Newton's method with step halving in standardised units.

    Args:
      x: [n, q] float64.
      y: [n] float64 labels in [0, 1].
      groups: [n] int, equal where rows depend on each other.

    Returns:
      Coefficients [q] and their sandwich covariance [q, q], clustered by group.
    """
    scale = np.sqrt(np.mean(x**2, axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    z = x / scale
    prior = _RIDGE * np.eye(z.shape[1])

    def loss(w: np.ndarray) -> float:
        margin = z @ w
        return float(np.sum(np.logaddexp(0.0, margin) - y * margin) + 0.5 * w @ prior @ w)

    w = np.zeros(z.shape[1])
    for _ in range(_STEPS):
        p = expit(z @ w)
        gradient = z.T @ (p - y) + prior @ w
        hessian = (z * (p * (1.0 - p))[:, None]).T @ z + prior
        step, now, rate = np.linalg.solve(hessian, gradient), loss(w), 1.0
        while loss(w - rate * step) > now and rate > 1e-10:
            rate /= 2.0
        w = w - rate * step
        if np.max(np.abs(rate * step)) < 1e-12:
            break
    p = expit(z @ w)
    hessian = (z * (p * (1.0 - p))[:, None]).T @ z + prior
    _, places = np.unique(groups, return_inverse=True)
    scores = np.zeros((places.max() + 1, z.shape[1]))
    np.add.at(scores, places, z * (y - p)[:, None])
    clusters = len(scores)
    meat = scores.T @ scores * (clusters / max(clusters - 1, 1))
    bread = np.linalg.inv(hessian)
    return w / scale, bread @ meat @ bread / np.outer(scale, scale)
