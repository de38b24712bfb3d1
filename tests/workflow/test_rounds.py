"""The correction of a multiplier by what a policy misses: by hand, and slopes by another way."""

import numpy as np
import pytest

from alignjax.records.evaluation import Round
from alignjax.workflow import rounds

NAMES: tuple[str, ...] = ("safety", "honesty")
# Safety misses 0.5 of what is asked, honesty exceeds it by 0.5.
GIVEN = {"asked": np.array([1.5, 0.5]), "room": np.array([0.25, 0.125]), "slopes": np.array([2.0, 4.0])}
LAM, ACHIEVED = np.array([0.5, 0.25]), np.array([1.0, 1.0])


def corrected(lam=LAM, achieved=ACHIEVED, *, step=None, **changes) -> Round:
    return rounds.corrected(3, NAMES, lam, achieved, **{**GIVEN, **changes}, reward=3.0, kl=0.3, step=step)


def test_a_correction_aims_at_what_was_asked_and_the_room_of_the_test():
    found = corrected()
    # Safety: 0.5 + (1.5 + 0.25 - 1) / 2 = 0.875. Honesty: 0.25 + (0.5 + 0.125 - 1) / 4 = 0.15625.
    assert found == Round(
        round=3,
        lam={"safety": 0.5, "honesty": 0.25},
        asked={"safety": 1.5, "honesty": 0.5},
        aim={"safety": 1.75, "honesty": 0.625},
        achieved={"safety": 1.0, "honesty": 1.0},
        next_lam={"safety": 0.875, "honesty": 0.15625},
        reward=3.0,
        kl=0.3,
    )


def test_the_published_step_aims_at_what_was_asked_alone():
    found = corrected(step=0.4)
    # 0.5 + 0.4 x 0.5 and 0.25 - 0.4 x 0.5; neither room nor slopes have a part in it.
    assert found.aim == found.asked == {"safety": 1.5, "honesty": 0.5}
    assert found.next_lam == pytest.approx({"safety": 0.7, "honesty": 0.05})
    other = corrected(step=0.4, room=np.full(2, 9.0), slopes=np.full(2, 0.01))
    assert other.next_lam == found.next_lam


@pytest.mark.parametrize("step", [None, 0.4])
def test_a_multiplier_does_not_become_negative(step):
    found = corrected(achieved=np.array([1.5, 99.0]), step=step, room=np.zeros(2))
    assert found.next_lam == {"safety": 0.5, "honesty": 0.0}


def tilted(rewards, utilities, lam, beta):
    """Margins of pi_lam on the samples, and the variance of each utility under it."""
    total = (rewards + utilities @ lam) / beta
    w = np.exp(total - total.max(axis=1, keepdims=True))
    w /= w.sum(axis=1, keepdims=True)
    mean = np.einsum("nk,nkm->nm", w, utilities)
    variance = np.einsum("nk,nkm->nm", w, utilities**2) - mean**2
    return mean.mean(axis=0) - utilities.mean(axis=(0, 1)), variance.mean(axis=0)


@pytest.mark.parametrize("lam", [[0.4, 0.0], [0.0, 3.0], [1.5, 0.7]])
def test_the_predicted_slope_is_the_tilts_variance_over_beta(lam):
    rng = np.random.default_rng(0)
    rewards, utilities = rng.normal(size=(5, 30)), rng.normal(size=(5, 30, 2))
    lam, beta = np.array(lam), 0.7
    _, variance = tilted(rewards, utilities, lam, beta)
    found = rounds.predicted_slopes(rewards, utilities, lam, beta)
    np.testing.assert_allclose(found, variance / beta, rtol=0.02)


def test_the_predicted_slope_brings_a_newton_step():
    rng = np.random.default_rng(1)
    rewards, utilities = rng.normal(size=(40, 30)), rng.normal(size=(40, 30, 1))
    lam, beta = np.array([0.4]), 0.7
    margins, _ = tilted(rewards, utilities, lam, beta)
    slopes = rounds.predicted_slopes(rewards, utilities, lam, beta)
    found = rounds.corrected(
        1, ("safety",), lam, margins, asked=margins + 0.02, room=np.zeros(1), slopes=slopes, reward=0.0,
        kl=0.0, step=None,
    )  # fmt: skip
    after, _ = tilted(rewards, utilities, np.array(list(found.next_lam.values())), beta)
    assert after[0] - margins[0] == pytest.approx(0.02, rel=0.05)


def test_a_utility_that_no_multiplier_moves_keeps_a_finite_multiplier():
    slopes = rounds.predicted_slopes(np.zeros((2, 3)), np.ones((2, 3, 1)), np.zeros(1), 1.0)
    assert slopes[0] > 0
    found = rounds.corrected(
        1, ("safety",), np.zeros(1), np.zeros(1), asked=np.ones(1), room=np.zeros(1), slopes=slopes,
        reward=0.0, kl=0.0, step=None,
    )  # fmt: skip
    assert np.isfinite(found.next_lam["safety"]) and found.next_lam["safety"] > 0


def before(lam, achieved) -> Round:
    zeros = dict.fromkeys(NAMES, 0.0)
    named = [dict(zip(NAMES, values, strict=True)) for values in (lam, achieved)]
    return Round(1, named[0], zeros, zeros, named[1], zeros, 0.0, 0.0)


def test_a_measured_slope_by_hand():
    # Safety rose by 0.6 with 0.2 of its multiplier, honesty fell by 0.3 with 0.1 less.
    found = rounds.measured_slopes(
        before([0.5, 0.4], [1.0, 0.8]), np.array([0.7, 0.3]), np.array([1.6, 0.5]), np.array([2.0, 4.0])
    )
    np.testing.assert_allclose(found, [3.0, 3.0])


def test_a_measured_slope_is_believed_within_a_factor_of_four():
    predicted, lam = np.array([2.0, 2.0]), np.array([0.6, 0.5])
    steep = rounds.measured_slopes(before([0.5, 0.4], [0.0, 0.0]), lam, np.array([5.0, 0.01]), predicted)
    np.testing.assert_allclose(steep, [8.0, 0.5])
    # A margin that fell where its multiplier rose: noise, and never a slope below 0.
    fell = rounds.measured_slopes(before([0.5, 0.4], [1.0, 1.0]), lam, np.array([0.5, 1.0]), predicted)
    np.testing.assert_allclose(fell, [0.5, 0.5])


def test_a_multiplier_that_did_not_move_has_the_predicted_slope():
    found = rounds.measured_slopes(
        before([0.5, 0.0], [1.0, 0.8]), np.array([0.7, 0.0]), np.array([1.4, 1.9]), np.array([1.0, 3.0])
    )
    np.testing.assert_allclose(found, [2.0, 3.0])
