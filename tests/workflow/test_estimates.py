import numpy as np
import pytest

from alignjax.workflow.estimates import Figure, calibrated_means, mean_figure, resampling_weights


def test_weights_are_shares_of_prompts():
    weights = resampling_weights(np.random.default_rng(0), 7, 500, population=False)
    assert weights.shape == (500, 7)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    np.testing.assert_allclose(
        weights * 7, np.round(weights * 7), atol=1e-12
    )  # every prompt a whole number of times
    # Multinomial: mean 1/7, variance of a share (1/7)(6/7)/7; 500 resamples know both to a few percent.
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 7, rtol=0.15)
    np.testing.assert_allclose(weights.var(), 6 / 7**3, rtol=0.1)


def test_a_whole_population_is_not_drawn():
    weights = resampling_weights(np.random.default_rng(0), 4, 3, population=True)
    np.testing.assert_array_equal(weights, np.full((3, 4), 0.25))


def test_calibrated_means_by_hand():
    # Two prompts; raw means (2, 3). The calibration doubles the reward and takes the first from the second:
    # (4, 3 - 2) = (4, 1). Resamples: prompt 0 alone, prompt 1 alone, both, under matrices M, M and 3 M.
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    matrix = np.array([[2.0, 0.0], [-1.0, 1.0]])
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    matrices = np.stack([matrix, matrix, 3 * matrix])
    reward, safety = calibrated_means(values, matrix, matrices, weights)
    # Rewards of the resamples: 2 * 1, 2 * 3, 3 * 4 = 2, 6, 12; the middle 95% by linear interpolation between
    # order statistics: 2 + 0.05 * 4 and 12 - 0.05 * 6.
    assert reward == pytest.approx((4.0, 2.2, 11.7))
    # Safety: 2 - 1, 4 - 3, 3 (3 - 2) = 1, 1, 3; 1 and 3 - 0.05 * 2.
    assert safety == pytest.approx((1.0, 1.0, 2.9))
    assert Figure(1.0, 0.5, 2.0).to_json() == {"mean": 1.0, "low": 0.5, "high": 2.0}


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    weights = resampling_weights(np.random.default_rng(2), 400, 4000, population=False)
    figure = mean_figure(values, weights)
    assert figure.mean == pytest.approx(values.mean())
    error = values.std() / 20
    np.testing.assert_allclose(figure.high - figure.low, 2 * 1.96 * error, rtol=0.05)
    np.testing.assert_allclose((figure.high + figure.low) / 2, values.mean(), atol=0.2 * error)
