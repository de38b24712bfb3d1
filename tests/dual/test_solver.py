"""The dual's minimum: by hand, against SciPy, with its certificates, and under what must not change it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.dual import margins_from_fraction, objective, reachable, solve, tilt
from alignjax.errors import InputError

# One prompt, r = 0, g in {0, 1}, beta 1: the weight of g = 1 is sigma(lam). Margin 1/4: 3/4, lam = log 3.
# Then D = log((1 + 3) / 2) - 3/4 log 3, KL = 3/4 log(3/2) + 1/4 log(1/2), ess = 1 / (9/16 + 1/16).
COIN = np.zeros((1, 2)), np.array([[[0.0], [1.0]]])


def test_by_hand():
    found = solve(*COIN, beta=1.0, margins=np.array([0.25]))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    assert found.feasible and found.error < 1e-11
    close(found.lam, [np.log(3)])
    close(found.objective, np.log(2) - 0.75 * np.log(3))
    close(found.gradient, [0.0])
    close(found.certificate, [0.0])
    close(found.expected_reward, 0.0)
    close(found.expected_utilities, [0.75])
    close(found.margins, [0.25])
    close(found.kl, 0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    close(found.ess, [1.6])
    assert found.lam.dtype == np.float64


def test_a_level_is_a_margin_on_the_reference():
    a, b = solve(*COIN, beta=1.0, margins=np.array([0.25])), solve(*COIN, beta=1.0, levels=np.array([0.75]))
    np.testing.assert_allclose(a.lam, b.lam, rtol=1e-12)
    np.testing.assert_allclose(a.objective, b.objective, rtol=1e-12)


def test_beta_scales_lam_where_the_reward_is_constant():
    np.testing.assert_allclose(
        solve(*COIN, beta=0.1, margins=np.array([0.25])).lam, [0.1 * np.log(3)], rtol=1e-9
    )


@pytest.mark.parametrize("margin", [-3.0, -0.1, 0.0])
def test_nothing_to_pay_where_the_reward_brings_the_margin(margin):
    """r = g: the tilt to r alone raises g. gradient = sigma(1) - 1/2 - margin > 0 and lam = 0 exactly."""
    utilities = COIN[1]
    found = solve(utilities[..., 0], utilities, beta=1.0, margins=np.array([margin]))
    assert found.feasible and found.lam[0] == 0
    np.testing.assert_allclose(found.gradient, [scipy.special.expit(1) - 0.5 - margin], rtol=1e-10)


@pytest.mark.parametrize(
    ("utilities", "margins"),
    [
        ([[[0.0], [1.0]]], [0.51]),  # one prompt, at most 1 - 1/2
        ([[[0.0], [0.0]]], [1e-3]),  # a constant utility reaches nothing
        ([[[1.0, -1.0], [-1.0, 1.0]]], [0.5, 0.5]),  # each alone to 1, together to 0
        ([[[0.0, 0.0], [2.0, 1.0]]], [0.1, 0.6]),  # the second alone is out of reach
        ([[[3.0, 0.0], [0.0, 3.0]]], [0.1, 0.1]),  # the sum is always 3, at the reference too
    ],
)
def test_infeasible_with_a_certificate_that_proves_it(utilities, margins):
    utilities = np.array(utilities)
    found = solve(np.zeros(utilities.shape[:2]), utilities, beta=0.7, margins=margins)
    d = found.certificate
    assert not found.feasible and (d >= 0).all()
    np.testing.assert_allclose(d.sum(), 1)
    levels = utilities.mean(axis=(0, 1)) + margins
    assert np.max(utilities @ d, axis=1).mean() < d @ levels
    assert np.isfinite(found.lam).all() and np.isfinite(found.kl)


def by_scipy(rewards, utilities, margins, beta):
    """lam* by L-BFGS-B on the dual written anew in numpy; m = 1: by the root of its slope."""
    levels = utilities.mean(axis=(0, 1)) + margins

    def dual(lam):
        logits = (rewards + utilities @ lam) / beta
        weights = scipy.special.softmax(logits, axis=1)
        mean = np.einsum("nk,nkm->m", weights, utilities) / len(rewards)
        value = beta * np.mean(scipy.special.logsumexp(logits, axis=1) - np.log(rewards.shape[1]))
        return value - lam @ levels, mean - levels

    m = len(margins)
    if m == 1:
        if dual(np.zeros(1))[1][0] >= 0:
            return np.zeros(1), dual
        return np.array(
            [scipy.optimize.brentq(lambda x: dual(np.array([x]))[1][0], 0, 1e3, xtol=1e-13)]
        ), dual
    found = scipy.optimize.minimize(
        dual,
        np.zeros(m),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * m,
        options={"ftol": 1e-16, "gtol": 1e-10, "maxiter": 1000},
    )
    return found.x, dual


def is_feasible(utilities, margins):
    """By linear programming: is there any policy on the samples, w [N, K], that reaches the levels?"""
    n, k, m = utilities.shape
    levels = utilities.mean(axis=(0, 1)) + margins
    found = scipy.optimize.linprog(
        np.zeros(n * k),
        A_ub=-utilities.reshape(n * k, m).T / n,
        b_ub=-levels,
        A_eq=np.kron(np.eye(n), np.ones(k)),
        b_eq=np.ones(n),
    )
    assert found.status in (0, 2)
    return found.status == 0


def compare(make_problem, seed, m):
    """One random problem; some are infeasible."""
    rng = np.random.default_rng(seed)
    rewards, utilities = make_problem(seed, m=m)
    beta = float(10 ** rng.uniform(-1, 0.7))
    margins = rng.uniform(-0.2, 0.9, m) * reachable(utilities)
    found = solve(rewards, utilities, beta=beta, margins=margins)
    assert bool(found.feasible) == is_feasible(utilities, margins), (seed, m)
    if not found.feasible:
        levels = utilities.mean(axis=(0, 1)) + margins
        assert np.max(utilities @ found.certificate, axis=1).mean() < found.certificate @ levels
        return False
    lam, dual = by_scipy(rewards, utilities, margins, beta)
    value, gradient = dual(found.lam)
    assert (found.lam >= 0).all() and value <= dual(lam)[0] + 1e-12
    # The optimum's conditions, on the dual written anew: slope 0 where lam > 0, not negative where lam = 0.
    np.testing.assert_allclose(np.where(found.lam > 0, gradient, np.minimum(gradient, 0)), 0, atol=1e-9)
    np.testing.assert_allclose(found.objective, value, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.lam, lam, rtol=1e-3, atol=1e-4)
    return True


@pytest.mark.parametrize("block", range(3))
@pytest.mark.parametrize("m", [1, 2, 3])
def test_random_problems_against_scipy(make_problem, m, block):
    """Each block has problems of both kinds; margins are drawn so that about half can be met."""
    solved = sum(compare(make_problem, 1000 * m + 100 * block + i, m) for i in range(30))
    assert 5 < solved <= 30


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_two_thousand_problems_against_scipy(make_problem, m):
    for i in range(500):
        compare(make_problem, 10_000 * m + i, m)


def test_sensitivity_is_the_inverse_hessian(make_problem):
    """d lam / d margins = (Hess D)^-1 where both constraints bind; Hess D by weights alone."""
    rewards, utilities = make_problem(11)
    beta, h = 0.8, 1e-5
    b = 0.5 * reachable(utilities)
    lam = solve(rewards, utilities, beta=beta, margins=b).lam
    assert (lam > 0.01).all()
    weights = scipy.special.softmax((rewards + utilities @ lam) / beta, axis=1)
    hessian = (
        np.mean([np.cov(g.T, aweights=w, ddof=0) for g, w in zip(utilities, weights, strict=True)], axis=0)
        / beta
    )

    def at(margins):
        return solve(rewards, utilities, beta=beta, margins=margins).lam

    slopes = np.stack([(at(b + e) - at(b - e)) / (2 * h) for e in np.eye(2) * h], axis=1)
    np.testing.assert_allclose(slopes, np.linalg.inv(hessian), rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31), a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3), constant=st.floats(-1e4, 1e4)
)
def test_units_and_constants(seed, a, b, constant):
    """(a r, a beta) and b g give lam a / b; constants of a prompt give the same."""
    rng = np.random.default_rng(seed)
    rewards, utilities = rng.normal(size=(6, 8)), rng.normal(size=(6, 8, 2))
    margins = rng.uniform(-0.1, 0.3, 2) * reachable(utilities)
    one = solve(rewards, utilities, beta=0.7, margins=margins)
    moved = rewards + constant * rng.normal(size=(6, 1)), utilities + constant * rng.normal(size=(6, 1, 1))
    other = solve(a * moved[0], b * moved[1], beta=0.7 * a, margins=b * margins)
    assert one.feasible and other.feasible
    np.testing.assert_allclose(other.lam * b / a, one.lam, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(other.kl, one.kl, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(other.margins / b, one.margins, rtol=1e-6, atol=1e-7)


def test_order_of_samples_and_start_change_nothing(make_problem):
    rewards, utilities = make_problem(3)
    run = functools.partial(solve, beta=0.5, margins=np.array([0.3, 0.2]))
    lam = run(rewards, utilities).lam
    assert (lam > 0).any()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10)
    order = np.random.default_rng(0).permutation(8)
    close(run(rewards[::-1, order], utilities[::-1, order]).lam, lam)
    close(run(rewards, utilities, start=np.array([5.0, 0.0])).lam, lam)


@pytest.mark.parametrize("way", ["mask", "importance"])
def test_padding_with_nan_changes_nothing(make_problem, way):
    rewards, utilities = make_problem(3)
    run = functools.partial(solve, beta=0.5, margins=np.array([0.3, 0.2]))
    bare = run(rewards, utilities)
    wide = (
        np.pad(a, ((0, 0), (0, 3)) + ((0, 0),) * (a.ndim - 2), constant_values=np.nan)
        for a in (rewards, utilities)
    )
    present = np.tile(np.arange(11) < 8, (6, 1))
    value = present if way == "mask" else np.where(present, 5.0, 0.0)
    padded = run(*wide, **{way: value})
    for name in ("lam", "kl", "ess", "objective", "margins"):
        np.testing.assert_allclose(getattr(padded, name), getattr(bare, name), rtol=1e-9, atol=1e-10)


def test_a_prompt_of_weight_two_is_two_prompts(make_problem):
    rewards, utilities = make_problem(3)
    run = functools.partial(solve, beta=0.5, margins=np.array([0.3, 0.2]))
    rows, weights = np.array([0, 0, 2, 3, 4, 5]), np.array([2.0, 0, 1, 1, 1, 1])
    weighted = run(rewards, utilities, prompt_weights=weights).lam
    np.testing.assert_allclose(weighted, run(rewards[rows], utilities[rows]).lam, rtol=1e-9, atol=1e-10)


FIELDS = ("lam", "objective", "margins", "kl", "ess", "expected_reward")


def test_jit_and_vmap_equal_the_plain_call(x64, make_problem):
    problems = [make_problem(i) for i in range(4)]
    run = functools.partial(solve, beta=0.5, margins=np.array([0.2, 0.2]))
    batch = jax.jit(jax.vmap(run))(*(np.stack(a) for a in zip(*problems, strict=True)))
    assert batch.lam.dtype == jnp.float64 and batch.feasible.all()
    for i, problem in enumerate(problems):
        plain = run(*problem)
        for name in FIELDS:
            np.testing.assert_allclose(getattr(batch, name)[i], getattr(plain, name), rtol=1e-7, atol=1e-8)


def test_float32_is_near_the_plain_call(make_problem):
    """Float32 ends at a scaled gradient near 1e-6; lambda has the Hessian's inverse of that."""
    traced = jax.jit(functools.partial(solve, beta=0.5, margins=np.array([0.2, 0.2])))
    for i in range(4):
        problem = make_problem(i)
        narrow = traced(*(jnp.asarray(a, jnp.float32) for a in problem))
        plain = solve(*problem, beta=0.5, margins=np.array([0.2, 0.2]))
        assert narrow.lam.dtype == jnp.float32 and narrow.feasible
        for name in FIELDS:
            np.testing.assert_allclose(getattr(narrow, name), getattr(plain, name), rtol=1e-3, atol=1e-4)


