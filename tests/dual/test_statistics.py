"""Intervals of means: what the resamples are, what calibrations add, and that they hold the estimate."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from alignjax.dual.statistics import (
    calibrated_means,
    figure_of,
    mean_figure,
    resampling_weights,
    skewed_ends,
)
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


def student(values, confidence=0.95):
    return scipy.stats.ttest_1samp(values, 0.0).confidence_interval(confidence)


def hall(values, confidence=0.95):
    """Hall's ends: where his monotone transform of the studentized mean is a quantile of Student's.

    T + h T^2 / 3 + h^2 T^3 / 27 + h / 6 = t,   h = skewness / sqrt(n),   ends m - se T(t), m - se T(-t)
    """
    n = len(values)
    h = float(scipy.stats.skew(values)) / np.sqrt(n)
    error, t = float(scipy.stats.sem(values)), float(scipy.stats.t.ppf((1 + confidence) / 2, n - 1))

    def root(u: float) -> float:
        # x + h x^2 / 3 + h^2 x^3 / 27 is monotone: one real root.
        found = np.roots([h**2 / 27, h / 3, 1.0, h / 6 - u])
        return float(found[np.argmin(np.abs(found.imag))].real)

    return values.mean() - error * root(t), values.mean() - error * root(-t)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_ends_of_symmetric_values_are_students(confidence):
    half = np.random.default_rng(0).normal(size=15)
    values = 3 + np.concatenate([half, -half])
    np.testing.assert_allclose(
        skewed_ends(values, confidence=confidence), student(values, confidence), rtol=1e-9
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_on_the_side_of_the_tail_the_end_is_halls_and_students_on_the_other(sign):
    values = sign * np.random.default_rng(1).lognormal(sigma=1.0, size=60)
    found, by_hall, by_student = skewed_ends(values), hall(values), student(values)
    long, short = (1, 0) if sign > 0 else (0, 1)
    # Hall's interval is longer towards the tail and shorter away from it.
    assert sign * by_hall[long] > sign * by_student[long] and sign * by_hall[short] > sign * by_student[short]
    np.testing.assert_allclose(found[long], by_hall[long], rtol=1e-9)
    np.testing.assert_allclose(found[short], by_student[short], rtol=1e-9)


def test_ends_move_and_scale_with_the_values():
    values = np.random.default_rng(2).lognormal(size=40)
    low, high = skewed_ends(values)
    np.testing.assert_allclose(skewed_ends(7 + 3 * values), (7 + 3 * low, 7 + 3 * high), rtol=1e-9)
    np.testing.assert_allclose(skewed_ends(-values), (-high, -low), rtol=1e-9)


def test_a_prompt_without_weight_is_not_there_and_the_scale_of_weights_does_not_count():
    values = np.random.default_rng(3).lognormal(size=30)
    weights = np.repeat([4.0, 0.0], [20, 10])
    np.testing.assert_allclose(skewed_ends(values, weights), skewed_ends(values[:20]), rtol=1e-12)


def test_unequal_weights_count_as_fewer_prompts():
    # Weights 3, 3, 1, 1 of sum 8: 64 / 20 = 3.2 prompts. Values 1, -1, 1, -1: mean 0, variance 1, skewness 0.
    low, high = skewed_ends(np.array([1.0, -1.0, 1.0, -1.0]), np.array([3.0, 3.0, 1.0, 1.0]))
    wanted = scipy.stats.t.ppf(0.975, 2.2) / np.sqrt(2.2)
    np.testing.assert_allclose((low, high), (-wanted, wanted), rtol=1e-9)


def test_a_constant_has_no_width_and_one_prompt_no_end():
    assert skewed_ends(np.full(9, 0.1)) == pytest.approx((0.1, 0.1), abs=1e-12)
    assert skewed_ends(np.zeros(9)) == (0.0, 0.0)
    assert skewed_ends(np.array([2.0])) == (-np.inf, np.inf)
    assert skewed_ends(np.array([2.0, 5.0, 7.0]), np.array([0.0, 1.0, 0.0])) == (-np.inf, np.inf)


def test_they_cover_the_mean_of_a_heavy_tail_more_often_than_percentiles():
    """1,000 draws of 60 lognormal values, whose mean is exp(1/2): coverage is known to 0.7%."""
    rng, truth = np.random.default_rng(4), np.exp(0.5)
    weights = resampling_weights(np.random.default_rng(5), 60, 500, population=False)
    covered = np.zeros(3)
    for values in rng.lognormal(size=(1000, 60)):
        percentiles = mean_figure(values, weights)
        ends = (percentiles.low, percentiles.high), student(values), skewed_ends(values)
        covered += [low <= truth <= high for low, high in ends]
    plain, by_student, skewed = covered / 1000
    assert plain < 0.91 and by_student < 0.92 < skewed <= 0.97
