"""A model of seven words with a tokenizer, and batches of four rows on one device."""

import dataclasses

import jax
import numpy as np
import pytest

from alignjax.data.tokenize import TokenizedPair
from alignjax.data.worlds import world_for
from alignjax.models import DecoderConfig, Model, init_params
from alignjax.policy.batching import Batching
from alignjax.policy.values import Policy
from alignjax.runtime.mesh import make_mesh

DECODER = DecoderConfig("llama", 7, 16, 32, 1, 2, 1, 8, eos_ids=(0,))


@pytest.fixture(scope="session")
def batching() -> Batching:
    return Batching(make_mesh(1, 1, 1, devices=jax.devices()[:1]), rows=4, num_buckets=1, memory=None)


@pytest.fixture(scope="session")
def model() -> Model:
    """Of the words of the world `enumerable`; 0 ends a response."""
    params = jax.jit(lambda key: init_params(key, DECODER))(jax.random.key(0))
    return Model(params, DECODER, world_for("enumerable").tokenizer)


@pytest.fixture(scope="session")
def reference(model: Model) -> Policy:
    return Policy("reference", lambda: model, None, "reference", "ab" * 32)


@pytest.fixture(scope="session")
def other(model: Model) -> Policy:
    """A policy of other weights."""
    params = jax.tree.map(lambda x: x + 0.1, model.params)
    changed = dataclasses.replace(model, params=params)
    return Policy("other", lambda: changed, None, "other", "cd" * 32)


@pytest.fixture(scope="session")
def pairs() -> list[TokenizedPair]:
    """Six pairs, the last of which is the first again."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(5):
        prompt, chosen, rejected = (rng.integers(1, 7, n).astype(np.int32) for n in (2, 3, 3))
        found.append(TokenizedPair(prompt, np.append(chosen, np.int32(0)), np.append(rejected, np.int32(0))))
    return [*found, found[0]]
