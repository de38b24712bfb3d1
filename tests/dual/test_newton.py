"""Newton in scaled units: what scaling does, where the iteration ends, what it says of a policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.dual.dual_function import objective
from alignjax.dual.newton import (
    MAX_ITERATIONS,
    Minimum,
    Scaled,
    describe,
    evaluate,
    newton,
    projected_error,
    scale,
)
from alignjax.dual.samples import gather, loaded, summarise_prompts


@jax.jit
def _scaled(rewards, utilities, margins, beta, mask):
    samples = gather(rewards, utilities, mask)
    return scale(samples, summarise_prompts(samples, margins.dtype), margins, beta)


def scaled(rewards, utilities, margins, beta, mask=None) -> Scaled:
    kind = np.asarray(rewards).dtype
    return _scaled(rewards, utilities, jnp.asarray(margins, kind), jnp.asarray(beta, kind), mask)


@jax.jit
def minimise(problem: Scaled, start: jax.Array) -> Minimum:
    return newton(problem, start)


def test_describe_by_hand():
    """Weights 1/7 and 6/7 as in test_objective.py: tilts 0 and log 6, mean of exp 7/2."""
    samples = gather(
        jnp.array([[0.0, 2 * np.log(3), np.nan]]),
        jnp.array([[[0.0], [2 * np.log(2)], [np.nan]]]),
        jnp.array([[True, True, False]]),
    )
    value, kl, ess, reward, utility = describe(jnp.array([1.0]), samples, jnp.array(2.0))[:, 0]
    np.testing.assert_allclose(value, np.log(3.5), rtol=1e-6)
    np.testing.assert_allclose(kl, 6 / 7 * np.log(6) - np.log(3.5), rtol=1e-5)
    np.testing.assert_allclose(ess, 49 / 37, rtol=1e-6)
    np.testing.assert_allclose(reward, 6 / 7 * 2 * np.log(3), rtol=1e-6)
    np.testing.assert_allclose(utility, 6 / 7 * 2 * np.log(2), rtol=1e-6)


def test_scale_by_hand():
    """r = +-3, g = 5 +- 2 in one prompt: spreads 3 and 2; S = max(beta, 3); 5 is centred away."""
    problem = scaled(np.array([[3, -3]], np.float32), np.array([[[7], [3]]], np.float32), [1.0], 0.6)
    r, g, _ = loaded(problem.samples, jnp.float32)
    np.testing.assert_allclose(r, [[1, -1]], rtol=1e-6)
    np.testing.assert_allclose(g, [[[1, -1]]], rtol=1e-6)
    for name, expected in {"margins": [0.5], "tau": 0.2, "unit": [1.5], "spread": [2], "reach": [1]}.items():
        np.testing.assert_allclose(getattr(problem, name), expected, rtol=1e-6)
    # beta above the spread of r: S = beta, tau = 1.
    problem = scaled(np.array([[3, -3]], np.float32), np.array([[[7], [3]]], np.float32), [1.0], 6.0)
    np.testing.assert_allclose([problem.tau, problem.unit[0]], [1, 3], rtol=1e-6)


def test_constants_are_no_spread():
    """0.1 is not exact in float32, so that its mean over 7 samples leaves rounding errors."""
    problem = scaled(np.full((5, 7), 0.1, np.float32), np.full((5, 7, 1), 0.1, np.float32), [1.0], 0.5)
    assert problem.spread[0] == 1 and problem.tau == 1


@pytest.mark.parametrize("padded", [False, True])
def test_evaluate_is_the_objective_in_other_units(x64, make_problem, padded):
    """f(v) - f(w) = (D(lam) - D(mu)) / S, with levels of the same margins."""
    rewards, utilities = make_problem(0)
    mask = np.ones(rewards.shape, bool)
    if padded:
        mask[:, 5:] = False
        rewards[:, 5:], utilities[:, 5:] = np.nan, np.nan
    margins, beta = np.array([0.3, 0.1]), 0.4
    problem = scaled(rewards, utilities, margins, beta, mask=mask)
    levels = margins + np.nanmean(utilities, axis=(0, 1))
    v, w = jnp.array([0.5, 1.2]), jnp.array([0.0, 0.3])
    f = [jax.jit(evaluate)(point, problem, problem.tau) for point in (v, w)]
    whole = jax.jit(
        jax.value_and_grad(lambda lam: objective(lam, rewards, utilities, levels, beta=beta, mask=mask))
    )
    (first, slope), (second, _) = (whole(p * problem.unit) for p in (v, w))
    big = problem.unit[0] * problem.spread[0]
    np.testing.assert_allclose(f[0].value - f[1].value, (first - second) / big, rtol=1e-10)
    np.testing.assert_allclose(f[0].gradient, slope / problem.spread, rtol=1e-9)


def test_projected_error_by_hand():
    """Inside all counts; at the bound only a gradient that asks for growth."""
    point, gradient = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.2, 0.9, -0.3])
    np.testing.assert_allclose(projected_error(point, gradient), 0.3)
    np.testing.assert_allclose(projected_error(point, -gradient), 0.9)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_every_start_ends_at_one_minimum(x64, make_problem, m):
    rewards, utilities = make_problem(m, m=m)
    problem = scaled(rewards, utilities, np.full(m, 0.2), 0.5)
    ends = [minimise(problem, jnp.full(m, start)) for start in (0.0, 1.0, 40.0)]
    for end in ends:
        assert not end.certified and end.error < 1e-11 and 0 < end.iterations < 60
        np.testing.assert_allclose(end.point, ends[0].point, rtol=1e-8, atol=1e-9)
        np.testing.assert_array_equal(end.certificate, np.zeros(m))


@pytest.mark.parametrize("beta", [1e-3, 1e-6])
def test_a_nearly_piecewise_linear_dual(x64, make_problem, beta):
    rewards, utilities = make_problem(5)
    end = minimise(scaled(rewards, utilities, np.full(2, 0.2), beta), jnp.zeros(2))
    assert end.error < 1e-7 and end.iterations < MAX_ITERATIONS


def test_float32_ends_by_itself(make_problem):
    rewards, utilities = (a.astype(np.float32) for a in make_problem(6, n=50))
    end = minimise(scaled(rewards, utilities, [0.2, 0.2], 0.5), jnp.zeros(2))
    assert end.point.dtype == jnp.float32 and end.error < 1e-5 and end.iterations < 100


def test_certificate_in_the_units_of_the_scores(x64):
    """g2 = -10 g1: raising one lowers the other; means are 0, so max_k <d, g_k> < <d, b> is a proof."""
    g = np.array([[1.0, -1.0]])
    utilities, margins = np.stack([g, -10 * g], axis=-1), np.array([0.5, 5.0])
    end = minimise(scaled(np.zeros((1, 2)), utilities, margins, 1.0), jnp.zeros(2))
    d = np.asarray(end.certificate)
    assert end.certified and (d >= 0).all()
    np.testing.assert_allclose(d.sum(), 1)
    assert np.max(utilities[0] @ d) < d @ margins


def test_out_of_reach_alone_is_seen_at_once(x64, make_problem):
    rewards, utilities = make_problem(7)
    end = minimise(scaled(rewards, utilities, np.array([0.1, 99.0]), 0.5), jnp.zeros(2))
    assert end.certified and end.iterations == 0
    np.testing.assert_array_equal(end.certificate, [0, 1])


def test_nan_ends_the_iteration(x64):
    end = minimise(scaled(np.array([[0.0, np.nan]]), np.array([[[0.0], [1.0]]]), [0.1], 1.0), jnp.zeros(1))
    assert np.isnan(end.error) and not end.certified and end.iterations == 1


def test_a_gradient_that_is_enough_ends_the_iteration(x64, make_problem):
    rewards, utilities = make_problem(4, n=20)
    problem, start = scaled(rewards, utilities, [0.1, 0.05], 0.7), jnp.zeros(2)
    sure, near = newton(problem, start), newton(problem, start, enough=1e-3)
    assert sure.error < 1e-11 < near.error <= 1e-3
    assert near.iterations < sure.iterations and not near.certified
    np.testing.assert_allclose(near.point, sure.point, rtol=0.02)
