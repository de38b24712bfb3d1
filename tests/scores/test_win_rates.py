"""Win rates by loops, ratings by hand and by an outside optimizer, and what must hold for any contest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from alignjax.scores.win_rates import bradley_terry, win_rates, win_shares


def loops(scores, weights):
    """The definition, a comparison at a time."""
    size, prompts, responses = scores.shape
    found = np.full((size, size, prompts), 0.5)
    for a in range(size):
        for b in range(size):
            for n in range(prompts if a != b else 0):
                total = 0.0
                for k in range(responses):
                    for other in range(responses):
                        lead = scores[a, n, k] - scores[b, n, other]
                        won = 1.0 if lead > 0 else 0.5 if lead == 0 else 0.0
                        total += weights[a, n, k] * weights[b, n, other] * won
                found[a, b, n] = total / weights[a, n].sum() / weights[b, n].sum()
    return found


def likelihood_maximum(wins, prior):
    """Ratings by BFGS on the log-likelihood written out, pair by pair."""
    size = len(wins)

    def loss(free):
        theta = np.concatenate([[0.0], free])
        total = 0.0
        for a in range(size):
            for b in range(size):
                if a != b and wins[a, b] + wins[b, a] > 0:
                    total += (wins[a, b] + prior) * np.logaddexp(0.0, theta[b] - theta[a])
        return total

    found = optimize.minimize(
        loss, np.zeros(size - 1), method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}
    )
    return np.concatenate([[0.0], found.x])


def test_shares_by_hand():
    # One prompt. a has 3, 1; b has 2, 1. 3 beats both, 1 loses to 2 and ties with 1: (1 + 1 + 0 + 1/2) / 4.
    scores = np.array([[[3.0, 1.0]], [[2.0, 1.0]]])
    shares = win_shares(scores)
    np.testing.assert_allclose(shares[:, :, 0], [[0.5, 0.625], [0.375, 0.5]])
    # With the mass 0.75 on a's 3: 0.75 * 1 + 0.25 * 0.25.
    weights = np.array([[[3.0, 1.0]], [[1.0, 1.0]]])
    assert win_shares(scores, weights)[0, 1, 0] == pytest.approx(0.8125)


def test_a_difference_up_to_the_tie_is_none():
    scores = np.array([[[1.0]], [[1.0 + 1e-6]], [[1.1]]])
    shares = win_shares(scores, tie=1e-5)[:, :, 0]
    assert shares[0, 1] == 0.5 and shares[2, 0] == 1.0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_shares_are_those_of_the_loops_and_sum_to_one(seed, size, prompts, responses):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (size, prompts, responses)).astype(float)  # many ties
    weights = rng.uniform(0.1, 1.0, scores.shape)
    shares = win_shares(scores, weights)
    np.testing.assert_allclose(shares, loops(scores, weights), atol=1e-12)
    np.testing.assert_allclose(shares + shares.swapaxes(0, 1), 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("scores", "weights", "message"),
    [
        (np.zeros((2, 3)), None, "must both be"),
        (np.zeros((2, 3, 4)), np.ones((2, 3, 5)), "must both be"),
        (np.full((1, 1, 1), np.nan), None, "finite"),
    ],
)
def test_shares_refuse(scores, weights, message):
    with pytest.raises(ValueError, match=message):
        win_shares(scores, weights)


def test_rates_are_means_over_the_prompts_that_have_a_verdict():
    shares = np.full((2, 2, 3), np.nan)
    shares[0, 1] = 1.0, np.nan, 0.4
    weights = np.array([[1, 1, 1], [0, 2, 1], [0, 3, 0]]) / 3
    rates, judged = win_rates(shares, weights)
    np.testing.assert_allclose(rates[:2, 0, 1], [0.7, 0.4])
    np.testing.assert_allclose(judged[:, 0, 1], [2 / 3, 1 / 3, 0])
    assert np.isnan(rates[2, 0, 1]) and np.isnan(rates[:, 1, 0]).all()


def test_two_policies_are_rated_by_the_logit_of_their_wins():
    # With half a win each way 9 of 12 becomes 9.5 against 3.5.
    np.testing.assert_allclose(bradley_terry(np.array([[0, 3.0], [9.0, 0]])), [0, np.log(9.5 / 3.5)])


def test_ratings_maximise_the_likelihood():
    rng = np.random.default_rng(3)
    for _ in range(5):
        size = int(rng.integers(2, 7))
        strength = rng.normal(0, 1.5, size)
        chance = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
        wins = rng.binomial(30, chance) * (rng.random((size, size)) < 0.8).astype(float)
        wins[0, 1:] += 1.0  # connected
        np.fill_diagonal(wins, 0.0)
        expected = likelihood_maximum(wins, 0.5)
        np.testing.assert_allclose(bradley_terry(wins), expected, atol=1e-5)


def test_at_the_maximum_expected_wins_are_those_counted():
    """The likelihood equation: what every policy won is what its ratings expect, far from 0 as well."""
    rng = np.random.default_rng(0)
    wins = rng.uniform(0, 1e6, (50, 5, 5)) * rng.choice([1e-6, 1.0], (50, 5, 5))
    wins[:, range(5), range(5)] = 0.0
    theta = bradley_terry(wins)
    counted = np.where(np.eye(5, dtype=bool), 0.0, wins + 0.5)
    games = counted + counted.swapaxes(1, 2)
    expected = games / (1 + np.exp(theta[:, None, :] - theta[:, :, None]))
    np.testing.assert_allclose(expected.sum(axis=2), counted.sum(axis=2), rtol=1e-8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_ratings_do_not_depend_on_the_order_of_policies(seed, size):
    rng = np.random.default_rng(seed)
    wins = rng.integers(0, 20, (size, size)).astype(float)
    np.fill_diagonal(wins, 0.0)
    order = np.concatenate([[0], 1 + rng.permutation(size - 1)])
    np.testing.assert_allclose(
        bradley_terry(wins[np.ix_(order, order)]), bradley_terry(wins)[order], atol=1e-8
    )


def test_who_won_all_is_rated_finite_and_by_how_much_was_seen():
    # 100 of 100 with half a win each way: log(100.5 / 0.5).
    few, many = (bradley_terry(np.array([[0, 0], [n, 0.0]]))[1] for n in (100.0, 1e8))
    assert few == pytest.approx(np.log(201.0)) and many == pytest.approx(np.log(2e8 + 1))


def test_who_was_never_compared_has_no_rating():
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 0] = 2.0
    wins[2, 3] = 5.0  # among themselves
    theta = bradley_terry(wins)
    np.testing.assert_array_equal(np.isnan(theta), [False, False, True, True])
    assert np.isnan(bradley_terry(np.zeros((2, 2)))[1]) and bradley_terry(np.zeros((1, 1)))[0] == 0


def test_a_resample_without_verdicts_of_a_pair_keeps_its_prior():
    wins = np.array([[[0, 4.0], [2.0, 0]], [[0, 0], [0, 0]]])
    np.testing.assert_allclose(bradley_terry(wins)[:, 1], [np.log(2.5 / 4.5), 0.0], atol=1e-9)


@pytest.mark.parametrize(
    ("wins", "prior", "message"),
    [
        (np.zeros((2, 3)), 0.5, r"wins has shape \(2, 3\) .*; give \[..., P, P\]"),
        (np.zeros((2, 2)), 0.0, "positive"),
        (np.array([[0, -1.0], [1.0, 0]]), 0.5, "not negative"),
        (np.array([[0, np.nan], [1.0, 0]]), 0.5, "finite"),
    ],
)
def test_ratings_refuse(wins, prior, message):
    with pytest.raises(ValueError, match=message):
        bradley_terry(wins, prior=prior)
