"""Small random models and their logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignjax.models import DecoderConfig, Model, RopeScaling, init_params

BASE = DecoderConfig("llama", 40, 16, 24, 2, 4, 2, 4, bos_id=1, eos_ids=(2,))
KINDS = {
    "llama": BASE,
    "tied": dataclasses.replace(BASE, tie_embeddings=True, eos_ids=(2, 3)),
    "mistral": dataclasses.replace(BASE, architecture="mistral", sliding_window=4),
    "qwen2": dataclasses.replace(BASE, architecture="qwen2", qkv_bias=True, bos_id=None),
    "qwen3": dataclasses.replace(BASE, architecture="qwen3", qk_norm="head", head_dim=8, rope_theta=1e6),
    "phi3": dataclasses.replace(
        BASE,
        architecture="phi3",
        rotary_dim=2,
        rope_scaling=RopeScaling(
            "longrope", 2.0, original_max_positions=1024, short_factors=(1.5,), long_factors=(4.0,)
        ),
    ),
}


@jax.jit
def _apply(model: Model, ids: jax.Array, positions: jax.Array) -> jax.Array:
    return model.apply(model.params, ids, positions, jnp.ones_like(ids))


@pytest.fixture(scope="session")
def kinds():
    return KINDS


@pytest.fixture(scope="session")
def random_model():
    """random_model("llama") has every weight away from its initial value."""

    @functools.cache
    def make(kind: str, seed: int = 0) -> Model:
        config = KINDS[kind]
        keys = iter(jax.random.split(jax.random.key(seed), 64))
        params = init_params(next(keys), config)
        moved = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), params)
        return Model(moved, config)

    return make


@pytest.fixture(scope="session")
def logits():
    """logits(model) on one fixed row of 12 ids, [12, V] float32."""

    def compute(model: Model) -> np.ndarray:
        ids = jnp.asarray(np.random.default_rng(0).integers(0, 40, (1, 12)), jnp.int32)
        positions = jnp.arange(12, dtype=jnp.int32)[None]
        return np.asarray(_apply(model.replace(tokenizer=None), ids, positions)[0])

    return compute


@pytest.fixture
def tiny_tokenizer():
    """Twenty letters as bytes and the special tokens; ids below 40."""
    letters = [chr(97 + i) for i in range(20)]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")][:0], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
