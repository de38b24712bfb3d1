"""Small random models of every architecture against transformers on torch (tools/make_parity_goldens.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from alignjax.models import decode_step, empty_cache, load_pretrained, prefill, unembed
from alignjax.models.config import ARCHITECTURES

GOLDENS = Path(__file__).parent / "goldens"
NAMES = sorted(p.name for p in GOLDENS.iterdir())
# Every model compiles its own programs. Between them these have every option of the decoder; the others are
# slow.
_FAST = (
    "cohere2",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama_linear_tied",
    "mistral",
    "olmo3",
    "phi4_mini",
    "qwen3",
    "qwen3_moe",
)
MODELS = [pytest.param(n, marks=() if n in _FAST else pytest.mark.slow) for n in NAMES]


def golden(name):
    return json.loads((GOLDENS / name / "golden.json").read_text())


def test_every_family_has_a_golden_and_its_row_in_the_documents():
    found = {json.loads((GOLDENS / name / "config.json").read_text())["architectures"][0] for name in NAMES}
    assert found == set(ARCHITECTURES)
    page = Path("docs/models.md").read_text(encoding="utf-8")
    assert [name for name in ARCHITECTURES if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_the_log_probability_of_a_response(name):
    model, numbers = load_pretrained(GOLDENS / name), golden(name)
    prompt, response = numbers["prompt_ids"], numbers["response_ids"]
    assert len(response) == 100
    ids = jnp.asarray([prompt + response], jnp.int32)
    positions = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
    logits = jax.jit(model.apply)(model.params, ids, positions, jnp.ones_like(ids))[0]
    expected = load_file(GOLDENS / name / "golden.safetensors")["logits"]
    # Logits reach 8; float32 sums in another order differ by some 1e-5 of that.
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
    logps = jax.nn.log_softmax(logits[len(prompt) - 1 : -1])
    total = jnp.take_along_axis(logps, jnp.asarray(response, jnp.int32)[:, None], axis=1).sum()
    np.testing.assert_allclose(total, numbers["response_logp"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_ids_by_prefill_and_decode_step(name):
    model, numbers = load_pretrained(GOLDENS / name), golden(name)
    config, params, steps = model.config, model.params, 64
    prompt = jnp.asarray([numbers["prompt_ids"]], jnp.int32)
    length = prompt.shape[1]
    hidden, prompt_cache = prefill(
        config, params, prompt, jnp.arange(length, dtype=jnp.int32)[None], jnp.ones_like(prompt)
    )
    first = jnp.argmax(unembed(config, params, hidden[:, -1:]), axis=-1).astype(jnp.int32)

    def step(carry, i):
        token, cache = carry
        positions = jnp.full((1, 1), length + i, jnp.int32)
        hidden, cache = decode_step(config, params, token, positions, prompt_cache, cache, i)
        return (jnp.argmax(unembed(config, params, hidden), axis=-1).astype(jnp.int32), cache), token[0, 0]

    scan = jax.jit(lambda: jax.lax.scan(step, (first, empty_cache(config, 1, 1, steps)), jnp.arange(steps)))
    _, ids = scan()
    assert ids.tolist() == numbers["greedy_ids"]
