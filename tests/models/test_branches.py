"""Attention of parts with fixed places against the masked square of the whole row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.data.shared_rows import Branches
from alignjax.models import hidden_states, init_params
from alignjax.models.attention import RowIds, attend, attention_mask, branch_masks, visible_keys
from alignjax.models.config import DecoderConfig
from alignjax.models.layers import layer_windows

BRANCHES = Branches(prompt=5, number=3, length=4)
# Tokens of the prompt and of the responses of each row; the last row is padding.
LENGTHS = [(5, 4, 4, 4), (2, 3, 0, 1), (0, 0, 0, 0)]


def rows():
    """Segments, branches and positions [3, 17]."""
    segments, positions = np.zeros((2, 3, 17), np.int32)
    for i, (prompt, *responses) in enumerate(LENGTHS):
        segments[i, :prompt], positions[i, :prompt] = 1, np.arange(prompt)
        for slot, length in enumerate(responses):
            part = slice(5 + 4 * slot, 5 + 4 * slot + length)
            segments[i, part], positions[i, part] = 1, prompt + np.arange(length)
    branches = np.broadcast_to(BRANCHES.ids(), segments.shape)
    return jnp.array(segments), jnp.array(branches), jnp.array(positions)


def test_places_by_hand():
    assert BRANCHES.bucket == (17, 12)
    assert BRANCHES.ids().tolist() == [0] * 5 + [1] * 4 + [2] * 4 + [3] * 4


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_values_and_gradients_are_those_of_the_mask(window, cap):
    segments, branches, positions = rows()
    keys = jax.random.split(jax.random.key(0), 4)
    q, weights = (jax.random.normal(key, (3, 17, 6, 8)) for key in keys[:2])
    k, v = (jax.random.normal(key, (3, 17, 2, 8)) for key in keys[2:])
    mask = attention_mask(positions, segments, branches, window)
    parts = branch_masks(positions, segments, BRANCHES, window)
    live = (segments > 0)[:, :, None, None]

    def total(q, k, v, visible):
        found = jnp.where(live, attend(q, k, v, visible, soft_cap=cap), 0.0)
        return jnp.sum(found * weights), found

    compute = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
    (wanted, out), (found, other) = compute(q, k, v, mask), compute(q, k, v, parts)
    np.testing.assert_allclose(other, out, atol=1e-6)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_layers_with_and_without_a_window():
    segments, branches, positions = rows()
    config = DecoderConfig(
        "gemma2", 11, 16, 24, 2, 4, 2, 8, sliding_window=3, window_layers=(True, False), tie_embeddings=True
    )
    assert layer_windows(config) == (3, None)
    params = init_params(jax.random.key(1), config)
    tokens = jax.random.randint(jax.random.key(2), segments.shape, 0, 11)
    compute = jax.jit(hidden_states, static_argnums=(0, 5))
    found = compute(config, params, tokens, positions, segments, BRANCHES)
    wanted = jax.jit(hidden_states, static_argnums=0)(config, params, tokens, positions, segments, branches)
    live = np.asarray(segments > 0)
    np.testing.assert_allclose(np.asarray(found)[live], np.asarray(wanted)[live], atol=1e-5)


def test_the_kernel_that_masks_by_ids_gets_the_ids_of_the_places():
    segments, branches, positions = rows()
    config = DecoderConfig("llama", 11, 8, 12, 1, 2, 1, 4, attention="splash", sliding_window=9)
    (ids,) = visible_keys(config, positions, segments, BRANCHES)  # no text is longer than 5 + 4 tokens
    assert isinstance(ids, RowIds)
    np.testing.assert_array_equal(ids.branches, branches)
    shorter = dataclasses.replace(config, sliding_window=8)
    with pytest.raises(ValueError, match="splash has no window, but rows of 9 have one of 8"):
        visible_keys(shorter, positions, segments, BRANCHES)


def test_a_text_and_not_a_row_is_limited_by_the_positions_of_a_model():
    segments, _, positions = rows()
    config = DecoderConfig(
        "gpt2", 11, 8, 12, 1, 2, 2, 4, learned_positions=True, max_positions=9, norm="layer"
    )
    params = init_params(jax.random.key(1), config)
    out = jax.eval_shape(lambda p: hidden_states(config, p, segments, positions, segments, BRANCHES), params)
    assert out.shape == (3, 17, 8)
