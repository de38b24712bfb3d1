"""Optimizer: rates and updates by hand, accumulation, messages."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.errors import InputError

SETTINGS = OptimizerSettings(learning_rate=0.8, total_steps=12, warmup_steps=4)


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        # Half way down the cosine 0.4, at a quarter 0.8 (1 + cos(pi / 4)) / 2 = 0.6828427.
        ("cosine", [0.8, 0.6828427, 0.4, 0.0]),
        ("linear", [0.8, 0.6, 0.4, 0.0]),
        ("constant", [0.8, 0.8, 0.8, 0.8]),
    ],
)
def test_rates_by_hand(schedule, after):
    _, rate = make_optimizer(dataclasses.replace(SETTINGS, schedule=schedule))
    np.testing.assert_allclose([rate(s) for s in (0, 1, 2, 3)], [0.0, 0.2, 0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose([rate(s) for s in (4, 6, 8, 12)], after, rtol=1e-6, atol=1e-7)


def test_no_warmup_starts_at_the_largest_rate():
    _, rate = make_optimizer(dataclasses.replace(SETTINGS, warmup_steps=0))
    np.testing.assert_allclose([rate(0), rate(6)], [0.8, 0.4], rtol=1e-6)


def _run(settings, grads, start):
    tx, _ = make_optimizer(settings)
    params: Any = jnp.asarray(start)
    with jax.numpy_dtype_promotion("standard"):
        state = tx.init(params)
        for g in grads:
            updates, state = tx.update(jnp.asarray(g), state, params)
            params = optax.apply_updates(params, updates)
    return params


def test_first_update_by_hand():
    """Adam's first update is -lr sign(g); with decay 0.1: 1 - 0.5 (1 + 0.1 * 1) = 0.45.

    1 - b2 in float32 is good to 6e-5 of itself, its root to 3e-5.
    """
    settings = OptimizerSettings(learning_rate=0.5, total_steps=5, schedule="constant", weight_decay=0.1)
    np.testing.assert_allclose(_run(settings, [[2.0]], [1.0]), [0.45], rtol=3e-5)


def test_clipping_scales_the_whole_gradient():
    """With eps 5, lr 1 and clip 1: g = (3, 4) becomes (0.6, 0.8), the update -g / (|g| + 5)."""
    settings = OptimizerSettings(
        learning_rate=1.0, total_steps=5, schedule="constant", eps=5.0, clip_norm=1.0
    )
    np.testing.assert_allclose(_run(settings, [[3.0, 4.0]], [0.0, 0.0]), [-0.6 / 5.6, -0.8 / 5.8], rtol=1e-5)
    free = dataclasses.replace(settings, clip_norm=None)
    np.testing.assert_allclose(_run(free, [[3.0, 4.0]], [0.0, 0.0]), [-3 / 8, -4 / 9], rtol=1e-5)


def test_accumulation_is_one_update_with_the_mean_gradient():
    one = OptimizerSettings(learning_rate=0.1, total_steps=4, schedule="linear", eps=1.0, clip_norm=None)
    two = dataclasses.replace(one, accumulate=2)
    assert two.num_steps == 8
    np.testing.assert_allclose(
        _run(two, [[1.0], [3.0], [0.0], [2.0]], [0.5]), _run(one, [[2.0], [1.0]], [0.5]), rtol=1e-6
    )
    _, rate = make_optimizer(two)
    # Two train steps an update: rates 0.1, 0.1, 0.075, 0.075, 0.05.
    np.testing.assert_allclose([rate(s) for s in range(5)], [0.1, 0.1, 0.075, 0.075, 0.05], rtol=1e-6)


def test_decay_mask():
    settings = OptimizerSettings(learning_rate=0.5, total_steps=5, schedule="constant", weight_decay=0.1)
    tx, _ = make_optimizer(settings, decay_mask={"a": True, "b": False})
    params = {"a": jnp.ones(1), "b": jnp.ones(1)}
    with jax.numpy_dtype_promotion("standard"):
        updates: Any = tx.update({"a": jnp.ones(1), "b": jnp.ones(1)}, tx.init(params), params)[0]
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-0.55, -0.5], rtol=3e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("schedule", "cosin"),
        ("total_steps", 0),
        ("warmup_steps", 12),
        ("warmup_steps", -1),
        ("weight_decay", -0.1),
        ("b1", 1.0),
        ("b2", -0.1),
        ("eps", 0.0),
        ("clip_norm", 0.0),
        ("accumulate", 0),
    ],
)
def test_refusals_name_the_field_and_the_value(field, value):
    with pytest.raises(InputError, match=rf"optimizer\.{field}: {value!r} cannot be used; give "):
        make_optimizer(dataclasses.replace(SETTINGS, **{field: value}))
