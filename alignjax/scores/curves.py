"""Monotone maps of scores: what a score is worth in logits where that is not one number times the score."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from alignjax.records.calibration import Curve

KNOTS = (0.05, 0.2, 0.5, 0.8, 0.95)  # quantiles of the reference's scores
STEEPEST = 4.0  # a curve may rise so many times as fast as the linear fit
_FOLDS = 5
# Weight of squared steps between neighbouring slopes, as if they had a prior deviation of 1: a segment with a
# hundred labels overrules it, one with a handful follows its neighbours.
_SMOOTH = 1.0


class Losses(NamedTuple):
    """Mean log loss per pair on folds that a fit has not seen: of the linear fit and of the curve."""

    linear: float
    curve: float


def knots_of(scores: np.ndarray) -> np.ndarray:
    """Knots at quantiles of a sample of scores, without those that coincide: [P-1], ascending."""
    return np.unique(np.quantile(scores, KNOTS))


def basis(knots: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How much of each segment lies between 0 and a score: h(z) = <basis(z), slopes>, h(0) = 0.

        phi_p(z) = clip(z, knots_{p-1}, knots_p) - clip(0, knots_{p-1}, knots_p)

    with knots_0 = -inf and knots_P = inf.

    Args:
      knots: [P-1] float, ascending.
      scores: [...] float.

    Returns:
      [..., P] float64.
    """
    low, high = np.concatenate([[-np.inf], knots]), np.concatenate([knots, [np.inf]])
    return np.clip(np.asarray(scores, np.float64)[..., None], low, high) - np.clip(0.0, low, high)


def fit(
    raw: np.ndarray, own: int, row: np.ndarray, labels: np.ndarray, groups: np.ndarray, knots: np.ndarray
) -> tuple[np.ndarray, Curve]:
    """Fits a monotone curve of one score, and coefficients of the others, to the labels of pairs.

        P(first preferred) = sigma(f(first) - f(second)),   f = h(s_own) + sum_{e != own} row_e s_e

    Args:
      raw: [n, 2, 1+m] scores of both responses of each pair.
      own: place of the dimension's own score, whose coefficient in `row` is positive.
      row: [1+m], the linear fit of the same labels; scores whose coefficient is 0 stay out.
      labels: [n] in [0, 1].
      groups: [n] int, equal where pairs share a prompt.
      knots: [P-1], ascending, in the units of the own score.

    Returns:
      The coefficients [1+m], 0 at `own`, and the curve. Its covariance (sandwich, clustered by group) is that
      of both, as if no slope were held by its bounds.

    Reference: Ramsay 1988, Monotone regression splines in action; Hastie and Tibshirani 1990 (additive fits).
    """
    x, scale, low = _design(raw, own, row, knots)
    ones = np.ones(len(labels))
    found = _least(x, labels, ones, low)
    p = expit(x @ found)
    bread = (x * (p * (1 - p))[:, None]).T @ x + _penalty(low)
    sums = cluster_sums(x * (labels - p)[:, None], groups)
    meat = sums.T @ sums * (len(sums) / max(len(sums) - 1, 1))
    inverse = np.linalg.pinv(bread, hermitian=True)
    used, count = _others(row, own), len(knots) + 1
    places = np.concatenate([np.flatnonzero(used), len(row) + np.arange(count)])
    covariance = np.zeros((len(row) + count, len(row) + count))
    covariance[np.ix_(places, places)] = inverse @ meat @ inverse * np.outer(scale, scale)
    others = np.zeros(len(row))
    others[used] = (found * scale)[: used.sum()]
    return others, Curve(knots, np.maximum(found[-count:], 0.0) * scale[-count:], covariance)


def held_out_losses(
    raw: np.ndarray, own: int, row: np.ndarray, labels: np.ndarray, groups: np.ndarray, knots: np.ndarray
) -> Losses:
    """Log losses of the linear fit and of the curve by cross-validation; a prompt is in one fold only.

    Args are those of `fit`.
    """
    curved, _, low = _design(raw, own, row, knots)
    used = (row != 0) | (np.arange(len(row)) == own)
    linear = (raw[:, 0] - raw[:, 1])[:, used] * np.abs(row[used])
    _, places = np.unique(groups, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(places.max() + 1) % _FOLDS)[places]
    totals = np.zeros(2)
    for k in range(_FOLDS):
        train, test = (fold != k).astype(np.float64), fold == k
        for i, (x, bounds) in enumerate(((linear, np.full(linear.shape[1], -np.inf)), (curved, low))):
            logits = x[test] @ _least(x, labels, train, bounds)
            totals[i] += np.sum(np.logaddexp(0.0, logits) - labels[test] * logits)
    return Losses(*(totals / len(labels)).tolist())


def cluster_sums(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums [G, q] of rows [n, q] by group [n]."""
    _, places = np.unique(groups, return_inverse=True)
    sums = np.zeros((places.max() + 1, rows.shape[1]))
    np.add.at(sums, places, rows)
    return sums


def _others(row: np.ndarray, own: int) -> np.ndarray:
    return (row != 0) & (np.arange(len(row)) != own)


def _design(
    raw: np.ndarray, own: int, row: np.ndarray, knots: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of the other scores, then of the basis, scaled so that the linear fit is 1; scales; bounds."""
    used = _others(row, own)
    phi = basis(knots, raw[..., own])
    scale = np.concatenate([np.abs(row[used]), np.full(phi.shape[-1], row[own])])
    columns = np.concatenate([raw[..., used], phi], axis=-1) * scale
    low = np.concatenate([np.full(used.sum(), -np.inf), np.zeros(phi.shape[-1])])
    return columns[:, 0] - columns[:, 1], scale, low


def _least(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Coefficients of least penalised log loss; those with a lower bound are slopes, at most STEEPEST."""
    rough = _penalty(low)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logits = x @ w
        value = weights @ (np.logaddexp(0.0, logits) - labels * logits) + 0.5 * w @ rough @ w
        return float(value), x.T @ (weights * (expit(logits) - labels)) + rough @ w

    bounds = [(bound, STEEPEST if np.isfinite(bound) else np.inf) for bound in low]
    start = np.where(np.isfinite(low), 1.0, 0.0)
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12}).x


def _penalty(low: np.ndarray) -> np.ndarray:
    """The matrix of _SMOOTH sum_p (slopes_p - slopes_{p-1})^2, 0 on what is no slope."""
    first = int(np.sum(~np.isfinite(low)))
    steps = np.diff(np.eye(len(low))[first:], axis=0)
    return _SMOOTH * steps.T @ steps
