"""Weights of a product of policies, by hand and against the tilt itself, and multipliers of rates."""

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from alignjax.errors import InputError
from alignjax.records.calibration import Curve
from alignjax.scores.calibration import Calibration, calibrated, identity
from alignjax.scores.tilting import linear_multipliers, linear_scores, product_weights


def test_weights_by_hand():
    # s_r = 2 raw_r - raw_g, s_g = 0.5 raw_g: with lam 3 the sum is 2 raw_r + 0.5 raw_g, times 1/4.
    matrix = np.array([[2.0, -1.0], [0.0, 0.5]])
    weights = product_weights(matrix, np.array([3.0]), beta=0.4, beta_pre=0.1)
    np.testing.assert_allclose(weights, [0.5, 0.125])
    # Without a multiplier the reward's own row is left, whose weight on the other policy is negative.
    np.testing.assert_allclose(product_weights(matrix, np.zeros(1), beta=1.0, beta_pre=1.0), [2.0, -1.0])


def test_the_product_of_the_policies_is_the_tilted_policy():
    """On listed responses: ref prod (pi_k / ref)^w_k, normalised, against ref exp((r + <lam, g>) / beta)."""
    rng, beta, beta_pre = np.random.default_rng(0), 0.3, 0.7
    ref = log_softmax(rng.normal(size=(4, 9)), axis=1)
    single = [log_softmax(rng.normal(size=(4, 9)), axis=1) for _ in range(3)]
    raw = beta_pre * np.stack([one - ref for one in single], axis=-1)
    fit = identity(3)._replace(matrix=rng.normal(size=(3, 3)))
    lam = np.array([0.4, 1.7])
    scores = calibrated(fit, raw)
    tilted = softmax(ref + (scores[..., 0] + scores[..., 1:] @ lam) / beta, axis=1)
    linear = linear_scores(fit, raw)
    assert (linear.explained == 1).all()
    weights = product_weights(linear.matrix, lam, beta=beta, beta_pre=beta_pre)
    product = softmax(ref + sum(w * (one - ref) for w, one in zip(weights, single, strict=True)), axis=1)
    np.testing.assert_allclose(product, tilted, rtol=1e-10)


def _bent(knot: float, slopes: tuple[float, float]) -> Calibration:
    curve = Curve(np.array([knot]), np.array(slopes), np.zeros((4, 4)))
    matrix = np.array([[0.0, 0.5], [0.0, 1.0]])
    return Calibration(matrix, np.zeros((2, 2, 2)), "joint", None, (curve, None))


def test_a_curve_becomes_its_line_within_prompts():
    # A curve with equal slopes is a line: nothing is lost. The constants of the prompts change nothing.
    raw = np.random.default_rng(1).normal(size=(5, 40, 2)) + 10 * np.arange(5)[:, None, None]
    linear = linear_scores(_bent(0.3, (2.0, 2.0)), raw)
    np.testing.assert_allclose(linear.matrix, [[2.0, 0.5], [0.0, 1.0]], atol=1e-9)
    np.testing.assert_allclose(linear.explained, [1.0, 1.0])


def test_what_a_line_holds_of_a_curve_by_hand():
    # One prompt, raw scores -1, 0, 1 and a curve flat below 0 and of slope 1 above: 0, 0, 1. The least
    # squares line has slope (0 * -1 + 1 * 1) / 2 = 1/2; of the variance 2/3 it leaves 1/6: 3/4 are held.
    raw = np.stack([np.array([[-1.0, 0.0, 1.0]]), np.zeros((1, 3))], axis=-1)
    fit = _bent(0.0, (0.0, 1.0))
    fit.matrix[0, 1] = 0.0
    linear = linear_scores(fit, raw)
    np.testing.assert_allclose(linear.matrix[0], [0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(linear.explained, [0.75, 1.0])


def test_multipliers_that_reach_rates_and_no_more():
    rng, beta = np.random.default_rng(2), 0.5
    rewards, scores = rng.normal(size=(20, 16)), rng.normal(size=(20, 16, 2))
    scores[..., 0] -= 0.5 * rewards
    values = np.stack([expit(2 * scores[..., 0] + 1), scores[..., 1]], axis=-1)

    def means(lam):
        weights = softmax((rewards + scores @ lam) / beta, axis=1)
        return np.einsum("nk,nkm->nm", weights, values).mean(axis=0)

    free = means(np.zeros(2))
    targets = [float(free[0]) + 0.1, float(free[1]) + 0.2]
    lam = linear_multipliers(rewards, scores, values, targets, beta=beta)
    np.testing.assert_allclose(means(lam), targets, atol=1e-4)
    # What is reached without it needs no multiplier.
    lam = linear_multipliers(rewards, scores, values, [float(free[0]) - 0.3, targets[1]], beta=beta)
    assert lam[0] == 0 and means(lam)[0] >= free[0] - 0.3
    assert means(lam)[1] == pytest.approx(targets[1], abs=1e-4)


def test_what_cannot_be_reached_is_refused():
    values = np.array([[[0.2], [0.6]]])
    with pytest.raises(InputError, match=r"0\.7 cannot be reached, the best responses have 0\.6"):
        linear_multipliers(np.zeros((1, 2)), values, values, [0.7], beta=1.0)