def test_traced_nan_is_told_by_error_and_feasible():
    found = jax.jit(lambda r, g: solve(r, g, beta=1.0, margins=jnp.array([0.25])))(
        jnp.array([[0.0, jnp.nan]]), jnp.array([[[0.0], [1.0]]])
    )
    assert np.isnan(found.error) and not found.feasible


def test_what_it_promises_is_what_the_tilt_has(make_problem):
    rewards, utilities = make_problem(4)
    margins = np.array([0.3, 0.1])
    found = solve(rewards, utilities, beta=0.6, margins=margins)
    with jax.enable_x64(True):
        w = np.asarray(tilt(found.lam, rewards, utilities, beta=0.6))
        value = objective(found.lam, rewards, utilities, utilities.mean((0, 1)) + margins, beta=0.6)
    np.testing.assert_allclose(found.expected_utilities, np.einsum("nk,nkm->m", w, utilities) / 6, rtol=1e-9)
    np.testing.assert_allclose(found.expected_reward, np.sum(w * rewards) / 6, rtol=1e-9)
    np.testing.assert_allclose(found.kl, np.sum(w * np.log(w * 8)) / 6, rtol=1e-9)
    np.testing.assert_allclose(found.ess, 1 / np.sum(w**2, axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.objective, value, rtol=1e-10)
    # Strong duality: D(lam*) = E r - beta KL at the optimum.
    np.testing.assert_allclose(found.objective, found.expected_reward - 0.6 * found.kl, rtol=1e-9)


def test_reachable_by_hand_and_traced():
    """Prompt 0: max 4, mean 2; prompt 1: max 6, mean 3; equal prompts 2.5, weights 3 to 1 give 9/4."""
    g = np.array([[[0.0], [4.0], [np.nan]], [[1.0], [2.0], [6.0]]])
    mask = np.array([[True, True, False], [True, True, True]])
    np.testing.assert_allclose(reachable(g, mask), [2.5])
    np.testing.assert_allclose(reachable(g, mask, prompt_weights=np.array([3.0, 1.0])), [2.25])
    # Importance 3 to 1 moves prompt 0's mean to 1; the second prompt is as before.
    weights = np.array([[3.0, 1, 7], [1, 1, 1]])
    np.testing.assert_allclose(reachable(g, mask, importance=weights), [3.0])
    traced = jax.jit(reachable)(jnp.asarray(g, jnp.float32), mask)
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, [2.5], rtol=1e-6)
    with pytest.raises(
        InputError, match=r"dual.reachable: utilities has shape \(2, 3\), must be \[N, K, m\]"
    ):
        reachable(g[..., 0])


