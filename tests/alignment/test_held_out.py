import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from alignjax.alignment.held_out import preference_metrics


def test_by_hand():
    # beta 0.5: rewards (0.5, -0.5), (-1, 0), so margins 1 and -1; labels 1 and 0 agree with both.
    logps, ref = np.array([[-1.0, -3.0], [-4.0, -2.0]]), np.array([[-2.0, -2.0], [-2.0, -2.0]])
    found = preference_metrics(logps, ref, np.array([1.0, 0.0]), beta=0.5)
    np.testing.assert_allclose(found["loss"], np.log(1 + np.exp(-1.0)))
    assert found["rewards/margins"] == 0.0 and found["rewards/accuracies"] == 1.0
    assert found["rewards/chosen"] == -0.25 and found["rewards/rejected"] == -0.25
    assert found["logps/chosen"] == -2.5 and found["logps/rejected"] == -2.5


def test_calibrated_loss_of_two_kinds_of_pairs():
    # Margins all 3, three labels of four 1: sigma(3 a) = 3/4, the loss is the entropy of 3/4.
    logps = np.tile([3.0, 0.0], (4, 1))
    found = preference_metrics(logps, np.zeros((4, 2)), np.array([1.0, 1.0, 1.0, 0.0]), beta=1.0)
    np.testing.assert_allclose(
        found["calibrated_loss"], -0.75 * np.log(0.75) - 0.25 * np.log(0.25), rtol=1e-6
    )
    assert found["loss"] > found["calibrated_loss"] + 0.1  # sigma(3) = 0.95 is over-confident


def test_a_policy_that_has_not_moved_and_one_that_orders_the_wrong_way():
    still = preference_metrics(np.ones((3, 2)), np.ones((3, 2)), np.array([1.0, 0.0, 1.0]), beta=0.1)
    assert still["loss"] == still["calibrated_loss"] == pytest.approx(np.log(2), abs=1e-15)
    wrong = preference_metrics(np.array([[0.0, 2.0]]), np.zeros((1, 2)), np.ones(1), beta=1.0)
    # A negative slope is no calibration: nothing is left but the coin.
    assert wrong["calibrated_loss"] == pytest.approx(np.log(2)) and wrong["loss"] > np.log(2)


@given(seed=st.integers(0, 10**6), size=st.floats(1e-3, 1e3))
def test_against_a_grid_of_slopes_and_the_scale_does_not_matter(seed, size):
    rng = np.random.default_rng(seed)
    logps, labels = rng.normal(size=(40, 2)), rng.uniform(size=40)
    found = preference_metrics(logps, np.zeros((40, 2)), labels, beta=1.0)["calibrated_loss"]
    other = preference_metrics(size * logps, np.zeros((40, 2)), labels, beta=1.0)["calibrated_loss"]
    np.testing.assert_allclose(other, found, rtol=1e-7)
    p = expit(np.linspace(0, 20, 2001)[:, None] * (logps[:, 0] - logps[:, 1])[None])
    with np.errstate(divide="ignore"):
        grid = -np.mean(labels * np.log(p) + (1 - labels) * np.log1p(-p), axis=1)
    assert found <= np.nanmin(grid) + 1e-9
    np.testing.assert_allclose(found, np.nanmin(grid), atol=1e-4)
