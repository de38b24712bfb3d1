"""The guarded problem: each part of the guard in numpy, the whole by scipy, and how often it holds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from alignjax.dual import finite_sample_bias, solve, solve_conservative
from alignjax.dual.bias import policies
from alignjax.errors import InputError
from alignjax.records.uncertainty import ScoreUncertainty

ASKED = np.array([0.25, 0.15])


def parts(rewards, utilities, lam, beta):
    """Corrected margins of the prompts, bias, and 0.75 times the size that the bias can have."""
    at = policies(lam, rewards, utilities, beta=beta)
    plain, tilted = (np.asarray(x)[4:] for x in (at.plain, at.tilted))
    w = np.exp((rewards + utilities @ lam - (rewards + utilities @ lam).max(axis=1, keepdims=True)) / beta)
    w /= w.sum(axis=1, keepdims=True)
    concentrated = (w**2).sum(axis=1) - 1 / rewards.shape[1]  # 1 / ESS - 1 / K
    spread = (utilities.std(axis=1) * concentrated[:, None]).mean(axis=0)
    return (tilted - np.asarray(at.reference)[1:]).T, (plain - tilted).mean(axis=1), 0.75 * spread


def spread_of(rewards, utilities, lam, beta):
    """mean_i sd_ij (1 / ESS_i - 1 / K): what the bias of a mean of so few effective samples can be, [m]."""
    logits = (rewards + utilities @ lam) / beta
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    fewer = np.sum(weights**2, axis=1) - 1 / rewards.shape[1]
    return np.mean(utilities.std(axis=1) * fewer[:, None], axis=0)


def slack(rewards, utilities, lam, *, beta, asked, confidence=0.95):
    """margin - bias - guard - asked at any multiplier: what must be 0 where lam > 0."""
    margins, bias, more = parts(rewards, utilities, lam, beta)
    n, m = margins.shape
    q = scipy.stats.t.ppf(1 - (1 - confidence) / m, n - 1)
    guard = q * margins.std(axis=0, ddof=1) / np.sqrt(n) + np.abs(bias)
    guard += 0.75 * spread_of(rewards, utilities, lam, beta)
    return margins.mean(axis=0) - guard - asked


def test_guard_by_its_parts(make_problem):
    rewards, utilities = make_problem(2, n=60, k=24)
    found = solve_conservative(rewards, utilities, beta=0.6, margins=ASKED, confidence=0.9)
    lam = np.asarray(found.solution.lam)
    margins, bias, more = parts(rewards, utilities, lam, 0.6)
    q = scipy.stats.t.ppf(1 - 0.1 / 2, 59)  # two constraints share the 10%
    error = margins.std(axis=0, ddof=1) / np.sqrt(60)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-7)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-7)
    spread = spread_of(rewards, utilities, lam, 0.6)
    np.testing.assert_allclose(found.spread, spread, rtol=1e-7)
    np.testing.assert_allclose(found.guard, q * error + np.abs(bias) + 0.75 * spread, rtol=1e-7)
    np.testing.assert_allclose(found.low, margins.mean(axis=0) - found.guard, rtol=1e-7)
    np.testing.assert_allclose(lam * (found.low - ASKED), 0, atol=1e-8)  # what binds is met, no more
    assert lam[1] > 0 and (found.low > ASKED - 1e-8).all()
    np.testing.assert_array_equal(found.calibration, 0)
    assert found.solution.feasible and found.settled
    plain = solve(rewards, utilities, beta=0.6, margins=ASKED)
    np.testing.assert_allclose(found.plain.lam, plain.lam, rtol=1e-9)
    bias = finite_sample_bias(rewards, utilities, beta=0.6, margins=ASKED)
    np.testing.assert_allclose(found.plain.margins, plain.margins - bias.margins, rtol=1e-7)
    np.testing.assert_allclose(found.plain.reward, plain.expected_reward - bias.reward, rtol=1e-7)
    np.testing.assert_allclose(found.plain.kl, plain.kl - bias.kl, rtol=1e-7)


@pytest.mark.parametrize("asked", [-0.3, 0.0, 0.4])
@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_the_guarded_multiplier_is_the_first_root_that_scipy_finds(make_problem, asked, beta):
    rewards, utilities = make_problem(5, n=80, k=32, m=1)
    found = solve_conservative(rewards, utilities, beta=beta, margins=np.array([asked]))

    def at(lam: float) -> float:
        return float(slack(rewards, utilities, np.array([lam]), beta=beta, asked=asked)[0])

    assert found.solution.feasible
    if at(0.0) >= 0:
        assert found.solution.lam[0] == 0
        return
    line = np.linspace(0, 4, 81)
    first = next(i for i, lam in enumerate(line) if at(lam) >= 0)
    root = scipy.optimize.brentq(at, line[first - 1], line[first], xtol=1e-10)
    assert found.solution.lam[0] == pytest.approx(root, rel=1e-6)


def test_two_guarded_constraints_against_scipy(make_problem):
    rewards, utilities = make_problem(3, n=80, k=32)
    found = solve_conservative(rewards, utilities, beta=0.7, margins=ASKED)
    lam = np.asarray(found.solution.lam)
    assert lam.any()

    def complementary(point: np.ndarray) -> np.ndarray:
        """0 where point >= 0, slack >= 0 and one of both is 0 (Fischer 1992)."""
        left = slack(rewards, utilities, np.abs(point), beta=0.7, asked=ASKED)
        return np.abs(point) + left - np.hypot(point, left)

    root = scipy.optimize.least_squares(complementary, [0.5, 0.5], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert root.cost < 1e-18
    np.testing.assert_allclose(lam, np.abs(root.x), atol=1e-6)


def test_a_constraint_that_needs_no_multiplier_has_none_and_a_bound_above_what_is_asked(make_problem):
    rewards, utilities = make_problem(3, n=80, k=32)
    found = solve_conservative(rewards, utilities, beta=0.7, margins=np.array([0.3, -9.0]))
    assert found.solution.feasible and found.solution.lam[1] == 0 and found.low[1] > -3
    np.testing.assert_allclose(found.low[0], 0.3, atol=1e-8)


def test_a_level_keeps_the_uncertainty_of_the_reference(make_problem):
    """The guard of a level is q standard errors of the mean utility itself, not of a margin."""
    rewards, utilities = make_problem(2, n=60, k=24, m=1)
    utilities = utilities + np.random.default_rng(0).normal(size=(60, 1, 1))  # prompts differ
    level = utilities.mean() + 0.5
    found = solve_conservative(rewards, utilities, beta=0.6, levels=np.array([level]))
    at = policies(found.solution.lam, rewards, utilities, beta=0.6)
    error = np.asarray(at.tilted)[4].std(ddof=1) / np.sqrt(60)
    np.testing.assert_allclose(found.standard_error, [error], rtol=1e-7)
    means = found.solution.expected_utilities - found.bias
    np.testing.assert_allclose(means - found.guard, [level], atol=1e-8)
    margin = solve_conservative(rewards, utilities, beta=0.6, margins=np.array([0.5]))
    assert found.standard_error[0] > 1.5 * margin.standard_error[0]


def test_guard_of_an_ensemble_adds_its_spread(make_problem):
    """Members 0.9 g and 1.1 g: the tilt uses g; their margins spread by sqrt(2) / 10 of the margin of g."""
    rewards, utilities = make_problem(2, n=60, k=96, m=1)
    members = np.stack([0.9 * utilities, 1.1 * utilities])
    found = solve_conservative(rewards, members, beta=0.6, margins=np.array([0.2]))
    corrected = found.solution.margins - found.bias
    assert found.solution.feasible and found.solution.lam[0] > 0
    np.testing.assert_allclose(found.calibration, np.sqrt(2) / 10 * corrected, rtol=1e-6)
    q = scipy.stats.t.ppf(0.95, 59)
    expected = (
        q * np.hypot(found.standard_error, found.calibration) + np.abs(found.bias) + 0.75 * found.spread
    )
    np.testing.assert_allclose(found.guard, expected, rtol=1e-9)


def test_calibration_by_hand(make_problem):
    """Variance v' Sigma v of the mean change v of the columns: reward, utility and one feature, 2 g."""
    rewards, utilities = make_problem(2, n=60, k=96, m=1)
    covariance = np.array([[0.04, 0.0, 0.0], [0.0, 0.01, 0.0], [0.0, 0.0, 0.0025]])
    uncertainty = ScoreUncertainty(2 * utilities, np.zeros((0, 2, 3)), np.stack([covariance, covariance]))
    given: dict[str, Any] = {"beta": 1.0, "margins": np.array([0.6])}
    found = solve_conservative(rewards, utilities, uncertainty=uncertainty, **given)
    at = policies(found.solution.lam, rewards, utilities, beta=1.0)
    gained = (np.asarray(at.tilted)[3:] - np.asarray(at.reference)).mean(axis=1)
    variance = 0.04 * gained[0] ** 2 + 0.01 * gained[1] ** 2 + 0.0025 * (2 * gained[1]) ** 2
    np.testing.assert_allclose(found.calibration, [np.sqrt(variance)], rtol=1e-7)
    np.testing.assert_allclose(found.low, [0.6], atol=1e-8)