def test_just_below_the_reachable_is_met_and_just_above_refused(make_problem):
    rewards, utilities = make_problem(5, m=1)
    most = reachable(utilities)
    for share in (0.5, 0.9, 0.999, 1 - 1e-6):
        found = solve(rewards, utilities, beta=0.5, margins=share * most)
        assert found.feasible
        np.testing.assert_allclose(found.margins, share * most, rtol=1e-8)
    assert not solve(rewards, utilities, beta=0.5, margins=(1 + 1e-6) * most).feasible


def test_margins_from_fraction():
    np.testing.assert_allclose(margins_from_fraction(np.array([0.5, 0.25]), np.array([4.0, 2.0])), [2.0, 0.5])
    np.testing.assert_allclose(margins_from_fraction(0.5, np.array([4.0, 2.0])), [2.0, 1.0])
    for bad in (0.0, 1.0, -0.1, 1.1, np.nan):
        with pytest.raises(InputError, match="fraction is .* must lie between 0 and 1"):
            margins_from_fraction(bad, np.array([1.0]))


def test_errors():
    with pytest.raises(InputError, match="dual.solve: neither of margins and levels given; give exactly one"):
        solve(*COIN, beta=1.0)
    with pytest.raises(InputError, match="dual.solve: both of margins and levels given"):
        solve(*COIN, beta=1.0, margins=np.array([0.1]), levels=np.array([0.1]))
    with pytest.raises(InputError, match="dual.solve: beta is 0"):
        solve(*COIN, beta=0, margins=np.array([0.1]))
    with pytest.raises(InputError, match=r"dual.solve: rewards\[0, 1\] is nan"):
        solve(np.array([[0.0, np.nan]]), COIN[1], beta=1.0, margins=np.array([0.1]))
    with pytest.raises(InputError, match=r"dual.solve: margins has shape \(2,\)"):
        jax.jit(lambda r: solve(r, COIN[1], beta=1.0, margins=jnp.ones(2)))(jnp.zeros((1, 2)))
