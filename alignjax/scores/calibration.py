"""Calibrates scores on held-out labels, so that a margin asked is a margin kept.

Scores learned from finite, noisy labels are over-confident, and the dual believes them. A logistic regression
of held-out labels on score differences gives scores in the logits of the people who labelled.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy.special import expit

from alignjax.errors import InputError

KINDS = ("joint", "slope", "none")
LOW_SLOPE = 0.7  # below it a score is badly over-confident
WIDE_INTERVAL = 0.5  # width over slope above which the slope is hardly known
_Z95 = 1.959963984540054
_STEPS = 100
# Prior precision on coefficients of standardised differences: too weak to matter beside a hundred labels,
# enough to keep separable ones finite.
_RIDGE = 1e-3
# sigma(x) is nearly the normal distribution function of _PROBIT x, _PROBIT = 16 sqrt(3) / (15 pi).
_PROBIT = 16 * 3**0.5 / (15 * np.pi)


class Calibration(NamedTuple):
    """Calibrated scores are `scores @ matrix.T`.

    Attributes:
      matrix: [1+m, 1+m] float64; row d holds the coefficients of dimension d's labels on all scores.
      covariances: [1+m, 1+m, 1+m] float64, of each row's coefficients.
      kind: joint, slope or none.
      unexplained: [1+m] float64, the most that the variance of each dimension's true logits about the fitted
        ones is taken to be; None: 0.
    """

    matrix: np.ndarray
    covariances: np.ndarray
    kind: str
    unexplained: np.ndarray | None = None


class Finding(NamedTuple):
    """Something to know about a score; `stop` where no margin can be promised on it."""

    message: str
    stop: bool


def fit(
    differences: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    kind: str = "joint",
    groups: Sequence[np.ndarray] | None = None,
) -> Calibration:
    """Fits each dimension's held-out labels on score differences, without intercept.

        P(first preferred in dimension d) = sigma( sum_e matrix_de (s_e(first) - s_e(second)) )

    Args:
      differences: by dimension, [n_d, 1+m] float, differences of ALL scores on its held-out pairs.
      labels: by dimension, [n_d] float in [0, 1].
      kind: joint: all scores; slope: each dimension's own alone; none: the identity, with no uncertainty.
      groups: by dimension, [n_d] int, equal where pairs share a prompt; None: pairs are independent.

    Returns:
      Calibration, with sandwich covariances (clustered by group).

    Raises:
      InputError: an unknown kind, shapes that do not fit, no pairs, or numbers that are not finite.

    Reference: Platt 1999 (slope); White 1982 and Liang and Zeger 1986 (sandwich covariance, clusters).
    """
    if kind not in KINDS:
        raise InputError(f"calibration: kind is {kind!r}; use one of {', '.join(KINDS)}.")
    size = len(differences)
    if kind == "none":
        return identity(size)
    matrix, covariances, unexplained = np.eye(size), np.zeros((size, size, size)), np.zeros(size)
    for d, (x, y) in enumerate(zip(differences, labels, strict=True)):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.shape != (len(y), size):
            raise InputError(
                f"calibration: dimension {d} has differences {x.shape}, must be [{len(y)}, {size}]."
            )
        if len(y) == 0:
            raise InputError(f"calibration: dimension {d} has no held-out pairs; hold out more.")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InputError(
                f"calibration: dimension {d} has a score difference or a label that is not finite."
            )
        columns = np.arange(size) if kind == "joint" else np.array([d])
        cluster = np.arange(len(y)) if groups is None else np.asarray(groups[d])
        if cluster.shape != y.shape:
            raise InputError(
                f"calibration: dimension {d} has {cluster.size} groups for {len(y)} pairs; give one each."
            )
        coefficients, covariance = _logistic(x[:, columns], y, cluster)
        matrix[d] = 0.0
        matrix[d, columns] = coefficients
        covariances[d][np.ix_(columns, columns)] = covariance
        unexplained[d] = _most_unexplained(x @ matrix[d], y)
    return Calibration(matrix, covariances, kind, unexplained)


def identity(size: int) -> Calibration:
    """Scores of `size` dimensions as they are, with no uncertainty."""
    return Calibration(np.eye(size), np.zeros((size, size, size)), "none")


def slopes(calibration: Calibration) -> list[dict[str, float]]:
    """Each dimension's coefficient on its own score, with its 95% interval."""
    rows = []
    for d in range(len(calibration.matrix)):
        slope, half = calibration.matrix[d, d], _Z95 * float(np.sqrt(calibration.covariances[d, d, d]))
        rows.append({"slope": float(slope), "low": float(slope - half), "high": float(slope + half)})
    return rows


