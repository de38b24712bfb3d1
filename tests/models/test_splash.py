"""The TPU's kernel, computed without a TPU, against the attention that every device has."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.models import hidden_states, init_params, splash
from alignjax.models.attention import RowIds, attend, attention_mask, visible_keys
from alignjax.models.config import DecoderConfig
from alignjax.models.splash import attend_splash
from alignjax.runtime.mesh import make_mesh

LENGTH = 150  # more than one block of 128, and no multiple of it


@pytest.fixture(autouse=True)
def _kernel_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):  # of jax's own code
        yield


def ids_of(ends, length=LENGTH):
    """Segments and branches of rows with (prompt, chosen, rejected) ending there; padding follows."""
    segments, branches = np.zeros((2, len(ends), length), np.int32)
    for i, (prompt, chosen, rejected) in enumerate(ends):
        segments[i, :rejected] = 1
        branches[i, prompt:chosen], branches[i, chosen:rejected] = 1, 2
    return jnp.array(segments), jnp.array(branches)


def heads(batch, length=LENGTH, *, keys=2, groups=3, width=16):
    parts = jax.random.split(jax.random.key(0), 4)
    q, weights = (jax.random.normal(key, (batch, length, keys * groups, width)) for key in parts[:2])
    k, v = (jax.random.normal(key, (batch, length, keys, width)) for key in parts[2:])
    return q, k, v, weights


def value_and_gradients(attention, arrays, segments, weights):
    """Of a weighted sum of what is not padding."""

    def total(q, k, v):
        return jnp.sum(jnp.where((segments > 0)[:, :, None, None], attention(q, k, v), 0.0) * weights)

    return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(*arrays)


@pytest.mark.parametrize("branched", [True, False])
def test_values_and_gradients_are_those_of_the_mask(branched):
    segments, branches = ids_of([(40, 80, 140), (10, 70, 150)])
    branches = branches.at[0, 60:80].set(16) if branched else None  # as many as a row can hold
    positions = jnp.broadcast_to(jnp.arange(LENGTH)[None], segments.shape)
    mask = attention_mask(
        positions, segments, jnp.zeros_like(segments) if branches is None else branches, None
    )
    *arrays, weights = heads(2)
    wanted = value_and_gradients(lambda q, k, v: attend(q, k, v, mask), arrays, segments, weights)
    ids = RowIds(segments, branches)
    found = value_and_gradients(
        lambda q, k, v: attend_splash(q, k, v, ids, interpret=True), arrays, segments, weights
    )
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for one, other in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_branch_sees_nothing_of_the_other_in_bfloat16():
    segments, branches = ids_of([(40, 80, 140)])
    q, k, v, _ = (x.astype(jnp.bfloat16) for x in heads(1))
    ids = RowIds(segments, branches)
    before = attend_splash(q, k, v, ids, interpret=True)
    # Everything that the first response says is changed; the second must not hear of it.
    k, v = (x.at[:, 40:80].multiply(-3) for x in (k, v))
    after = attend_splash(q, k, v, ids, interpret=True)
    np.testing.assert_array_equal(before[:, 80:140].astype(np.float32), after[:, 80:140].astype(np.float32))
    assert not np.array_equal(before[:, 40:80], after[:, 40:80])
    assert before.dtype == jnp.bfloat16


@pytest.mark.parametrize("rows", [4, 3], ids=["divided", "not-divided"])
def test_each_device_computes_its_rows_and_heads(rows):
    segments, branches = ids_of([(40, 80, 140), (10, 70, 150), (5, 9, 12), (60, 61, 62)][:rows])
    q, k, v, _ = heads(rows)
    wanted = attend_splash(q, k, v, RowIds(segments, branches), interpret=True)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    parts = ("data", "fsdp") if rows == 4 else None
    split = NamedSharding(mesh, PartitionSpec(parts, None, "tensor", None))
    by_rows = NamedSharding(mesh, PartitionSpec(parts, None))
    q, k, v = (jax.device_put(x, split) for x in (q, k, v))
    segments, branches = (jax.device_put(x, by_rows) for x in (segments, branches))

    @jax.jit
    def run(q, k, v, segments, branches):
        return attend_splash(q, k, v, RowIds(segments, branches), interpret=True)

    found = run(q, k, v, segments, branches)
    assert found.sharding.is_equivalent_to(split, 4)
    live = np.asarray(segments > 0)
    np.testing.assert_allclose(np.asarray(found)[live], np.asarray(wanted)[live], atol=1e-6)


def test_a_whole_decoder_with_it(monkeypatch):
    interpreted = functools.partial(attend_splash, interpret=True)
    monkeypatch.setattr(splash, "attend_splash", interpreted)
    config = DecoderConfig("qwen3", 11, 16, 24, 2, 4, 2, 8, qk_norm="head", remat=True)
    segments, branches = ids_of([(40, 80, 140), (10, 70, 150)])
    tokens = jax.random.randint(jax.random.key(3), segments.shape, 0, 11)
    positions = jnp.broadcast_to(jnp.arange(LENGTH)[None], segments.shape)
    live = (segments > 0)[:, :, None]

    def total(params, config):
        hidden = hidden_states(config, params, tokens, positions, segments, branches)
        return jnp.sum(jnp.where(live, hidden, 0.0) ** 2 * jnp.arange(16.0)[None, None])

    params = init_params(jax.random.key(4), config)
    compute = jax.jit(jax.value_and_grad(total), static_argnums=1)
    wanted, found = compute(params, config), compute(params, dataclasses.replace(config, attention="splash"))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3), found[1], wanted[1])


def test_a_window_is_left_to_others():
    config = DecoderConfig("llama", 11, 8, 12, 1, 2, 1, 4, attention="splash", sliding_window=149)
    segments, branches = ids_of([(40, 80, 140)])
    with pytest.raises(ValueError, match="splash has no window, but rows of 150 have one of 149"):
        visible_keys(config, segments, segments, branches)