def test_a_population_has_the_error_of_drawing_responses_alone():
    """One prompt, r = 0, g in {0, 1} of 100 responses each, lam = 0: margins 0, whose error is 0 exactly;
    that of the level is sd / sqrt(K) = 0.5 / sqrt(200)."""
    rewards, utilities = np.zeros((1, 200)), np.repeat([0.0, 1.0], 100)[None, :, None]
    given: dict[str, Any] = {"beta": 1.0, "population": True}
    margin = solve_conservative(rewards, utilities, margins=np.array([-0.5]), **given)
    np.testing.assert_allclose(margin.standard_error, [0.0], atol=1e-15)
    level = solve_conservative(rewards, utilities, levels=np.array([0.1]), **given)
    assert level.solution.lam[0] == 0
    np.testing.assert_allclose(level.standard_error, [0.5 / np.sqrt(200)], rtol=1e-12)
    np.testing.assert_allclose(level.guard - np.abs(level.bias), [1.6448536 * 0.5 / np.sqrt(200)], rtol=1e-6)


def test_a_guard_beyond_reach_is_infeasible_with_its_certificate():
    utilities = np.zeros((10, 2, 1))
    utilities[:7, 1, 0] = 1.0
    rewards = np.zeros((10, 2))
    assert solve(rewards, utilities, beta=1.0, margins=np.array([0.34])).feasible
    found = solve_conservative(rewards, utilities, beta=1.0, margins=np.array([0.34]))
    assert found.plain.feasible and not found.solution.feasible and found.solution.certificate[0] == 1
    nothing = solve_conservative(rewards, utilities, beta=1.0, margins=np.array([0.9]))
    assert not nothing.plain.feasible and not nothing.solution.feasible