def findings(slope_fit: Calibration, names: Sequence[str]) -> list[Finding]:
    """What the slopes say: a warning below 0.7 or where an interval is wide, a stop where it reaches 0."""
    found = []
    for name, row in zip(names, slopes(slope_fit), strict=True):
        shown = f"slope {row['slope']:.2f}, 95% interval {row['low']:.2f} to {row['high']:.2f}"
        if row["low"] <= 0:
            found.append(
                Finding(
                    f"{name}: the score does not predict its held-out labels ({shown}): no margin can be "
                    "promised on it; train longer, on more pairs, or hold out more.",
                    True,
                )
            )
        elif row["slope"] < LOW_SLOPE:
            found.append(
                Finding(f"{name}: the score is over-confident ({shown}); calibration shrinks it.", False)
            )
        elif row["high"] - row["low"] > WIDE_INTERVAL * row["slope"]:
            found.append(
                Finding(f"{name}: its scale is hardly known ({shown}); hold out more labelled pairs.", False)
            )
    return found


def apply(
    calibration: Calibration, rewards: np.ndarray, utilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated rewards [...] and utilities [..., m] of raw ones."""
    raw = np.concatenate([np.asarray(rewards)[..., None], np.asarray(utilities)], axis=-1)
    scores = raw @ calibration.matrix.T
    return scores[..., 0], scores[..., 1:]


def draws(key: jax.Array, calibration: Calibration, num: int) -> np.ndarray:
    """Calibration matrices that the held-out labels are consistent with.

    Two things are not known. The coefficients: drawn from the fit's normal approximation. And how far the
    true logits scatter about the fitted ones, with a variance v: such scatter flattens the fit of single
    labels,

        E sigma(a + sqrt(v) e) ~ sigma(a / sqrt(1 + c^2 v)),   e ~ N(0, 1),   c = 16 sqrt(3) / (15 pi),

    so that true differences are larger than the fitted ones by sqrt(1 + c^2 v). One label a pair cannot tell
    v. Half of the draws take 0, which the fit itself assumes, half take `unexplained`, so that an interval of
    them begins where the one ends low and ends where the other ends high. A margin that is asked of the
    fitted scores is promised on the safe side, and the interval says how much more it may be.

    Args:
      key: PRNG key.
      calibration: the fit.
      num: R.

    Returns:
      [R, 1+m, 1+m] float64.

    Reference: Zeger, Liang and Albert 1988, Models for longitudinal data, section 3 (the flattening).
    """
    size = len(calibration.matrix)
    seeds = np.asarray(jax.random.key_data(key)).ravel().tolist()
    rng = np.random.default_rng(seeds)
    noise, share = rng.standard_normal((num, size, size)), rng.integers(2, size=(num, size))
    drawn = np.empty((num, size, size))
    for d, covariance in enumerate(calibration.covariances):
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn[:, d] = calibration.matrix[d] + noise[:, d] @ root.T
    if calibration.unexplained is None:
        return drawn
    return drawn * np.sqrt(1.0 + _PROBIT**2 * share * calibration.unexplained)[:, :, None]


def relative_draws(key: jax.Array, calibration: Calibration, count: int) -> np.ndarray:
    """The same draws for scores that are calibrated already: D_b M^-1 for every D_b of `draws`.

    Args:
      key: PRNG key.
      calibration: the fit, M.
      count: R.

    Returns:
      [R, 1+m, 1+m] float64, T_b: under draw b calibrated scores s become s T_b^T.

    Raises:
      InputError: M is singular.
    """
    matrix = np.asarray(calibration.matrix, np.float64)
    if np.linalg.matrix_rank(matrix) < len(matrix):
        raise InputError(
            f"calibration: its matrix {matrix.tolist()} is singular, so that calibrated scores do not tell "
            "the raw ones; calibrate with kind slope, or on more labels."
        )
    return draws(key, calibration, count) @ np.linalg.inv(matrix)


def _most_unexplained(logits: np.ndarray, labels: np.ndarray) -> float:
    """An upper end for the variance v of the true logits about the fitted ones.

    The smaller of two: v = E logits^2, scores that explain half of the variance, a poor score; and the v at
    which scatter alone would be all that labels differ from their probabilities, E (y - p)^2 = E (p (1 -
    p))^2 v, which binds where labels are probabilities themselves.
    """
    p = expit(logits)
    slope = np.mean((p * (1.0 - p)) ** 2)
    scatter = np.mean((labels - p) ** 2) / slope if slope > 0 else np.inf
    return float(min(np.mean(logits**2), scatter))


def _logistic(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and sandwich covariance by Newton with step halving, in standardised units."""
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
