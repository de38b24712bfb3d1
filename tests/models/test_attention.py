import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models.attention import (
    apply_rope,
    attend,
    attend_cached,
    attend_fused,
    attention_mask,
    rope_frequencies,
    rope_stretch,
    rope_tables,
)
from alignjax.models.config import DecoderConfig, RopeScaling

CONFIG = DecoderConfig("llama", 11, 8, 12, 1, 2, 1, 4, rope_theta=100.0)


def test_rope_by_hand():
    # H = 4, theta = 100: frequencies 1 and 100^(-1/2) = 0.1. At position 2 the pair (x0, x2) turns by 2
    # radians and (x1, x3) by 0.2: (1, 0) goes to (cos 2, sin 2), (0, 1) to (-sin 0.2, cos 0.2).
    np.testing.assert_allclose(rope_frequencies(CONFIG), [1.0, 0.1], rtol=1e-6)
    x = jnp.array([1.0, 0.0, 0.0, 1.0]).reshape(1, 1, 1, 4)
    turned = apply_rope(x, *rope_tables(CONFIG, jnp.array([[2]])))
    expected = [math.cos(2), -math.sin(0.2), math.sin(2), math.cos(0.2)]
    np.testing.assert_allclose(turned.ravel(), expected, rtol=1e-6)


def test_rope_keeps_norms_and_depends_on_distance_only():
    keys = jax.random.split(jax.random.key(0))
    q, k = (jax.random.normal(key, (1, 1, 1, 4)) for key in keys)

    def score(i, j):
        def turn(x, at):
            return apply_rope(x, *rope_tables(CONFIG, jnp.array([[at]])))

        return float(jnp.sum(turn(q, i) * turn(k, j)))

    np.testing.assert_allclose(score(7, 3), score(104, 100), rtol=1e-4)
    turned = apply_rope(q, *rope_tables(CONFIG, jnp.array([[31]])))
    np.testing.assert_allclose(jnp.linalg.norm(turned), jnp.linalg.norm(q), rtol=1e-6)


def test_rope_stretch_by_hand():
    assert rope_stretch(0.3, RopeScaling("linear", 3.0)) == pytest.approx(0.1)
    # Llama 3 with an original context of 100 tokens: a frequency f makes 100 f / 2 pi turns in it.
    # 8 turns are over the high factor 4: kept. Half a turn is under the low factor 1: divided by 8.
    # 2.5 turns are half way between: the mean of f and f / 8.
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 100)
    f = 2 * math.pi / 100
    assert rope_stretch(8 * f, scaling) == pytest.approx(8 * f)
    assert rope_stretch(0.5 * f, scaling) == pytest.approx(0.5 * f / 8)
    assert rope_stretch(2.5 * f, scaling) == pytest.approx(2.5 * f * (1 + 1 / 8) / 2)


def test_mask_is_the_stated_rule():
    # A prompt of 2, two responses of 2 and 1, another document of 2, padding.
    segments = jnp.array([[1, 1, 1, 1, 1, 2, 2, 0]])
    branches = jnp.array([[0, 0, 1, 1, 2, 0, 0, 0]])
    positions = jnp.array([[0, 1, 2, 3, 2, 0, 1, 0]])
    seen = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5], [5, 6], []]
    mask = attention_mask(positions, segments, branches, None)[0]
    assert [np.flatnonzero(row).tolist() for row in mask] == seen
    # A window of 2 positions: each query sees itself and the position before its own. Token 4 is at
    # position 2, so the prompt's position 1 is in reach although it stands three places back.
    seen = [[0], [0, 1], [1, 2], [2, 3], [1, 4], [5], [5, 6], []]
    mask = attention_mask(positions, segments, branches, 2)[0]
    assert [np.flatnonzero(row).tolist() for row in mask] == seen


