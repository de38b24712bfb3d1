"""The sampled dual: constants by hand, derivatives by differences, parity with plain numpy, invariants."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.dual.dual_function import derivatives, objective, tilt
from alignjax.dual.samples import gather
from alignjax.errors import InputError

# One prompt, two samples, beta 2, lam 1: exp(tilt) is 1 and 3 * 2 = 6, the weights 1/7 and 6/7, so
# D = 2 log(7/2) - 1/2 = 2.0055259, dD = 6/7 * 2 log 2 - 1/2 = 0.6882523 and
# d2D = 1/7 * 6/7 * (2 log 2)^2 / 2 = 0.1176620. The third sample is padding.
LAM, LEVELS = jnp.array([1.0]), jnp.array([0.5])
REWARDS = jnp.array([[0.0, 2 * np.log(3), np.nan]])
UTILITIES = jnp.array([[[0.0], [2 * np.log(2)], [np.nan]]])
MASK = jnp.array([[True, True, False]])


def test_by_hand_and_padding_reaches_neither_value_nor_derivatives():
    f = jax.jit(jax.value_and_grad(objective), static_argnames="beta")
    value, gradient = f(LAM, REWARDS, UTILITIES, LEVELS, beta=2.0, mask=MASK)
    assert value.dtype == jnp.float32 and value.shape == () and gradient.shape == (1,)
    np.testing.assert_allclose(value, 2.0055259, rtol=1e-6)
    np.testing.assert_allclose(gradient, [0.6882523], rtol=1e-6)
    hessian = jax.jit(jax.hessian(objective), static_argnames="beta")(
        LAM, REWARDS, UTILITIES, LEVELS, beta=2.0, mask=MASK
    )
    np.testing.assert_allclose(hessian, [[0.1176620]], rtol=1e-6)
    over_rewards = jax.jit(jax.grad(objective, argnums=1), static_argnames="beta")
    reward_gradient = over_rewards(LAM, REWARDS, UTILITIES, LEVELS, beta=2.0, mask=MASK)
    np.testing.assert_allclose(reward_gradient, [[1 / 7, 6 / 7, 0]], rtol=1e-6)


def test_closed_form_by_hand():
    """D_inf = max(0, 2 log 2) - 1/2."""
    at = derivatives(LAM, gather(REWARDS, UTILITIES, MASK), LEVELS, jnp.array(2.0))
    np.testing.assert_allclose(at.value, 2.0055259, rtol=1e-6)
    np.testing.assert_allclose(at.gradient, [0.6882523], rtol=1e-6)
    np.testing.assert_allclose(at.hessian, [[0.1176620]], rtol=1e-6)
    np.testing.assert_allclose(at.recession, 2 * np.log(2) - 0.5, rtol=1e-6)


def test_tilt_by_hand():
    weights = tilt(LAM, REWARDS, UTILITIES, beta=2.0, mask=MASK)
    np.testing.assert_allclose(weights, [[1 / 7, 6 / 7, 0]], rtol=1e-6)
    # Importance 3 on the first sample: 3 * 1 against 6.
    weights = tilt(LAM, REWARDS, UTILITIES, beta=2.0, mask=MASK, importance=jnp.array([[3.0, 1.0, 5.0]]))
    np.testing.assert_allclose(weights, [[1 / 3, 2 / 3, 0]], rtol=1e-6)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_derivatives_by_differences_and_by_autodiff(x64, make_problem, m):
    rewards, utilities = make_problem(m, m=m)
    rng = np.random.default_rng(m)
    lam, levels, beta, h = rng.uniform(0.2, 2, m), rng.normal(size=m), 0.4, 1e-5
    kept: dict[str, Any] = dict(
        mask=rng.random(rewards.shape) < 0.8, prompt_weights=rng.uniform(0.5, 2, len(rewards))
    )
    kept["mask"][:, 0] = True
    f = jax.jit(lambda lam: objective(lam, rewards, utilities, levels, beta=beta, **kept))
    at = jax.jit(lambda lam: derivatives(lam, gather(rewards, utilities, **kept), levels, jnp.asarray(beta)))(
        lam
    )
    steps = np.eye(m) * h
    slopes = np.array([(f(lam + e) - f(lam - e)) / (2 * h) for e in steps])
    np.testing.assert_allclose(at.gradient, slopes, rtol=1e-7, atol=1e-9)
    gradient = jax.jit(jax.grad(f))
    bends = np.array([(gradient(lam + e) - gradient(lam - e)) / (2 * h) for e in steps])
    np.testing.assert_allclose(at.hessian, bends, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(at.hessian, jax.jit(jax.hessian(f))(lam), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(at.gradient, gradient(lam), rtol=1e-10)
    np.testing.assert_allclose(at.value, f(lam), rtol=1e-12)
    # D(t lam) / t tends to the recession function.
    np.testing.assert_allclose(f(1e9 * lam) / 1e9, at.recession, rtol=1e-6)


def test_parity_with_a_plain_loop(x64, make_problem):
    rewards, utilities = make_problem(0)
    lam, levels, beta = np.array([0.7, 1.3]), np.array([0.1, -0.2]), 0.25
    mask = np.random.default_rng(0).random(rewards.shape) < 0.6
    mask[:, 3] = True
    total, rows = 0.0, []
    for r, g, present in zip(rewards, utilities, mask, strict=True):
        logits = (r[present] + g[present] @ lam) / beta
        total += beta * (scipy.special.logsumexp(logits) - np.log(present.sum())) / len(rewards)
        row = np.zeros(len(r))
        row[present] = scipy.special.softmax(logits)
        rows.append(row)
    value = objective(lam, rewards, utilities, levels, beta=beta, mask=mask)
    np.testing.assert_allclose(value, total - lam @ levels, rtol=1e-12)
    np.testing.assert_allclose(tilt(lam, rewards, utilities, beta=beta, mask=mask), rows, rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), beta=st.floats(0.05, 20), shift=st.floats(-100, 100))
def test_invariants(seed, beta, shift):
    """Constants of a prompt move D by their mean and no weight; samples and prompts have no order."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        rewards, utilities, lam = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 2)), rng.uniform(0, 3, 2)
        levels, constants = rng.normal(size=2), shift * rng.normal(size=(3, 1))
        value, weights = (
            objective(lam, rewards, utilities, levels, beta=beta),
            tilt(lam, rewards, utilities, beta=beta),
        )
        close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
        moved = objective(lam, rewards + constants, utilities, levels, beta=beta)
        close(moved, value + constants.mean())
        close(tilt(lam, rewards + constants, utilities, beta=beta), weights)
        # A constant of a utility that its level shares changes nothing at all.
        close(objective(lam, rewards, utilities + shift, levels + shift, beta=beta), value)
        order = rng.permutation(4)
        close(objective(lam, rewards[:, order], utilities[:, order], levels, beta=beta), value)
        close(tilt(lam, rewards[:, order], utilities[:, order], beta=beta), weights[:, order])
        rows = rng.permutation(3)
        close(objective(lam, rewards[rows], utilities[rows], levels, beta=beta), value)
        close(np.sum(np.asarray(weights), axis=1), np.ones(3))
        # Convex: the chord lies above.
        other = rng.uniform(0, 3, 2)
        middle, end = (
            objective(p, rewards, utilities, levels, beta=beta) for p in ((lam + other) / 2, other)
        )
        assert middle <= (value + end) / 2 + 1e-9


