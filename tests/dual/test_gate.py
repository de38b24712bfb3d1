"""The gate: by hand, and the search for the beta that opens it."""

import numpy as np
import pytest

from alignjax.dual.gate import ROOM, SHARE, Crowding, gate, smallest_beta


def never() -> float | None:
    """An open gate searches for nothing."""
    raise AssertionError("an open gate searched for a beta")


def crowd(far: int, weights: np.ndarray | None = None) -> Crowding:
    """A hundred prompts of 100 samples, of which `far` have a KL just above log 100 - 1."""
    kl = np.zeros(100)
    kl[:far] = np.log(100) - ROOM + 1e-9
    return Crowding(kl, np.full(100, 100), weights)


def test_open_up_to_the_share_and_closed_above_it():
    most = round(100 * SHARE)
    opened = gate(crowd(most), never)
    assert opened.open and opened.share == pytest.approx(SHARE) and opened.remedies == opened.reasons == ()
    shut = gate(crowd(most + 1), lambda: 2.5)
    assert not shut.open and shut.share == pytest.approx(SHARE + 0.01)
    assert shut.beta == 2.5 and shut.samples == 101  # exp(log 100 - 1 + 1), rounded up
    assert "raise beta to 2.5, where this table passes" in shut.remedies
    assert f"{SHARE + 0.01:.1%} of the prompts have a KL above log K - 1 nats" in shut.reasons[0]


def test_prompts_count_by_their_weights_and_by_their_own_samples():
    weights = np.where(np.arange(100) < 50, 0.0, 1.0)
    assert gate(crowd(50, weights), never).open
    kl = np.full(10, 2.0)  # log K - 1 is 1.996 of 20 samples and 2.04 of 21
    assert not Crowding(kl, np.full(10, 20), None).passes
    assert Crowding(kl, np.full(10, 21), None).passes


def test_where_no_beta_passes_less_is_to_be_asked_for():
    shut = gate(crowd(100), lambda: None)
    assert shut.beta is None and "ask for less" in shut.remedies[1]


@pytest.mark.parametrize("edge", [0.11, 0.7, 35.0])
def test_smallest_beta_is_found_to_a_percent_and_passes(edge):
    found = smallest_beta(lambda beta: beta >= edge, 0.1)
    assert found is not None and edge <= found < 1.02 * edge


def test_no_beta_within_4096_times():
    assert smallest_beta(lambda beta: beta > 500, 0.1) is None
