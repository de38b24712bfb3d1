"""Mixtures of adapters against the combination of what each adapter alone computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    caches,
    empty_cache,
    hidden_states,
    init_lora,
    init_params,
    mixture_of,
    num_bodies,
    prefill,
    step_function,
    unembed,
    with_weights,
)
from alignjax.models.mixture import combined

CONFIG = DecoderConfig("qwen3", 31, 16, 24, 2, 4, 2, 8, qk_norm="head")
PARAMS = init_params(jax.random.key(1), CONFIG)
TOKENS = jax.random.randint(jax.random.key(0), (2, 6), 0, 31)
POSITIONS = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32)[None], (2, 6))
ROWS = (TOKENS, POSITIONS, jnp.array([[1] * 6, [1] * 4 + [0] * 2], jnp.int32))
WEIGHTS = (0.7, -1.2)


def adapter(seed, **options):
    lora = init_lora(jax.random.key(seed), options.pop("config", CONFIG), **options)
    keys = iter(jax.random.split(jax.random.key(seed), 20))
    return lora.replace(
        params=jax.tree.map(lambda x: 0.3 * jax.random.normal(next(keys), x.shape), lora.params)
    )


@pytest.fixture(scope="module")
def two():
    """Of unequal rank, scale and targets."""
    return adapter(2, rank=3, alpha=6.0), adapter(3, rank=2, alpha=1.0, targets=("q", "down"))


@jax.jit
def _logits(lora):
    return unembed(CONFIG, PARAMS, hidden_states(CONFIG, PARAMS, *ROWS, lora=lora))


def logits_of(lora):
    return np.asarray(_logits(lora), np.float64)


def test_logits_are_the_combination_of_those_of_each_adapter(two):
    reference, one, other = (logits_of(lora) for lora in (None, *two))
    expected = reference + 0.7 * (one - reference) - 1.2 * (other - reference)
    mixture = mixture_of(two, WEIGHTS)
    assert num_bodies(mixture) == 3 and num_bodies(two[0]) == 1 and num_bodies(None) == 1
    np.testing.assert_allclose(logits_of(mixture), expected, atol=1e-5)
    assert np.abs(expected - reference).max() > 0.1


@pytest.mark.parametrize("weights, which", [((1.0, 0.0), 1), ((0.0, 1.0), 2), ((0.0, 0.0), 0)])
def test_ends_of_the_dial(two, weights, which):
    np.testing.assert_allclose(logits_of(mixture_of(two, weights)), logits_of((None, *two)[which]), atol=1e-5)


def test_other_weights_compile_nothing(two):
    traced = []

    @jax.jit
    def compiled(lora):
        traced.append(lora)
        return hidden_states(CONFIG, PARAMS, *ROWS, lora=lora)

    mixture = mixture_of(two, WEIGHTS)
    first = compiled(mixture)
    moved = with_weights(mixture, (3.0, 0.5))
    np.testing.assert_allclose(
        compiled(moved), hidden_states(CONFIG, PARAMS, *ROWS, lora=mixture_of(two, (3.0, 0.5))), atol=1e-5
    )
    assert len(traced) == 1 and float(jnp.abs(compiled(moved) - first).max()) > 0.1


@pytest.mark.parametrize("scanned", [False, True])
def test_steps_equal_whole_rows(two, scanned, monkeypatch):
    # Two continuations of each prompt, token by token, against rows of prompt and continuation.
    if scanned:
        monkeypatch.setattr(caches, "_UNSCANNED_WEIGHTS", 0)
    mixture = mixture_of(two, WEIGHTS)
    lengths = np.array([6, 4], np.int32)
    more = np.random.default_rng(0).integers(0, 31, (2, 2, 3)).astype(np.int32)  # [N, K, S]
    hidden, prompts = prefill(CONFIG, PARAMS, *ROWS, lora=mixture)
    np.testing.assert_allclose(hidden[0], hidden_states(CONFIG, PARAMS, *ROWS, lora=mixture)[0], atol=1e-5)
    cache = empty_cache(CONFIG, 2, 2, 3, num_bodies=3)
    step = jax.jit(step_function(CONFIG, PARAMS, prompts, lora=mixture))
    read = jax.jit(lambda *rows: hidden_states(CONFIG, PARAMS, *rows, lora=mixture))
    for t in range(3):
        at = jnp.broadcast_to(jnp.asarray(lengths)[:, None] + t, (2, 2))
        found, cache = step(jnp.asarray(more[:, :, t]), at, jnp.full_like(at, t), cache, jnp.int32(t))
        for i, length in enumerate(lengths):
            ids = [np.concatenate([TOKENS[i, :length], row[: t + 1]]) for row in more[i]]
            tokens = jnp.asarray(np.stack(ids), jnp.int32)
            at = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
            whole = read(tokens, at, jnp.ones_like(tokens))
            np.testing.assert_allclose(found[i], whole[:, -1], atol=1e-5)


def test_half_precision_is_combined_in_float32(two):
    # 40 (1 + 2^-7) - 40 is 0.3125. In bfloat16, whose numbers near 40 are 0.25 apart, it would be 0.25.
    mixture = mixture_of(two, (40.0, -40.0))
    bodies = jnp.array([[1.0], [1.0 + 2.0**-7], [1.0]], jnp.bfloat16)
    found = combined(mixture, bodies)
    assert found.dtype == jnp.bfloat16 and float(found[0]) == 1.0 + 0.3125
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    assert hidden_states(config, PARAMS, *ROWS, lora=mixture).dtype == jnp.bfloat16


def test_a_cap_on_the_logits_is_refused(two):
    config = dataclasses.replace(CONFIG, logits_soft_cap=30.0)
    mixture = mixture_of(two, WEIGHTS)
    for read in (hidden_states, prefill):
        with pytest.raises(InputError, match="final_logit_softcapping is 30"):
            read(config, PARAMS, *ROWS, lora=mixture)


def test_what_cannot_be_mixed_is_refused(two):
    with pytest.raises(InputError, match="there are no adapters"):
        mixture_of([], [])
    with pytest.raises(InputError, match="3 weights for 2 adapters"):
        mixture_of(two, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="weight 1 is nan"):
        with_weights(mixture_of(two, WEIGHTS), [1.0, float("nan")])
    wide = adapter(4, rank=2, alpha=1.0, config=dataclasses.replace(CONFIG, intermediate_size=32))
    with pytest.raises(InputError, match="adapter 1 has 2 layers with 32 x 16 weights in down, adapter 0"):
        mixture_of([two[0], wide], WEIGHTS)
    deep = adapter(4, rank=2, alpha=1.0, config=dataclasses.replace(CONFIG, num_layers=3))
    with pytest.raises(InputError, match="adapter 1 has 3 layers"):
        mixture_of([two[0], deep], WEIGHTS)