def test_weights_are_repetitions(x64, make_problem):
    """A prompt of weight 2 is that prompt twice, a sample of importance 2 that sample twice; 0 is absent."""
    rewards, utilities = make_problem(1, n=3, k=3)
    lam, levels, beta = np.array([0.5, 1.0]), np.zeros(2), 0.6
    f = functools.partial(objective, lam, levels=levels, beta=beta)
    twice = np.array([0, 0, 2])
    np.testing.assert_allclose(
        f(rewards, utilities, prompt_weights=np.array([2.0, 0.0, 1.0])), f(rewards[twice], utilities[twice])
    )
    importance = np.tile([2.0, 0.0, 1.0], (3, 1))
    np.testing.assert_allclose(
        f(rewards, utilities, importance=importance), f(rewards[:, twice], utilities[:, twice])
    )


def test_jit_vmap_float32_and_eight_devices_equal_eager(make_problem):
    rewards, utilities = (jnp.asarray(a, jnp.float32) for a in make_problem(3, n=16))
    lams, levels = jnp.array([[0.0, 0.0], [0.5, 1.0], [3.0, 0.1]]), jnp.array([0.2, 0.1])
    f = functools.partial(objective, beta=0.3)
    eager = np.array([f(lam, rewards, utilities, levels) for lam in lams])
    assert eager.dtype == np.float32
    batched = jax.jit(jax.vmap(f, in_axes=(0, None, None, None)))
    np.testing.assert_allclose(batched(lams, rewards, utilities, levels), eager, rtol=2e-6)
    mesh = jax.make_mesh((8,), ("prompts",), axis_types=(jax.sharding.AxisType.Auto,))
    over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("prompts"))
    shared = jax.device_put(rewards, over), jax.device_put(utilities, over)
    np.testing.assert_allclose(batched(lams, *shared, levels), eager, rtol=2e-6)
    with jax.enable_x64(True):
        wide = [np.asarray(a, np.float64) for a in (rewards, utilities, levels)]
        exact = np.array([f(np.asarray(lam, np.float64), *wide) for lam in lams])
    assert exact.dtype == np.float64
    np.testing.assert_allclose(eager, exact, rtol=2e-6)


