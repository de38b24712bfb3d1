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
from alignjax.records.calibration import Curve
from alignjax.scores import curves as monotone
from alignjax.scores.logistic import logistic

KINDS = ("joint", "slope", "none")
LOW_SLOPE = 0.7  # below it a score is badly over-confident
WIDE_INTERVAL = 0.5  # width over slope above which the slope is hardly known
_Z95 = 1.959963984540054
# sigma(x) is nearly the normal distribution function of _PROBIT x, _PROBIT = 16 sqrt(3) / (15 pi).
_PROBIT = 16 * 3**0.5 / (15 * np.pi)


class Calibration(NamedTuple):
    """Calibrated scores are `scores @ matrix.T`, plus the curve of its own score where a dimension has one.

    Attributes:
      matrix: [1+m, 1+m] float64; row d holds the coefficients of dimension d's labels on all scores.
      covariances: [1+m, 1+m, 1+m] float64, of each row's coefficients.
      kind: joint, slope or none.
      unexplained: [1+m] float64, the most that the variance of each dimension's true logits about the fitted
        ones is taken to be; None: 0.
      curves: by dimension, the monotone map of its own score, whose coefficient is then 0; None where it is
        linear. None in all: no dimension has a curve.
    """

    matrix: np.ndarray
    covariances: np.ndarray
    kind: str
    unexplained: np.ndarray | None = None
    curves: tuple[Curve | None, ...] | None = None


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
        coefficients, covariance = logistic(x[:, columns], y, cluster)
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


def separates(differences: np.ndarray, labels: np.ndarray) -> bool:
    """Whether a score orders every held-out pair as its label does, so that no finite slope fits them best.

    Args:
      differences: [n] float, differences of the score.
      labels: [n] float in [0, 1]; one strictly between has a finite slope.
    """
    hard = (labels == 0.0) | (labels == 1.0)
    agrees = differences * (2.0 * labels - 1.0)
    return bool(hard.all() and (agrees >= 0.0).all() and (agrees > 0.0).any())


def findings(
    slope_fit: Calibration, names: Sequence[str], separated: Sequence[bool] | None = None
) -> list[Finding]:
    """What the slopes say: a warning below 0.7 or where an interval is wide, a stop where it reaches 0.

    Args:
      slope_fit: each dimension's slope on its own score.
      names: of the dimensions.
      separated: by dimension, whether its score `separates` its held-out labels, a stop; None: none does.
    """
    found = []
    apart = separated or [False] * len(names)
    for name, row, infinite in zip(names, slopes(slope_fit), apart, strict=True):
        if infinite:
            found.append(
                Finding(
                    f"{name}: the score orders every held-out pair as its label does, so that no finite "
                    "scale fits them best: no margin can be promised on it; hold out more pairs, or look "
                    "whether labels can be told from the form of the texts (python -m alignjax.data).",
                    True,
                )
            )
            continue
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


def calibrated(calibration: Calibration, raw: np.ndarray) -> np.ndarray:
    """Scores in the logits of the held-out labels.

        calibrated_d = sum_e matrix_de raw_e + h_d(raw_d),   h_d the dimension's curve, or 0

    Args:
      calibration: the fit.
      raw: [..., 1+m] scores, the reward first.

    Returns:
      [..., 1+m] float64.

    Raises:
      InputError: `raw` has another number of scores than the calibration.
    """
    raw = _checked(calibration, raw)
    scores = raw @ calibration.matrix.T
    for d, curve in enumerate(_curves(calibration)):
        if curve is not None:
            scores[..., d] += monotone.basis(curve.knots, raw[..., d]) @ curve.slopes
    return scores


