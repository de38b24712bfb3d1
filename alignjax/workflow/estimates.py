"""Means whose intervals carry two uncertainties: which prompts were drawn, how scores were calibrated."""

from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Figure(NamedTuple):
    """An estimate and its 95% interval."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """As evaluation.json and dual.json hold it."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def resampling_weights(
    rng: np.random.Generator, num_prompts: int, resamples: int, *, population: bool
) -> np.ndarray:
    """Weights of the prompts in every resample: [R, N] float64, each row sums to 1.

    Args:
      rng: source of the draws.
      num_prompts: N.
      resamples: R.
      population: True where the prompts are all there are: nothing is drawn, every row is uniform.
    """
    uniform = np.full(num_prompts, 1.0 / num_prompts)
    if population:
        return np.tile(uniform, (resamples, 1))
    return rng.multinomial(num_prompts, uniform, size=resamples) / num_prompts


def calibrated_means(
    values: np.ndarray, matrix: np.ndarray, matrices: np.ndarray, weights: np.ndarray
) -> list[Figure]:
    """Means over prompts of calibrated scores.

        mean_j = sum_d matrix_jd (1/N) sum_i values_id,   resample b: matrices_b and weights_b instead

    Args:
      values: [N, q] raw scores, a number a prompt (a mean over its responses).
      matrix: [q, q] calibration.
      matrices: [R, q, q] draws of it.
      weights: [R, N] of `resampling_weights`.

    Returns:
      q figures; the interval holds the middle 95% of the resamples.
    """
    means = matrix @ values.mean(axis=0)
    draws = np.einsum("bjd,bd->bj", matrices, weights @ values)
    return [figure_of(mean, column) for mean, column in zip(means, draws.T, strict=True)]


def mean_figure(values: np.ndarray, weights: np.ndarray) -> Figure:
    """The mean of one number a prompt, [N], with its interval over the resamples."""
    return figure_of(float(values.mean()), weights @ values)


def figure_of(mean: float, draws: np.ndarray) -> Figure:
    """A mean with the middle 95% of its resamples, [R]."""
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Figure(float(mean), float(low), float(high))
