"""Losses: constants by hand, derivatives by differences, formulas against float64 numpy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.alignment import losses

FAMILY = {
    "dpo": losses.dpo,
    "cdpo": functools.partial(losses.cdpo, label_smoothing=0.2),
    "robust": functools.partial(losses.robust, label_smoothing=0.2),
    "ipo": losses.ipo,
    "hinge": losses.hinge,
}
# h = 3 - 1 = 2, beta 1/2: z = 1. log(1 + e^-1) = 0.3132617, log(1 + e) = 1.3132617.
STRAIGHT, TURNED = 0.31326169, 1.31326169
BY_HAND = {
    # p = 3/4
    "dpo": 0.75 * STRAIGHT + 0.25 * TURNED,
    # p' = 0.8 * 3/4 + 0.2 * 1/4 = 0.65
    "cdpo": 0.65 * STRAIGHT + 0.35 * TURNED,
    # (0.8 dpo(3/4) - 0.2 dpo(1/4)) / 0.6 with dpo(3/4) = 0.56326169, dpo(1/4) = 1.06326169
    "robust": (0.8 * 0.56326169 - 0.2 * 1.06326169) / 0.6,
    # 1 / (2 beta) = 1: 3/4 (2 - 1)^2 + 1/4 (2 + 1)^2
    "ipo": 3.0,
    # 3/4 max(0, 1 - 1) + 1/4 (1 + 1)
    "hinge": 0.5,
}


@pytest.mark.parametrize("name", FAMILY)
def test_a_loss_by_its_name_is_that_function(name):
    loss = losses.pairwise_loss(name, label_smoothing=0.2 if name in ("cdpo", "robust") else 0.0)
    value = loss(jnp.array([3.0]), jnp.array([1.0]), beta=0.5, label=jnp.array([0.75]))
    np.testing.assert_allclose(value, [BY_HAND[name]], rtol=1e-6)


def test_dpo_by_its_name_is_dpo_itself():
    assert losses.pairwise_loss("dpo") is losses.dpo


@pytest.mark.parametrize(
    ("name", "label_smoothing", "message"),
    [
        ("kto", 0.0, "name: is 'kto', must be one of dpo, cdpo, robust, ipo, hinge."),
        ("", 0.0, "name: is ''"),
        *((name, 0.1, f"label_smoothing: is 0.1, but {name} does not") for name in ("dpo", "ipo", "hinge")),
        *((name, 0.0, f"label_smoothing: is 0.0, must lie .* for {name}") for name in ("cdpo", "robust")),
        *((name, 0.5, f"label_smoothing: is 0.5, must lie .* for {name}") for name in ("cdpo", "robust")),
        ("cdpo", -0.1, "label_smoothing: is -0.1"),
    ],
)
def test_names_and_options_that_do_not_exist_are_refused(name, label_smoothing, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        losses.pairwise_loss(name, label_smoothing=label_smoothing)


# The best h of a single pair with p = 0.8 and beta = 1/2, as in docs/method.md.
OPTIMA = {
    "dpo": math.log(4) / 0.5,  # logit(p) / beta
    "cdpo": math.log(0.68 / 0.32) / 0.5,  # p' = 0.8 * 0.8 + 0.2 * 0.2 = 0.68
    "ipo": 0.6,  # (2p - 1) / (2 beta)
    "hinge": 2.0,  # 1 / beta, whatever p > 1/2
    "robust": math.inf,  # (0.8 - 0.2) / 0.6 = 1: the larger h the better
}


@pytest.mark.parametrize("name", FAMILY)
def test_optimum_of_one_pair(name):
    h = np.linspace(-10, 10, 4001, dtype=np.float32)
    values = FAMILY[name](jnp.asarray(h), jnp.zeros_like(h), beta=0.5, label=0.8)
    np.testing.assert_allclose(h[np.argmin(values)], min(OPTIMA[name], 10.0), atol=0.006)


def test_robust_has_no_lower_bound_where_a_label_is_surer_than_the_noise_allows():
    """p = 0.9 at a share 0.2 is the label (0.9 - 0.2) / 0.6 = 7/6: about -z / 6 for a large z."""
    value = losses.robust(jnp.array([600.0]), jnp.zeros(1), beta=1.0, label=0.9, label_smoothing=0.2)
    np.testing.assert_allclose(value, [-100.0], rtol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_by_hand_at_a_soft_label(name):
    value = FAMILY[name](jnp.array([3.0]), jnp.array([1.0]), beta=0.5, label=jnp.array([0.75]))
    assert value.shape == (1,) and value.dtype == jnp.float32
    np.testing.assert_allclose(value, [BY_HAND[name]], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "start"),
    [("dpo", math.log(2)), ("cdpo", math.log(2)), ("robust", math.log(2)), ("ipo", 25.0), ("hinge", 1.0)],
)
@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
def test_value_at_the_reference(name, start, label):
    """At log-ratios 0 no loss depends on the label; ipo: (1 / (2 * 0.1))^2 = 25."""
    zeros = jnp.zeros(2)
    np.testing.assert_allclose(FAMILY[name](zeros, zeros, beta=0.1, label=label), [start, start], rtol=1e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_soft_label_is_the_mixture_of_hard_losses_and_swapping_turns_the_label(name):
    chosen, rejected = jax.random.normal(jax.random.key(0), (2, 32)) * 5
    label = jax.random.uniform(jax.random.key(1), (32,))
    loss = functools.partial(FAMILY[name], beta=0.7)
    mixture = label * loss(chosen, rejected) + (1 - label) * loss(chosen, rejected, label=0.0)
    np.testing.assert_allclose(loss(chosen, rejected, label=label), mixture, rtol=2e-5, atol=2e-5)
    turned = loss(rejected, chosen, label=1 - label)
    np.testing.assert_allclose(loss(chosen, rejected, label=label), turned, rtol=2e-5, atol=2e-5)


def test_cdpo_is_dpo_at_a_smoothed_label_and_robust_is_unbiased_under_flips():
    chosen, rejected = jnp.array([2.0, -1.0]), jnp.array([0.5, 3.0])
    np.testing.assert_allclose(
        losses.cdpo(chosen, rejected, beta=0.3, label_smoothing=0.15),
        losses.dpo(chosen, rejected, beta=0.3, label=0.85),
        rtol=1e-6,
    )
    # Labels turned round with probability 0.15: the mean of the robust loss is the loss on clean labels.
    flipped = functools.partial(losses.robust, chosen, rejected, beta=0.3, label_smoothing=0.15)
    mean = 0.85 * flipped(label=1.0) + 0.15 * flipped(label=0.0)
    np.testing.assert_allclose(mean, losses.dpo(chosen, rejected, beta=0.3), rtol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_derivatives_by_central_differences_in_float64(name):
    with jax.enable_x64(True):
        loss = functools.partial(FAMILY[name], beta=0.4, label=0.7)
        f = lambda c, r: loss(c[None], r[None])[0]  # noqa: E731 - scalar view of the loss
        c, r, h = jnp.float64(1.3), jnp.float64(-0.4), 1e-5
        gradient = jax.grad(f, (0, 1))(c, r)
        differences = (f(c + h, r) - f(c - h, r)) / (2 * h), (f(c, r + h) - f(c, r - h)) / (2 * h)
        np.testing.assert_allclose(gradient, differences, rtol=1e-8)
        second = jax.grad(jax.grad(f))(c, r)
        slope = jax.grad(f)
        np.testing.assert_allclose(
            second, (slope(c + h, r) - slope(c - h, r)) / (2 * h), rtol=1e-7, atol=1e-9
        )


def test_dpo_gradient_in_closed_form():
    """d loss / d chosen_logratio = beta (sigma(z) - p), and its negative for rejected."""
    chosen, rejected, label = jnp.array([1.0, -2.0]), jnp.array([0.0, 1.0]), jnp.array([0.2, 1.0])
    grads = jax.grad(lambda c, r: losses.dpo(c, r, beta=0.5, label=label).sum(), (0, 1))(chosen, rejected)
    expected = 0.5 * (1 / (1 + np.exp(-0.5 * np.array([1.0, -3.0]))) - np.array([0.2, 1.0]))
    np.testing.assert_allclose(grads[0], expected, rtol=1e-5)
    np.testing.assert_allclose(grads[1], -expected, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_finite_far_from_the_reference(name):
    chosen, rejected = jnp.array([1e4, -1e4]), jnp.array([-1e4, 1e4])
    value, grads = jax.value_and_grad(lambda c: FAMILY[name](c, rejected, beta=1.0).sum())(chosen)
    assert np.isfinite(value) and np.isfinite(grads).all()
    # The wrong side costs z = 2e4 nats, the right side nothing.
    if name == "dpo":
        np.testing.assert_allclose(losses.dpo(chosen, rejected, beta=1.0), [0.0, 2e4], rtol=1e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_jit_and_vmap_agree_with_eager(name):
    chosen, rejected = jax.random.normal(jax.random.key(3), (2, 6))
    label = jnp.linspace(0.0, 1.0, 6)
    f = functools.partial(FAMILY[name], beta=0.3)
    eager = f(chosen, rejected, label=label)
    np.testing.assert_allclose(jax.jit(f)(chosen, rejected, label=label), eager, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(lambda c, r, p: f(c, r, label=p))(chosen, rejected, label), eager, rtol=1e-6
    )


def test_sft_per_token_and_padding():
    """-(-6) / 3 = 2 nats a token; a row without tokens gives 0, and its nan reaches no gradient."""
    logps, lengths = jnp.array([-6.0, jnp.nan]), jnp.array([3, 0], jnp.int32)
    np.testing.assert_allclose(losses.sft(logps, lengths), [2.0, 0.0])
    gradient = jax.grad(lambda x: losses.sft(x, lengths).sum())(logps)
    np.testing.assert_allclose(gradient, [-1 / 3, 0.0], rtol=1e-6)


def test_weighted_mean_ignores_padding_rows():
    """(1 * 2 + 3 * 4) / 4 = 3.5; nan at weight 0 reaches neither value nor gradient."""
    values, weights = jnp.array([2.0, 4.0, jnp.nan]), jnp.array([1.0, 3.0, 0.0])
    value, gradient = jax.value_and_grad(losses.weighted_mean)(values, weights)
    np.testing.assert_allclose(value, 3.5)
    np.testing.assert_allclose(gradient, [0.25, 0.75, 0.0])
    assert losses.weighted_mean(values, jnp.zeros(3)) == 0
