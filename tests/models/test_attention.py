import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models.attention import attend, attend_cached, attend_fused, attention_mask
from alignjax.models.caches import stored


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


@pytest.mark.parametrize("length", [300, 1100])  # blocks of 128, and at most four of them
def test_blocks_of_queries_have_what_the_whole_row_has(length):
    keys = jax.random.split(jax.random.key(1), 4)
    q, k, v = (jax.random.normal(key, (1, length, 1, 4)) for key in keys[:3])
    mask = jax.random.bernoulli(keys[3], 0.5, (1, length, length)) | jnp.eye(length, dtype=bool)[None]
    mask &= jnp.tril(jnp.ones((1, length, length), bool))
    with jax.numpy_rank_promotion("allow"):  # of jax's own code
        whole = attend_fused(q, k, v, mask, "xla")
    np.testing.assert_allclose(attend(q, k, v, mask), whole, atol=1e-6)


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


def _numbers(x):
    """What rounded keys or values stand for."""
    return x.values.astype(jnp.float32) * x.scale[..., None].repeat(x.values.shape[-1], axis=-1)


@pytest.mark.parametrize("int8", [False, True])
def test_attend_cached_equals_attend_on_the_concatenation(int8):
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
    kept = [stored(x, int8=int8) for x in (prompt_k, prompt_v, cache_k, cache_v)]
    out = attend_cached(q, k, v, kept[0], kept[1], kept[2], kept[3], prompt_mask, slot_mask)
    if int8:
        prompt_k, prompt_v, cache_k, cache_v = (_numbers(x) for x in kept)
    for n, s in np.ndindex(num, samples):
        all_k = jnp.concatenate([prompt_k[n], cache_k[n, s], k[n, s][:, None]], axis=1).swapaxes(0, 1)[None]
        all_v = jnp.concatenate([prompt_v[n], cache_v[n, s], v[n, s][:, None]], axis=1).swapaxes(0, 1)[None]
        mask = np.concatenate([prompt_mask[n, s], slot_mask[n, s], [True]])[None, None]
        expected = naive(q[n, s][None, None], all_k, all_v, mask)
        np.testing.assert_allclose(out[n, s], expected[0, 0], atol=1e-6)
