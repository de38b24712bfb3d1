"""Frontier, sweep and prompts: by hand, against the tilt in numpy, and one against the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from alignjax.dual import by_prompt, frontier, objective, reachable, solve, sweep
from alignjax.errors import InputError

# One prompt, r = 0, g in {0, 1}, beta 1: the weight of g = 1 is sigma(lam).
COIN = np.zeros((1, 2)), np.array([[[0.0], [1.0]]])


def test_frontier_by_hand():
    lams = np.log([[1.0], [3.0]])
    found = frontier(*COIN, beta=1.0, lams=lams)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    close(found.lams, lams)
    close(found.margins, [[0.0], [0.25]])
    close(found.expected_utilities, [[0.5], [0.75]])
    close(found.expected_reward, [0.0, 0.0])
    close(found.kl, [0.0, 0.75 * np.log(1.5) + 0.25 * np.log(0.5)])
    close(found.value, [0.0, np.log(2)])
    close(found.ess, [2.0, 1.6])
    close(found.saturated, [0.0, 1.0])


def test_frontier_against_numpy(make_problem):
    """Means, standard errors and D on the dual written anew; a grid of two multipliers."""
    rewards, utilities = make_problem(2)
    grid = np.stack(np.meshgrid([0.0, 0.4, 1.3], [0.0, 0.7]), axis=-1).reshape(-1, 2)
    found = frontier(rewards, utilities, beta=0.5, lams=grid)
    levels = np.array([0.3, -0.2])
    for i, lam in enumerate(grid):
        w = scipy.special.softmax((rewards + utilities @ lam) / 0.5, axis=1)
        gained = np.einsum("nk,nkm->nm", w, utilities) - utilities.mean(axis=1)
        np.testing.assert_allclose(found.margins[i], gained.mean(axis=0), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            found.margin_errors[i], gained.std(axis=0, ddof=1) / np.sqrt(len(w)), rtol=1e-9
        )
        np.testing.assert_allclose(found.ess[i], np.mean(1 / np.sum(w**2, axis=1)), rtol=1e-10)
        with jax.enable_x64(True):
            value = objective(lam, rewards, utilities, levels, beta=0.5)
        np.testing.assert_allclose(found.value[i] - lam @ levels, value, rtol=1e-10)


def test_along_a_ray_the_margin_rises_and_levels_off(make_problem):
    """<lam, margins> is the slope of a convex function: it rises; the last step gains less than the first."""
    rewards, utilities = make_problem(9, n=20, k=16, m=1)
    margins = frontier(rewards, utilities, beta=0.5, lams=np.linspace(0, 20, 41)[:, None]).margins[:, 0]
    steps = np.diff(margins)
    assert (steps > 0).all() and steps[-1] < 0.01 * steps[0]
    assert margins[-1] < reachable(utilities)[0]


def test_what_is_reached_is_concave_in_the_margin_with_slope_minus_lambda(make_problem):
    """d (E r - beta KL) / d margin = -lambda: by differences, to second order."""
    rewards, utilities = make_problem(9, n=20, k=16, m=1)
    lams = np.linspace(0.2, 3, 200)
    line = frontier(rewards, utilities, beta=0.5, lams=lams[:, None])
    reached, margins = line.expected_reward - 0.5 * line.kl, line.margins[:, 0]
    slopes = np.diff(reached) / np.diff(margins)
    np.testing.assert_allclose(slopes, -(lams[1:] + lams[:-1]) / 2, rtol=1e-3)


def test_sweep_is_one_solve_after_another(make_problem):
    rewards, utilities = make_problem(12, n=20)
    line = np.linspace(-0.2, 0.9, 7)[:, None] * reachable(utilities) * np.array([0.6, 0.4])
    swept = sweep(rewards, utilities, beta=0.5, margins=line)
    for i, margins in enumerate(line):
        alone = solve(rewards, utilities, beta=0.5, margins=margins)
        for name in ("lam", "margins", "kl", "ess", "objective", "expected_reward"):
            np.testing.assert_allclose(
                getattr(swept, name)[i], getattr(alone, name), rtol=1e-8, atol=1e-9, err_msg=name
            )
        assert swept.feasible[i] == alone.feasible


def test_sweep_goes_on_after_an_infeasible_margin(make_problem):
    rewards, utilities = make_problem(5, m=1)
    most = reachable(utilities)
    swept = sweep(rewards, utilities, beta=0.5, margins=np.array([[2.0], [0.5], [3.0], [0.5]]) * most)
    np.testing.assert_array_equal(swept.feasible, [False, True, False, True])
    np.testing.assert_allclose(swept.lam[1], swept.lam[3], rtol=1e-9)


def test_sweep_inverts_the_frontier(make_problem):
    rewards, utilities = make_problem(3, n=20)
    lams = np.array([[0.3, 0.6], [1.0, 0.2], [2.0, 1.5]])
    margins = frontier(rewards, utilities, beta=0.7, lams=lams).margins
    np.testing.assert_allclose(sweep(rewards, utilities, beta=0.7, margins=margins).lam, lams, rtol=1e-8)


@pytest.mark.parametrize(
    "weights", [np.array([1.0, 0, 2, 1, 1, 1]), pytest.param(None, marks=pytest.mark.slow)]
)
def test_traced_equals_plain_in_float32(make_problem, weights):
    rewards, utilities = make_problem(4)
    lams, margins = np.array([[0.1, 0.9]]), np.array([[0.2, 0.2], [0.3, 0.2]])
    narrow = jnp.asarray(rewards, jnp.float32), jnp.asarray(utilities, jnp.float32)

    def both(r, g):
        kept = {"beta": 0.5, "prompt_weights": weights}
        return frontier(r, g, lams=lams, **kept), sweep(r, g, margins=margins, **kept)

    plain, traced = both(rewards, utilities), jax.jit(both)(*narrow)
    assert traced[0].margins.dtype == traced[1].lam.dtype == jnp.float32
    np.testing.assert_allclose(traced[0].margins, plain[0].margins, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(traced[0].margin_errors, plain[0].margin_errors, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(traced[1].lam, plain[1].lam, rtol=1e-3, atol=1e-4)


def test_by_prompt_adds_up_to_the_solution(make_problem):
    rewards, utilities = make_problem(4)
    found = solve(rewards, utilities, beta=0.6, margins=np.array([0.3, 0.1]))
    prompts = by_prompt(found.lam, rewards, utilities, beta=0.6)
    np.testing.assert_allclose(prompts.margins.mean(axis=0), found.margins, rtol=1e-10)
    np.testing.assert_allclose(prompts.utilities.mean(axis=0), found.expected_utilities, rtol=1e-10)
    np.testing.assert_allclose(prompts.reward.mean(), found.expected_reward, rtol=1e-10)
    np.testing.assert_allclose(prompts.kl.mean(), found.kl, rtol=1e-10)
    np.testing.assert_allclose(prompts.ess, found.ess, rtol=1e-12)


def test_errors():
    with pytest.raises(InputError, match=r"^dual.frontier: lams has shape \(2,\), must be \(points, 1\)"):
        frontier(*COIN, beta=1.0, lams=np.ones(2))
    with pytest.raises(InputError, match=r"^dual.frontier: lams is .*must be at least 0"):
        frontier(*COIN, beta=1.0, lams=-np.ones((2, 1)))
    with pytest.raises(InputError, match=r"^dual.sweep: margins has shape \(1, 2\), must be \(points, 1\)"):
        sweep(*COIN, beta=1.0, margins=np.ones((1, 2)))
    with pytest.raises(InputError, match=r"^dual.by_prompt: lam has shape \(2,\), must be \(1,\)"):
        by_prompt(np.ones(2), *COIN, beta=1.0)
    for function, points in ((frontier, "lams"), (sweep, "margins")):
        with pytest.raises(InputError, match=rf"dual.{function.__name__}: {points} has shape \(3,\)"):
            jax.jit(lambda r, f=function, p=points: f(r, COIN[1], beta=1.0, **{p: jnp.ones(3)}))(COIN[0])
