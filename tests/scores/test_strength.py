"""The strength at which a product has a KL that is asked for, on curves whose answer is known."""

import numpy as np
import pytest

from alignjax.scores.strength import strength_for


def test_a_product_that_goes_no_further_is_taken_whole():
    asked = []

    def kl_at(strength):
        asked.append(strength)
        return 0.9

    assert strength_for(kl_at, 1.0) == (1.0, 0.9) and asked == [1.0]


@pytest.mark.parametrize("power", [0.8, 2.0, 3.5])
def test_on_powers_the_kl_is_met(power):
    strength, kl = strength_for(lambda t: 8.0 * t**power, 1.5)
    assert kl == pytest.approx(1.5, rel=0.05)
    assert strength == pytest.approx((1.5 / 8.0) ** (1 / power), rel=0.08)


def test_noise_does_not_drive_it_away():
    rng = np.random.default_rng(0)
    strength, kl = strength_for(lambda t: 8.0 * t**2 * rng.uniform(0.9, 1.1), 1.5)
    assert 0 < strength < 1 and kl == pytest.approx(1.5, rel=0.25)
