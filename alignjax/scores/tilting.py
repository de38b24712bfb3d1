"""The tilted policy as a product of policies that were aligned to one score each: the weight of every factor.

With calibrated scores s_d = sum_k matrix_dk raw_k, and raw scores raw_k = beta_pre log(pi_k / pi_ref),

    pi_lam  ~  pi_ref exp(<[1, lam], s> / beta)  =  pi_ref prod_k (pi_k / pi_ref)^w_k,
    w_k = (beta_pre / beta) sum_d [1, lam]_d matrix_dk

up to a constant of the prompt.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from alignjax.errors import InputError
from alignjax.scores import calibration as calib
from alignjax.scores.calibration import Calibration

_SWEEPS, _HALVINGS = 50, 60
_NEAR = 1e-6  # of a target, relative to the spread of its values
_LARGEST = 2.0**40


class LinearScores(NamedTuple):
    """Calibrated scores as linear combinations of raw ones.

    Attributes:
      matrix: [1+m, 1+m] float64, calibrated scores are `raw @ matrix.T` up to a constant of the prompt.
      explained: [1+m], share of the variance of each calibrated score within prompts that this holds; 1 where
        the calibration is linear.
    """

    matrix: np.ndarray
    explained: np.ndarray


def linear_scores(calibration: Calibration, raw: np.ndarray) -> LinearScores:
    """The calibration as a matrix; a curve becomes its least-squares line on a sample.

    Args:
      calibration: of the scores.
      raw: [N, K, 1+m] float, raw scores of the reference's samples, on which a curve is fitted. A constant of
        a prompt changes no tilt, so that only differences within prompts are fitted.

    Returns:
      The matrix, and how well it holds the scores of the sample.

    Raises:
      InputError: `raw` has another number of scores than the calibration.
    """
    matrix, explained = np.array(calibration.matrix, np.float64), np.ones(len(calibration.matrix))
    curves = calibration.curves or (None,) * len(matrix)
    if not any(curve is not None for curve in curves):
        return LinearScores(matrix, explained)
    scores = _within(calib.calibrated(calibration, raw))
    columns = _within(np.asarray(raw, np.float64))
    for d, curve in enumerate(curves):
        if curve is None:
            continue
        used = (matrix[d] != 0) | (np.arange(len(matrix)) == d)
        found = np.linalg.lstsq(columns[:, used], scores[:, d], rcond=None)[0]
        matrix[d, used] = found
        left, total = np.sum((scores[:, d] - columns[:, used] @ found) ** 2), np.sum(scores[:, d] ** 2)
        explained[d] = 1.0 - left / total if total > 0 else 1.0
    return LinearScores(matrix, explained)


def product_weights(
    matrix: np.ndarray, multipliers: np.ndarray, *, beta: float, beta_pre: float
) -> np.ndarray:
    """Weights of log(pi_k / pi_ref) in the log-density of the tilted policy.

        w_k = (beta_pre / beta) sum_d [1, lam]_d matrix_dk

    Args:
      matrix: [1+m, 1+m], calibrated scores in raw ones, the reward first.
      multipliers: [m] float >= 0, of the constrained dimensions.
      beta: KL weight > 0 of the tilt.
      beta_pre: KL weight > 0 of the policies, whose raw scores are beta_pre log(pi_k / pi_ref).

    Returns:
      [1+m] float64; negative where a calibrated score falls with another dimension's raw one.
    """
    lagrangian = np.concatenate([[1.0], np.asarray(multipliers, np.float64)])
    return (beta_pre / beta) * (lagrangian @ np.asarray(matrix, np.float64))


def linear_multipliers(
    rewards: np.ndarray,
    scores: np.ndarray,
    values: np.ndarray,
    targets: Sequence[float],
    *,
    beta: float,
) -> np.ndarray:
    """Multipliers of the scores themselves with which values that rise with them reach their targets.

        min lam >= 0  with  mean_i sum_k w_ik v_ikj >= target_j
        w_ik = softmax_k((r_ik + <lam, s_ik>) / beta)

    A product of policies is linear in the scores, and a probability of a safe response is not. It rises with
    its score, hence its mean under the tilt with that score's multiplier, and bisection finds the least one
    that reaches the target; several constraints take turns.

    Args:
      rewards: [N, K] float, r.
      scores: [N, K, m] float, s.
      values: [N, K, m] float, v; each a function of its own score that does not fall.
      targets: m means to reach.
      beta: KL weight > 0, in the units of `rewards` per nat.

    Returns:
      [m] float64.

    Raises:
      InputError: a target above what the best response to every prompt has, or targets that cannot be met
        together.
    """
    rewards, scores = np.asarray(rewards, np.float64), np.asarray(scores, np.float64)
    lam = np.zeros(scores.shape[-1])

    def missing(j: int, multiplier: float) -> float:
        tried = lam.copy()
        tried[j] = multiplier
        weights = softmax((rewards + scores @ tried) / beta, axis=1)
        return targets[j] - float(np.sum(weights * values[..., j], axis=1).mean())

    for _ in range(_SWEEPS):
        before = lam.copy()
        for j in range(len(lam)):
            lam[j] = _least(lambda multiplier, j=j: missing(j, multiplier), values[..., j], targets[j])
        if np.allclose(lam, before, rtol=1e-6, atol=1e-9):
            return lam
    raise InputError(
        f"constraints: no multipliers of the scores reach {', '.join(f'{one:.4g}' for one in targets)} "
        "together; ask for less."
    )


def _least(missing: Callable[[float], float], values: np.ndarray, target: float) -> float:
    """The least multiplier at which nothing is missing, by bisection."""
    near = _NEAR * (float(np.ptp(values)) or 1.0)
    if missing(0.0) <= near:
        return 0.0
    high = 1.0
    while missing(high) > near:
        if high > _LARGEST:
            raise InputError(
                f"constraints: {target:.4g} cannot be reached, the best responses have "
                f"{values.max(axis=1).mean():.4g}; ask for less."
            )
        high *= 2.0
    low = 0.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if missing(middle) > near else (low, middle)
    return high


def _within(values: np.ndarray) -> np.ndarray:
    """Differences to each prompt's mean, [N K, ...]."""
    centred = values - values.mean(axis=1, keepdims=True)
    return centred.reshape(-1, values.shape[-1])
