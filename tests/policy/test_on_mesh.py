"""Sampling, log-probabilities and divergence on eight devices against one."""

from typing import Any

import jax
import numpy as np
import pytest

from alignjax.data.tokenize import TokenizedResponse
from alignjax.models import (
    DecoderConfig,
    Model,
    caches,
    decoder_shardings,
    init_lora,
    init_params,
    place_lora,
)
from alignjax.policy import batch_sizing, response_kl, response_logps, sample
from alignjax.policy.sampling import greedy
from alignjax.runtime.mesh import make_mesh

CONFIG = DecoderConfig("qwen3", 11, 16, 32, 2, 4, 2, 8, qk_norm="head", eos_ids=(2, 9))
# Five prompts: not a multiple of the four parts that rows are divided into.
PROMPTS = [np.array(ids, np.int32) for ids in ([1, 3, 4], [5] * 20, [1], [1, 10, 7, 7, 8], [6, 6])]


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(2, 2, 2)


@pytest.fixture(scope="module")
def one():
    """Model and adapter on the default device."""
    lora = init_lora(jax.random.key(1), CONFIG, rank=2, alpha=4.0)
    lora = lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))
    return Model(init_params(jax.random.key(0), CONFIG), CONFIG), lora


@pytest.fixture(scope="module")
def many(one, mesh):
    """The same on eight devices."""
    model, lora = one
    params = jax.device_put(model.params, decoder_shardings(CONFIG, mesh, where="model"))
    return model.replace(params=params), place_lora(lora, mesh)


def _equal(a, b):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.lengths, b.lengths)
    np.testing.assert_allclose(a.logps, b.logps, atol=1e-4)


@pytest.mark.parametrize("scanned", [False, True])
def test_greedy(one, many, mesh, scanned, monkeypatch):
    if scanned:  # caches of all layers in one array
        monkeypatch.setattr(caches, "_UNSCANNED_WEIGHTS", 0)
        jax.clear_caches()
    found = greedy(many[0], PROMPTS, lora=many[1], mesh=mesh, max_new_tokens=6)
    _equal(greedy(one[0], PROMPTS, lora=one[1], max_new_tokens=6), found)


def test_draws_do_not_depend_on_the_mesh(one, many, mesh, monkeypatch):
    options: dict[str, Any] = {"num_samples": 3, "max_new_tokens": 5, "top_p": 0.8}
    key = jax.random.key(2)
    alone = sample(key, one[0], PROMPTS, prompt_batch_size=2, **options)
    # One column of two rows on each of the four parts: rows take third samples, a column the fifth prompt.
    monkeypatch.setattr(batch_sizing, "grid_of", lambda *_, **__: batch_sizing.Grid(4, 1, 2, 1))
    _equal(alone, sample(key, many[0], PROMPTS, mesh=mesh, **options))


def test_log_probabilities_and_divergence(one, many, mesh):
    rng = np.random.default_rng(0)
    responses = [
        TokenizedResponse(prompt, rng.integers(0, 11, n).astype(np.int32))
        for sizes in ((3, 1, 6, 2, 4), (5, 2, 1, 7, 3))
        for prompt, n in zip(PROMPTS, sizes, strict=True)
    ]
    alone = response_logps(one[0], responses, lora=one[1], batch_size=4)
    found = response_logps(many[0], responses, lora=many[1], batch_size=8, mesh=mesh)  # two share a row
    np.testing.assert_allclose(found, alone, atol=1e-4)
    alone = response_kl(one[0], one[0], responses, lora=one[1], batch_size=8)
    found = response_kl(many[0], many[0], responses, lora=many[1], batch_size=8, mesh=mesh)
    np.testing.assert_allclose(found, alone, atol=1e-4)
    assert alone.min() > 0
