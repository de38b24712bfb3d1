"""Implicit scores: by hand, in float64, and blind to constants of the prompt."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alignjax.scores.implicit import implicit_scores


def test_by_hand():
    """0.1 (-3 + 5) = 0.2 and 0.1 (-7 + 4) = -0.3."""
    scores = implicit_scores(np.array([[-3, -7]], np.float32), np.array([[-5, -4]], np.float32), beta_pre=0.1)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [[0.2, -0.3]], rtol=1e-15)


def test_the_reference_itself_has_score_zero():
    logps = np.array([-1.5, -200.25], np.float32)
    np.testing.assert_array_equal(implicit_scores(logps, logps, beta_pre=0.1), [0, 0])


def test_long_responses_lose_nothing_in_the_difference():
    """-4096.5 and -4096.25 are exact in float32; so is their difference, 0.25, in float64."""
    np.testing.assert_array_equal(
        implicit_scores(np.array([-4096.25], np.float32), np.array([-4096.5], np.float32), beta_pre=1.0),
        [0.25],
    )


@given(st.floats(-50, 50), st.floats(0.01, 10), st.integers(0, 1000))
def test_a_normaliser_of_the_prompt_cancels_in_differences(constant, beta, seed):
    logps, ref_logps = np.random.default_rng(seed).normal(size=(2, 3, 2)) * 20
    plain = implicit_scores(logps, ref_logps, beta_pre=beta)
    moved = implicit_scores(logps + constant, ref_logps, beta_pre=beta)
    np.testing.assert_allclose(moved[:, 0] - moved[:, 1], plain[:, 0] - plain[:, 1], atol=1e-9)
    # Twice the weight, twice the score; pi and reference exchanged, the opposite.
    np.testing.assert_allclose(implicit_scores(logps, ref_logps, beta_pre=2 * beta), 2 * plain)
    np.testing.assert_allclose(implicit_scores(ref_logps, logps, beta_pre=beta), -plain)
