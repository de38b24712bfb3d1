"""Intervals of means: what the resamples are, what calibrations add, and that they hold the estimate."""

import dataclasses

import numpy as np
import pytest

from alignjax.dual.statistics import calibrated_means, figure_of, mean_figure, resampling_weights
from alignjax.records.figure import Figure


def test_weights_are_shares_of_prompts():
    weights = resampling_weights(np.random.default_rng(0), 7, 500, population=False)
    assert weights.shape == (500, 7)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    # Every prompt is drawn a whole number of times.
    np.testing.assert_allclose(weights * 7, np.round(weights * 7), atol=1e-12)
    # Multinomial: mean 1/7, variance of a share (1/7)(6/7)/7; 500 resamples know both to a few percent.
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 7, rtol=0.15)
    np.testing.assert_allclose(weights.var(), 6 / 7**3, rtol=0.1)


def test_a_whole_population_is_not_drawn():
    weights = resampling_weights(np.random.default_rng(0), 4, 3, population=True)
    np.testing.assert_array_equal(weights, np.full((3, 4), 0.25))


# Two prompts. The calibration doubles the reward and takes the first score from the second.
VALUES = np.array([[1.0, 2.0], [3.0, 4.0]])
MATRIX = np.array([[2.0, 0.0], [-1.0, 1.0]])


def test_calibrated_means_by_hand():
    # Raw means (2, 3): calibrated (4, 3 - 2). Resamples: prompt 0 alone, prompt 1 alone, both, under the
    # matrices M, M and 3 M.
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    matrices = np.stack([MATRIX, MATRIX, 3 * MATRIX])
    reward, safety = calibrated_means(VALUES, MATRIX, matrices, weights)
    # Rewards of the resamples: 2 * 1, 2 * 3, 3 * 4 = 2, 6, 12; the middle 95% by linear interpolation between
    # order statistics: 2 + 0.05 * 4 and 12 - 0.05 * 6.
    assert dataclasses.astuple(reward) == pytest.approx((4.0, 2.2, 11.7))
    # Safety: 2 - 1, 4 - 3, 3 (3 - 2) = 1, 1, 3; 1 and 3 - 0.05 * 2.
    assert dataclasses.astuple(safety) == pytest.approx((1.0, 1.0, 2.9))
    # Half of the resamples: their quartiles 4 and 9.
    reward, _ = calibrated_means(VALUES, MATRIX, matrices, weights, confidence=0.5)
    assert dataclasses.astuple(reward) == pytest.approx((4.0, 4.0, 9.0))


def test_prompts_of_unequal_weight_move_the_mean():
    share = np.array([0.25, 0.75])
    reward, _ = calibrated_means(VALUES, MATRIX, MATRIX[None], share[None], prompt_weights=share)
    assert reward == Figure(5.0, 5.0, 5.0)  # 2 (1/4 + 3 * 3/4)
    assert mean_figure(VALUES[:, 1], share[None], prompt_weights=share).mean == pytest.approx(3.5)


def test_an_estimate_is_never_outside_its_interval():
    assert figure_of(5.0, np.array([1.0, 2.0, 3.0])).high == 5.0
    assert figure_of(-5.0, np.array([1.0, 2.0, 3.0])).low == -5.0


def test_without_resamples_the_interval_has_no_width():
    assert figure_of(2.0, np.zeros(0)) == Figure(2.0, 2.0, 2.0)


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    weights = resampling_weights(np.random.default_rng(2), 400, 4000, population=False)
    figure = mean_figure(values, weights)
    assert figure.mean == pytest.approx(values.mean())
    error = values.std() / 20
    np.testing.assert_allclose(figure.high - figure.low, 2 * 1.96 * error, rtol=0.05)
    np.testing.assert_allclose((figure.high + figure.low) / 2, values.mean(), atol=0.2 * error)