@pytest.mark.parametrize("n", [2, 3])
def test_two_or_three_prompts_have_student_quantiles(n, make_problem):
    rewards, utilities = make_problem(1, n=n, k=64, m=1)
    found = solve_conservative(rewards, utilities, beta=2.0, margins=np.array([-2.5]))
    q = {2: 6.3137515, 3: 2.9199856}[n]  # t of 0.95 with 1 and 2 degrees of freedom
    expected = q * found.standard_error + np.abs(found.bias) + 0.75 * found.spread
    np.testing.assert_allclose(found.guard, expected, rtol=1e-6)
    assert found.standard_error[0] > 0


def test_a_single_prompt_is_refused(make_problem):
    rewards, utilities = make_problem(1, n=2, m=1)
    given: dict[str, Any] = {"beta": 1.0, "margins": np.array([0.0])}
    with pytest.raises(InputError, match="constraint 0 rests on a single prompt, of which there is no stand"):
        solve_conservative(rewards[:1], utilities[:1], **given)
    with pytest.raises(InputError, match="rests on a single prompt"):
        solve_conservative(rewards, utilities, prompt_weights=np.array([1.0, 0.0]), **given)


def test_weights_of_the_prompts_count_prompts(make_problem):
    """Weight 0 is a prompt that is not there."""
    rewards, utilities = make_problem(1, n=12, k=1, m=1)
    rewards, utilities = np.tile(rewards, (1, 8)), np.tile(utilities, (1, 8, 1))  # no noise within prompts
    weights = np.repeat([1.0, 0.0], [8, 4])
    given: dict[str, Any] = {"beta": 1.0, "levels": np.array([-9.0])}
    one = solve_conservative(rewards, utilities, prompt_weights=weights, **given)
    two = solve_conservative(rewards[:8], utilities[:8], **given)
    np.testing.assert_allclose(one.guard, two.guard, rtol=1e-9)
    np.testing.assert_allclose(one.standard_error, utilities[:8, 0, 0].std(ddof=1) / np.sqrt(8), rtol=1e-9)