def test_a_prompt_without_samples_gives_nan_and_large_scores_do_not():
    mask = jnp.array([[False, False, False]])
    assert np.isnan(objective(LAM, REWARDS, UTILITIES, LEVELS, beta=2.0, mask=mask))
    value = objective(LAM, 1e4 * REWARDS, 1e4 * UTILITIES, LEVELS, beta=1e-2, mask=MASK)
    # The larger exponent alone counts: 1e4 * 2 log 6 - beta log 2 - 1/2.
    np.testing.assert_allclose(value, 2e4 * np.log(6) - 1e-2 * np.log(2) - 0.5, rtol=1e-6)


ONES, CUBE = np.ones((2, 3), np.float32), np.ones((2, 3, 1), np.float32)
BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "flat rewards": ((LAM, ONES[0], CUBE, LEVELS), {}, r"rewards has shape \(3,\), must be \[prompts"),
    "no samples": ((LAM, ONES[:, :0], CUBE, LEVELS), {}, r"rewards has shape \(2, 0\)"),
    "flat utilities": (
        (LAM, ONES, ONES, LEVELS),
        {},
        r"utilities has shape \(2, 3\).*stack them on the last",
    ),
    "no constraint": ((LAM, ONES, CUBE[..., :0], LEVELS), {}, r"utilities has shape \(2, 3, 0\)"),
    "integers": ((LAM, ONES.astype(int), CUBE, LEVELS), {}, "must be floating point"),
    "lam": ((jnp.ones(2), ONES, CUBE, LEVELS), {}, r"lam has shape \(2,\), must be \(1,\), one for each"),
    "levels": ((LAM, ONES, CUBE, jnp.ones(2)), {}, r"levels has shape \(2,\)"),
    "mask": (
        (LAM, ONES, CUBE, LEVELS),
        {"mask": np.ones((3, 2), bool)},
        r"mask has shape \(3, 2\), must be \(2, 3\)",
    ),
    "weights": (
        (LAM, ONES, CUBE, LEVELS),
        {"prompt_weights": np.ones(3)},
        r"prompt_weights has shape \(3,\)",
    ),
    "importance": ((LAM, ONES, CUBE, LEVELS), {"importance": np.ones(2)}, r"importance has shape \(2,\)"),
}


@pytest.mark.parametrize(("arguments", "options", "message"), BAD.values(), ids=BAD.keys())
def test_errors(arguments, options, message):
    with pytest.raises(InputError, match=f"^dual.objective: .*{message}"):
        objective(*arguments, beta=1.0, **options)


def test_tilt_names_itself_in_errors():
    with pytest.raises(InputError, match=r"^dual.tilt: lam has shape \(2,\)"):
        tilt(jnp.ones(2), ONES, CUBE, beta=1.0)
