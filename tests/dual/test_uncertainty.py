"""Intervals: against numpy on the same resamples, and against the truth where it is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from alignjax.dual import bootstrap, frontier, solve
from alignjax.dual.bias import policies
from alignjax.errors import InputError

ASKED = np.array([0.25, 0.15])


def resamples(key, n, count):
    """The prompts of every resample, as `bootstrap` draws them."""
    keys = jax.random.split(key, count)
    with jax.enable_x64(True):
        return np.stack([np.asarray(jax.random.randint(k, (n,), 0, n)) for k in keys])


def test_bootstrap_is_solving_on_resampled_prompts(make_problem):
    """Every resample solved anew from its own rows; margins, reward and KL of the one lambda* on them."""
    rewards, utilities = make_problem(1, n=30)
    key = jax.random.key(3)
    found = bootstrap(key, rewards, utilities, beta=0.6, margins=ASKED, num_resamples=25, confidence=0.8)
    lam = solve(rewards, utilities, beta=0.6, margins=ASKED).lam
    lams, means = [], []
    for rows in resamples(key, 30, 25):
        part = rewards[rows], utilities[rows]
        lams.append(solve(*part, beta=0.6, margins=ASKED).lam)
        point = frontier(*part, beta=0.6, lams=lam[None])
        means.append([*point.margins[0], point.expected_reward[0], point.kl[0]])
    ends = functools.partial(np.quantile, q=[0.1, 0.9], axis=0, method="nearest")
    np.testing.assert_allclose(np.stack(found.lam), ends(np.array(lams)), rtol=1e-7)
    expected = ends(np.array(means))
    np.testing.assert_allclose(np.stack(found.margins), expected[:, :2], rtol=1e-8)
    np.testing.assert_allclose(np.stack(found.reward), expected[:, 2], rtol=1e-8)
    np.testing.assert_allclose(np.stack(found.kl), expected[:, 3], rtol=1e-8)
    assert found.feasible_share == 1


def test_bootstrap_of_a_level_moves_with_the_reference(make_problem):
    rewards, utilities = make_problem(1, n=30)
    levels, key = utilities.mean(axis=(0, 1)) + ASKED, jax.random.key(3)
    found = bootstrap(key, rewards, utilities, beta=0.6, levels=levels, num_resamples=9, confidence=0.5)
    lams = [
        solve(rewards[rows], utilities[rows], beta=0.6, levels=levels).lam for rows in resamples(key, 30, 9)
    ]
    ends = np.quantile(np.array(lams), [0.25, 0.75], axis=0, method="nearest")
    np.testing.assert_allclose(np.stack(found.lam), ends, rtol=1e-7, atol=1e-9)


def test_infeasible_resamples_are_counted_and_their_lambda_is_infinite():
    """Half of the prompts can give 1, the others nothing: a margin of 0.3 needs six of ten such prompts."""
    utilities = np.zeros((10, 2, 1))
    utilities[:7, 1, 0] = 1.0
    key = jax.random.key(0)
    found = bootstrap(key, np.zeros((10, 2)), utilities, beta=1.0, margins=np.array([0.3]), num_resamples=200)
    able = np.mean(np.sum(resamples(key, 10, 200) < 7, axis=1) * 0.05 > 0.3)
    assert 0 < able < 1
    # Exactly on the boundary lambda is infinite: neither solved nor refuted, and counted as not met.
    assert found.feasible_share == pytest.approx(able)
    assert np.isinf(found.lam.high[0]) and np.isfinite(found.lam.low[0])


def test_equal_keys_equal_intervals_and_traced_equals_plain(x64, make_problem):
    rewards, utilities = make_problem(6, n=12)
    run = functools.partial(bootstrap, beta=0.5, margins=ASKED, num_resamples=16)
    one, two = (run(jax.random.key(5), rewards, utilities) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    traced = jax.jit(run)(jax.random.key(5), jnp.asarray(rewards), jnp.asarray(utilities))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), traced, one)


def test_corrected_intervals_are_bootstrapped_from_corrected_estimates(make_problem):
    """Margins: the corrected means of the prompts, resampled. lambda*: the root that they have, resampled."""
    rewards, utilities = make_problem(8, n=40, k=24)
    key = jax.random.key(3)
    given = {"beta": 0.8, "margins": ASKED}
    found = bootstrap(key, rewards, utilities, **given, num_resamples=25, confidence=0.8, correct_bias=True)
    lam = solve(rewards, utilities, **given).lam
    rows = resamples(key, 40, 25)

    def corrected(point):
        at = policies(point, rewards, utilities, beta=0.8)
        return (np.asarray(at.tilted)[4:] - np.asarray(at.reference)[1:]).T

    margins = [corrected(lam)[chosen].mean(axis=0) for chosen in rows]
    ends = functools.partial(np.quantile, q=[0.1, 0.9], axis=0, method="nearest")
    np.testing.assert_allclose(np.stack(found.margins), ends(np.array(margins)), rtol=1e-8)
    lams = []
    for chosen in rows:

        def complementary(point, chosen=chosen):
            left = corrected(np.abs(point))[chosen].mean(axis=0) - ASKED
            return np.abs(point) + left - np.hypot(point, left)

        lams.append(np.abs(scipy.optimize.least_squares(complementary, lam + 0.1).x))
    # To first order in the bias.
    np.testing.assert_allclose(np.stack(found.lam), ends(np.array(lams)), rtol=0.05, atol=0.01)


def test_errors(make_problem):
    problem = make_problem(0)
    with pytest.raises(InputError, match="^dual.bootstrap: num_resamples is 0, must be at least 1"):
        bootstrap(jax.random.key(0), *problem, beta=1.0, margins=ASKED, num_resamples=0)
    with pytest.raises(InputError, match="^dual.bootstrap: confidence is 1.0, must lie between 0 and 1"):
        bootstrap(jax.random.key(0), *problem, beta=1.0, margins=ASKED, confidence=1.0)
    with pytest.raises(InputError, match="^dual.bootstrap: both of margins and levels given"):
        bootstrap(jax.random.key(0), *problem, beta=1.0, margins=ASKED, levels=ASKED)
