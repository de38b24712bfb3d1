"""Sampling, log-probabilities and divergence of mixtures against enumeration, and on eight devices."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from alignjax.data.tokenize import TokenizedResponse
from alignjax.data.worlds import world_for
from alignjax.data.worlds.world import Enumeration
from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Model,
    caches,
    decoder_shardings,
    init_lora,
    init_params,
    mixture_of,
    place_lora,
)
from alignjax.policy import response_kl, response_logps, sample
from alignjax.policy.sampling import greedy, sampled_responses
from alignjax.policy.values import Policy
from alignjax.runtime.mesh import make_mesh

CONFIG = DecoderConfig("llama", 7, 16, 32, 2, 4, 2, 4, eos_ids=(0,))
WEIGHTS = (1.5, -0.75, 0.4)
PROMPTS = [np.array(ids, np.int32) for ids in ([1, 3, 4], [5] * 20, [1], [1, 2, 6, 6, 3])]
LISTED = world_for("enumerable").enumeration
assert LISTED is not None
WORLD: Enumeration = LISTED


@pytest.fixture(scope="module")
def model():
    return Model(init_params(jax.random.key(0), CONFIG), CONFIG)


@pytest.fixture(scope="module")
def adapters():
    def make(seed):
        keys = iter(jax.random.split(jax.random.key(seed), 20))
        lora = init_lora(next(keys), CONFIG, rank=seed, alpha=2.0)
        moved = jax.tree.map(lambda x: 0.4 * jax.random.normal(next(keys), x.shape), lora.params)
        return lora.replace(params=moved)

    return [make(seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def mixture(adapters):
    return mixture_of(adapters, WEIGHTS)


def _listed(prompt):
    """All 1,555 responses of the world to a prompt."""
    return [
        TokenizedResponse(prompt, tokens[:length])
        for tokens, length in zip(WORLD.tokens, WORLD.lengths, strict=True)
    ]


def _next_logits(model, prompt, lora):
    """Logits [7] float64 after every prefix of fewer than four symbols, one body at a time."""
    prefixes = [p for length in range(4) for p in itertools.product(range(1, 7), repeat=length)]
    tokens = np.zeros((len(prefixes), len(prompt) + 3), np.int32)
    for row, prefix in zip(tokens, prefixes, strict=True):
        row[: len(prompt) + len(prefix)] = [*prompt, *prefix]
    at = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    logits = jax.jit(lambda *rows: Model(model.params, CONFIG).apply(model.params, *rows, lora=lora))(
        jnp.asarray(tokens), jnp.asarray(at), jnp.ones(tokens.shape, jnp.int32)
    )
    last = [len(prompt) + len(prefix) - 1 for prefix in prefixes]
    rows = np.asarray(logits, np.float64)[np.arange(len(prefixes)), last]
    return dict(zip(prefixes, rows, strict=True))


def test_the_product_is_exact_on_a_world_that_can_be_listed(model, adapters, mixture):
    prompt = np.array([1, 2], np.int32)
    found = response_logps(model, _listed(prompt), lora=mixture, batch_size=311).astype(np.float64)
    assert float(np.log(np.exp(found).sum())) == pytest.approx(0.0, abs=1e-4)
    reference, *others = (_next_logits(model, prompt, lora) for lora in (None, *adapters))
    steps = {
        prefix: log_softmax(
            logits + sum(w * (one[prefix] - logits) for w, one in zip(WEIGHTS, others, strict=True))
        )
        for prefix, logits in reference.items()
    }
    exact = [
        sum(steps[tuple(tokens[:t].tolist())][tokens[t]] for t in range(length))
        for tokens, length in zip(WORLD.tokens, WORLD.lengths, strict=True)
    ]
    np.testing.assert_allclose(found, exact, atol=1e-4)
    plain = response_logps(model, _listed(prompt), batch_size=311)
    assert np.sum(np.exp(exact) * (exact - plain)) > 0.3  # the product is another distribution
    # Divergence along all responses, weighted by their probabilities: that of the whole distributions.
    kl = response_kl(model, model, _listed(prompt), lora=mixture, batch_size=311)
    np.testing.assert_allclose(np.sum(np.exp(exact) * kl), np.sum(np.exp(exact) * (exact - plain)), atol=1e-4)


def test_samples_have_the_densities_of_the_product(model, mixture):
    draws = sample(3, model, PROMPTS, num_samples=40, max_new_tokens=4, lora=mixture)
    scores = response_logps(model, sampled_responses(PROMPTS, draws), lora=mixture, batch_size=40)
    np.testing.assert_allclose(draws.logps.ravel(), scores, atol=1e-4)
    # The mean of -log p is the entropy: within five standard errors of 2,000 draws.
    many = sample(4, model, [PROMPTS[0]], num_samples=2000, max_new_tokens=4, lora=mixture).logps
    exact = response_logps(model, _listed(PROMPTS[0]), lora=mixture, batch_size=311).astype(np.float64)
    error = abs(-np.mean(many) + np.sum(np.exp(exact) * exact))
    assert error < 5 * np.std(many) / 2000**0.5


def test_draws_do_not_depend_on_the_batch(model, mixture):
    options: dict[str, Any] = {"num_samples": 3, "max_new_tokens": 5, "lora": mixture}
    together = sample(5, model, PROMPTS, **options)
    apart = sample(5, model, PROMPTS, prompt_batch_size=1, **options)
    np.testing.assert_array_equal(together.tokens, apart.tokens)
    np.testing.assert_allclose(together.logps, apart.logps, atol=1e-5)


def test_one_adapter_of_weight_one_draws_as_the_adapter_does(model, adapters):
    options: dict[str, Any] = {"num_samples": 4, "max_new_tokens": 5}
    for lora, same in ((mixture_of(adapters[:1], [1.0]), adapters[0]), (mixture_of(adapters, [0] * 3), None)):
        found, expected = (sample(6, model, PROMPTS, lora=one, **options) for one in (lora, same))
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.logps, expected.logps, atol=1e-5)


@pytest.mark.parametrize("scanned", [False, True])
def test_on_a_mesh(model, adapters, scanned, monkeypatch):
    if scanned:  # caches of all layers in one array
        monkeypatch.setattr(caches, "_UNSCANNED_WEIGHTS", 0)
        jax.clear_caches()
    mesh = make_mesh(2, 2, 2)
    placed = jax.device_put(model.params, decoder_shardings(CONFIG, mesh, where="model"))
    many = model.replace(params=placed)
    on_mesh = mixture_of([place_lora(lora, mesh) for lora in adapters], WEIGHTS)
    alone = mixture_of(adapters, WEIGHTS)
    found = greedy(many, PROMPTS, lora=on_mesh, mesh=mesh, max_new_tokens=5)
    expected = greedy(model, PROMPTS, lora=alone, max_new_tokens=5)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.logps, expected.logps, atol=1e-4)
    responses = sampled_responses(PROMPTS, found)
    np.testing.assert_allclose(
        response_logps(many, responses, lora=on_mesh, batch_size=4, mesh=mesh),
        response_logps(model, responses, lora=alone, batch_size=4),
        atol=1e-4,
    )


def test_a_policy_of_several_adapters_is_not_one_adapter(model, mixture, adapters):
    policy = Policy("dial", lambda: model, mixture, "dial", "ab" * 32)
    with pytest.raises(InputError, match="dial: is a mixture of 3 adapters, where one is needed"):
        _ = policy.adapter
    assert policy._replace(lora=adapters[0]).adapter is adapters[0]
    assert policy._replace(lora=None).adapter is None