def columns(calibration: Calibration, raw: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """What each calibrated score is linear in, and how sure the coefficients are.

        calibrated_d = <coefficients_d, phi_d>,   coefficients_d ~ N(`coefficients`_d, covariance_d)

    Args:
      calibration: the fit.
      raw: [..., 1+m] scores, the reward first.

    Returns:
      By dimension, phi [..., P_d] float64 and covariance [P_d, P_d]. Linear: phi = raw, P_d = 1+m. With a
      curve of P slopes: raw, then the curve's basis at the own score, P_d = 1+m+P.

    Raises:
      InputError: `raw` has another number of scores than the calibration.
    """
    raw = _checked(calibration, raw)
    found = []
    for d, curve in enumerate(_curves(calibration)):
        if curve is None:
            found.append((raw, calibration.covariances[d]))
            continue
        phi = np.concatenate([raw, monotone.basis(curve.knots, raw[..., d])], axis=-1)
        found.append((phi, curve.covariance))
    return found


def coefficients(calibration: Calibration) -> list[np.ndarray]:
    """By dimension, the [P_d] numbers with which `columns`' phi gives the calibrated score."""
    rows = zip(calibration.matrix, _curves(calibration), strict=True)
    return [row if curve is None else np.concatenate([row, curve.slopes]) for row, curve in rows]


def column_draws(key: jax.Array, calibration: Calibration, num: int) -> list[np.ndarray]:
    """Coefficients of `columns` that the held-out labels are consistent with; see `draws`.

    Args:
      key: PRNG key.
      calibration: the fit.
      num: R.

    Returns:
      By dimension, [R, P_d] float64: under draw b the calibrated score is phi_d @ draws_d[b].
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    shares, drawn = rng.integers(2, size=(num, len(calibration.matrix))), []
    rows = zip(coefficients(calibration), calibration.covariances, _curves(calibration), strict=True)
    for d, (mean, covariance, curve) in enumerate(rows):
        values, vectors = np.linalg.eigh(covariance if curve is None else curve.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        one = mean + rng.standard_normal((num, len(mean))) @ root.T
        if calibration.unexplained is not None:
            variance = shares[:, d] * calibration.unexplained[d]
            one = one * np.sqrt(1.0 + _PROBIT**2 * variance)[:, None]
        drawn.append(one)
    return drawn


def apply(
    calibration: Calibration, rewards: np.ndarray, utilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated rewards [...] and utilities [..., m] of raw ones."""
    raw = np.concatenate([np.asarray(rewards)[..., None], np.asarray(utilities)], axis=-1)
    scores = calibrated(calibration, raw)
    return scores[..., 0], scores[..., 1:]


def bend(
    calibration: Calibration, own: int, row: np.ndarray, curve: Curve, logits: np.ndarray, labels: np.ndarray
) -> Calibration:
    """The calibration with a curve for one dimension's own score.

    Args:
      calibration: linear in this dimension.
      own: place of the dimension.
      row: [1+m], coefficients of the other scores beside the curve.
      curve: of the own score, with the covariance of both.
      logits: [n], of its held-out pairs under the curve.
      labels: [n], of these pairs.
    """
    matrix, covariances = calibration.matrix.copy(), calibration.covariances.copy()
    curves, size = list(_curves(calibration)), len(matrix)
    matrix[own], covariances[own], curves[own] = row, curve.covariance[:size, :size], curve
    unexplained = np.zeros(size) if calibration.unexplained is None else calibration.unexplained.copy()
    unexplained[own] = _most_unexplained(logits, np.asarray(labels, np.float64))
    return Calibration(matrix, covariances, calibration.kind, unexplained, tuple(curves))


def draws(key: jax.Array, calibration: Calibration, num: int) -> np.ndarray:
    """Calibration matrices of a linear fit that the held-out labels are consistent with.

    Two things are not known. The coefficients: drawn from the fit's normal approximation. And how far the
    true logits scatter about the fitted ones, with a variance v: such scatter flattens the fit of single
    labels,

        E sigma(a + sqrt(v) e) ~ sigma(a / sqrt(1 + c^2 v)),   e ~ N(0, 1),   c = 16 sqrt(3) / (15 pi),

    so that true differences, of either sign, are larger than the fitted ones by sqrt(1 + c^2 v). One label a
    pair cannot tell v. Half of the draws take 0, which the fit itself assumes, half take `unexplained`, so
    that an interval of them begins where the one ends low and ends where the other ends high. Where true
    logits scatter, a gain is larger than the fitted scores say, and so is a loss: a margin above 0 is then
    kept on the safe side, a margin below 0 ("do not fall by more than") on the unsafe one. The interval holds
    both.

    Args:
      key: PRNG key.
      calibration: the fit.
      num: R.

    Returns:
      [R, 1+m, 1+m] float64.

    Raises:
      InputError: a dimension has a curve, which no matrix gives; `column_draws` draws its coefficients.

    Reference: Zeger, Liang and Albert 1988, Models for longitudinal data, section 3 (the flattening).
    """
    if any(curve is not None for curve in _curves(calibration)):
        raise InputError("calibration: a score has a curve, which no matrix gives; use column_draws instead.")
    return np.stack(column_draws(key, calibration, num), axis=1)


def stretch(calibration: Calibration, dimension: int) -> float:
    """The most by which true score differences of a dimension may exceed the calibrated ones, at least 1.

        sqrt(1 + c^2 v)

    with v the largest unexplained variance, see `draws`.
    """
    if calibration.unexplained is None:
        return 1.0
    return float(np.sqrt(1.0 + _PROBIT**2 * max(float(calibration.unexplained[dimension]), 0.0)))


def relative_draws(key: jax.Array, calibration: Calibration, count: int) -> np.ndarray:
    """The same draws for scores that are calibrated already: D_b M^-1 for every D_b of `draws`.

    Args:
      key: PRNG key.
      calibration: the fit, M.
      count: R.

    Returns:
      [R, 1+m, 1+m] float64, T_b: under draw b calibrated scores s become s T_b^T.

    Raises:
      InputError: M is singular, or a dimension has a curve.
    """
    drawn, matrix = draws(key, calibration, count), np.asarray(calibration.matrix, np.float64)
    if np.linalg.matrix_rank(matrix) < len(matrix):
        raise InputError(
            f"calibration: its matrix {matrix.tolist()} is singular, so that calibrated scores do not tell "
            "the raw ones; calibrate with kind slope, or on more labels."
        )
    return drawn @ np.linalg.inv(matrix)


def _curves(calibration: Calibration) -> tuple[Curve | None, ...]:
    return calibration.curves or (None,) * len(calibration.matrix)


def _checked(calibration: Calibration, raw: np.ndarray) -> np.ndarray:
    raw, size = np.asarray(raw, np.float64), len(calibration.matrix)
    if raw.ndim == 0 or raw.shape[-1] != size:
        raise InputError(
            f"calibration: is of {size} scores, raw scores have shape {raw.shape}; give [..., {size}]."
        )
    return raw


def _most_unexplained(logits: np.ndarray, labels: np.ndarray) -> float:
    """An upper end for the variance v of the true logits about the fitted ones.

    The smaller of two. Scores that explain half of the variance, a poor score: v equals the variance that
    they explain. Scatter has flattened the fitted logits, so that E = E logits^2 is that variance over
    1 + c^2 v, and v = E (1 + c^2 v) gives v = E / (1 - c^2 E). From E = 1 / c^2 = 2.9 on there is no such v:
    whatever the scatter, the scores explain more than half. The other: the v at which scatter alone would be
    all that labels differ from their probabilities, E (y - p)^2 = E (p (1 - p))^2 v. It binds where labels
    are probabilities themselves, and where the first says nothing.
    """
    p = expit(logits)
    slope = np.mean((p * (1.0 - p)) ** 2)
    scatter = np.mean((labels - p) ** 2) / slope if slope > 0 else np.inf
    fitted = np.mean(logits**2)
    half = fitted / (1.0 - _PROBIT**2 * fitted) if _PROBIT**2 * fitted < 1.0 else np.inf
    most = min(half, scatter)
    # Both are infinite only where every label is predicted with certainty: then nothing is left to explain.
    return float(most) if np.isfinite(most) else 0.0