def naive(q, k, v, mask):
    """One query and head at a time, float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out, group = np.zeros_like(q), q.shape[2] // k.shape[2]
    for b, t, h in np.ndindex(q.shape[:3]):
        visible = np.flatnonzero(mask[b, t])
        scores = k[b, visible, h // group] @ q[b, t, h] / math.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ v[b, visible, h // group]
    return out


def test_attend_equals_one_head_at_a_time():
    keys = jax.random.split(jax.random.key(1), 4)
    q = jax.random.normal(keys[0], (2, 7, 6, 4))
    k, v = (jax.random.normal(key, (2, 7, 2, 4)) for key in keys[1:3])
    mask = jax.random.bernoulli(keys[3], 0.5, (2, 7, 7)) | jnp.eye(7, dtype=bool)[None]
    np.testing.assert_allclose(attend(q, k, v, mask), naive(q, k, v, mask), atol=1e-6)


def test_the_fused_one_is_called_with_the_same_meaning():
    """Here by XLA; where there is an NVIDIA GPU the same arguments go to its kernel."""
    keys = jax.random.split(jax.random.key(1), 4)
    q = jax.random.normal(keys[0], (2, 7, 6, 4))
    k, v = (jax.random.normal(key, (2, 7, 2, 4)) for key in keys[1:3])
    mask = jax.random.bernoulli(keys[3], 0.5, (2, 7, 7)) | jnp.eye(7, dtype=bool)[None]
    with jax.numpy_rank_promotion("allow"):  # of jax's own code
        found = attend_fused(q, k, v, mask, "xla")
    np.testing.assert_allclose(found, attend(q, k, v, mask), atol=1e-6)


def test_attend_by_hand():
    # One head of width 4, q.k = 2 log 3 and 0, divided by sqrt 4: scores log 3 and 0, weights 3/4, 1/4.
    q = jnp.array([2 * math.log(3), 0, 0, 0]).reshape(1, 1, 1, 4)
    k = jnp.array([[1.0, 0, 0, 0], [0, 1, 0, 0]]).reshape(1, 2, 1, 4)
    v = jnp.array([[4.0, 0, 0, 0], [0, 8, 0, 0]]).reshape(1, 2, 1, 4)
    out = attend(q, k, v, jnp.ones((1, 1, 2), bool))
    np.testing.assert_allclose(out.ravel(), [3.0, 2.0, 0.0, 0.0], rtol=1e-6)


def test_a_query_that_sees_nothing_gives_no_nan_and_no_gradient_to_others():
    x = jax.random.normal(jax.random.key(2), (1, 3, 1, 4))
    mask = jnp.array([[[True, False, False], [True, True, False], [False, False, False]]])

    def f(x):
        return jnp.sum(attend(x, x, x, mask)[:, :2] ** 2)

    assert bool(jnp.isfinite(attend(x, x, x, mask)).all())
    gradient = jax.grad(f)(x)
    assert bool(jnp.isfinite(gradient).all()) and not gradient[:, 2].any()


def test_attend_cached_equals_attend_on_the_concatenation():
    num, samples, prompt, slots, kv, heads, width = 2, 3, 4, 5, 2, 6, 4
    keys = iter(jax.random.split(jax.random.key(3), 9))

    def draw(*shape):
        return jax.random.normal(next(keys), shape)

    q = draw(num, samples, heads, width)
    k, v = draw(num, samples, kv, width), draw(num, samples, kv, width)
    prompt_k, prompt_v = draw(num, kv, prompt, width), draw(num, kv, prompt, width)
    cache_k, cache_v = draw(num, samples, kv, slots, width), draw(num, samples, kv, slots, width)
    prompt_mask = jnp.array([[True] * 4, [False, True, True, True]])[:, None].repeat(samples, axis=1)
    slot_mask = jnp.broadcast_to(jnp.arange(slots) < 2, (num, samples, slots))
    out = attend_cached(q, k, v, prompt_k, prompt_v, cache_k, cache_v, prompt_mask, slot_mask)
    for n, s in np.ndindex(num, samples):
        all_k = jnp.concatenate([prompt_k[n], cache_k[n, s], k[n, s][:, None]], axis=1).swapaxes(0, 1)[None]
        all_v = jnp.concatenate([prompt_v[n], cache_v[n, s], v[n, s][:, None]], axis=1).swapaxes(0, 1)[None]
        mask = np.concatenate([prompt_mask[n, s], slot_mask[n, s], [True]])[None, None]
        expected = naive(q[n, s][None, None], all_k, all_v, mask)
        np.testing.assert_allclose(out[n, s], expected[0, 0], atol=1e-6)
