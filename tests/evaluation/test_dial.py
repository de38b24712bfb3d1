"""Draw-K and distances from the tilted policy, against sums over all responses."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from alignjax.evaluation.dial import distances, draw_k, exponents
from alignjax.evaluation.means import Basis, Scored
from alignjax.records.units import Unit
from alignjax.scores.calibration import identity

BETA, LAM = 0.5, np.array([0.8])
BASIS = Basis(identity(2), {"safety": Unit("safety")}, ("reward", "safety"), {})
NO_STATS = np.zeros((3, 4))


def listed(seed=0):
    """Scores of 3 prompts with 6 responses each, and log-probabilities of the reference."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, 6, 2)), log_softmax(rng.normal(size=(3, 6)), axis=1)


def as_policy(raw, logs, ref):
    weights = np.exp(logs)
    return Scored(raw, weights, np.sum(weights * (logs - ref), axis=1), NO_STATS)


def test_the_tilted_policy_is_at_distance_zero_and_others_at_their_kl():
    raw, ref = listed()
    tilted = log_softmax(ref + (raw[..., 0] + 0.8 * raw[..., 1]) / BETA, axis=1)
    reference = as_policy(raw, ref, ref)
    own = distances(as_policy(raw, tilted, ref), reference, BASIS, LAM, BETA)
    np.testing.assert_allclose(own, 0.0, atol=1e-12)
    other = log_softmax(ref + raw[..., 0], axis=1)
    expected = np.sum(np.exp(other) * (other - tilted), axis=1)
    assert expected.min() > 0.01
    np.testing.assert_allclose(
        distances(as_policy(raw, other, ref), reference, BASIS, LAM, BETA), expected, rtol=1e-10
    )


def test_draw_k_of_sampled_responses_by_hand():
    # Exponents 0 and log 3: weights 1/4 and 3/4, KL at most 1/4 log 1/2 + 3/4 log 3/2.
    raw = np.array([[[0.0, 0.0], [BETA * np.log(3.0), 0.0]]])
    reference = Scored(raw, None, np.zeros(1), np.zeros((1, 4)))
    np.testing.assert_allclose(exponents(reference, BASIS, LAM, BETA), [[0.0, np.log(3.0)]])
    found = draw_k(reference, BASIS, LAM, BETA, count=9, rng=np.random.default_rng(0))
    assert found.weights is not None
    np.testing.assert_allclose(found.weights, [[0.25, 0.75]])
    np.testing.assert_allclose(found.kl, [0.25 * np.log(0.5) + 0.75 * np.log(1.5)])


@pytest.mark.parametrize("count", [1, 2])
def test_draw_k_of_listed_responses_is_the_sum_over_all_draws(count):
    raw, ref = listed(1)
    reference = as_policy(raw, ref, ref)
    found = draw_k(reference, BASIS, LAM, BETA, count=count, rng=np.random.default_rng(0))
    expected = np.exp(ref)
    if count == 2:  # all pairs of draws, each kept with its softmax weight
        tilts, expected = exponents(reference, BASIS, LAM, BETA), np.zeros_like(ref)
        for i in range(6):
            for j in range(6):
                share = np.exp(ref[:, i] + ref[:, j])
                kept = softmax(np.stack([tilts[:, i], tilts[:, j]], axis=1), axis=1)
                expected[:, i] += share * kept[:, 0]
                expected[:, j] += share * kept[:, 1]
    assert found.weights is not None
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0)
    np.testing.assert_allclose(found.weights, expected, atol=0.08)  # 256 simulations