@pytest.mark.slow
def test_levels_and_margins_hold_as_often_as_they_say():
    """Prompts with means of their own; lam = 0 suffices or not by the draw alone. 400 tables of 20 prompts.

    r = 0, beta 1, K = 64 normal responses around the prompt's mean mu ~ N(0, 1): the tilt to lam has mean
    mu + lam, so the level c is kept iff lam >= c and the margin b iff lam >= b, exactly.
    """
    rng, missed = np.random.default_rng(0), np.zeros(2)
    repeats = 400
    for _ in range(repeats):
        means = rng.normal(size=(20, 1, 1))
        utilities = means + rng.normal(size=(20, 64, 1))
        rewards = np.zeros((20, 64))
        level = solve_conservative(rewards, utilities, beta=1.0, levels=np.array([0.5]))
        margin = solve_conservative(rewards, utilities, beta=1.0, margins=np.array([0.5]))
        missed += [level.solution.lam[0] < 0.5, margin.solution.lam[0] < 0.5]
    assert (scipy.stats.binomtest(int(missed[0]), repeats, 0.05, alternative="greater").pvalue > 0.01) and (
        scipy.stats.binomtest(int(missed[1]), repeats, 0.05, alternative="greater").pvalue > 0.01
    )


@pytest.mark.slow
def test_traced_guard_equals_plain(x64, make_problem):
    rewards, utilities = make_problem(2, n=20, k=96)
    run = functools.partial(solve_conservative, beta=1.0, margins=np.array([0.1, 0.05]))
    traced = jax.jit(run)(jnp.asarray(rewards), jnp.asarray(utilities))
    plain = run(rewards, utilities)
    assert plain.solution.feasible
    np.testing.assert_allclose(traced.guard, plain.guard, rtol=1e-6)
    np.testing.assert_allclose(traced.solution.lam, plain.solution.lam, rtol=1e-6)


def test_errors(make_problem):
    problem = make_problem(0)
    with pytest.raises(InputError, match="^dual.solve_conservative: confidence is 0.5, must lie between"):
        solve_conservative(*problem, beta=1.0, margins=ASKED, confidence=0.5)
    with pytest.raises(InputError, match=r"^dual.solve_conservative: utilities has shape \(6, 8\)"):
        solve_conservative(problem[0], problem[0], beta=1.0, margins=ASKED)
    both = np.stack([problem[1], problem[1]])
    uncertainty = ScoreUncertainty(np.zeros((6, 8, 0)), np.zeros((0, 3, 3)), np.zeros((3, 3, 3)))
    with pytest.raises(InputError, match="both an ensemble of utilities and uncertainty given"):
        solve_conservative(problem[0], both, beta=1.0, margins=ASKED, uncertainty=uncertainty)
    both[1, 2, 3, 0] = np.nan
    with pytest.raises(InputError, match=r"^dual.solve_conservative: utilities\[2, 3, 0\] is nan"):
        solve_conservative(problem[0], both, beta=1.0, margins=ASKED)
