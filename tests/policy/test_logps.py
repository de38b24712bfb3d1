"""Log-probabilities against a plain float64 log-softmax of whole logits; memory; what padding can reach."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.data.batches import Bucket, PairBatch, ResponseBatch, Rows, make_pair_rows, make_response_rows
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, Model, hidden_states, init_lora, init_params, unembed
from alignjax.policy import logps as module
from alignjax.policy.logps import (
    completion_logps,
    pair_logps,
    pair_logps_jit,
    preference_logps,
    response_logps,
    slot_logps,
)

CONFIG = DecoderConfig("llama", 11, 16, 32, 2, 2, 1, 8, tie_embeddings=True, eos_ids=(2,))
PAIRS = [([1, 5, 6], [4, 2], [7, 8, 9, 2]), ([1], [3, 3, 3, 3, 2], [2]), ([1, 2, 3, 4, 5], [10, 2], [9, 2])]


@pytest.fixture(scope="module")
def model():
    return Model(init_params(jax.random.key(0), CONFIG), CONFIG)


@pytest.fixture(scope="module")
def lora():
    lora = init_lora(jax.random.key(1), CONFIG, rank=2, alpha=4.0, dropout=0.5)
    return lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))


def _ids(*lists):
    return [np.array(ids, np.int32) for ids in lists]


def _pair_batch(num_rows=4):
    rows = make_pair_rows([TokenizedPair(*_ids(*pair)) for pair in PAIRS], Bucket(16, 8), num_rows)
    zeros = np.zeros(num_rows, np.float32)
    return PairBatch(rows, zeros, zeros, zeros, zeros, zeros.astype(np.int32))


def _response_batch(pairs):
    rows = make_response_rows(
        [TokenizedResponse(*_ids(p, c)) for p, c, _ in pairs], Bucket(16, 8), len(pairs)
    )
    return ResponseBatch(rows, np.ones(len(pairs), np.float32), np.arange(len(pairs), dtype=np.int32))


@jax.jit
def _whole_logits(model, tokens, positions, segments, lora):
    return model.apply(model.params, tokens, positions, segments, lora=lora)


def plain_logps(model, prompt, response, lora=None):
    """One document, whole logits, float64 log-softmax."""
    ids = [*prompt, *response]
    tokens = np.zeros((1, 64), np.int32)  # one shape, one compilation
    tokens[0, : len(ids)] = ids
    positions = np.arange(64, dtype=np.int32)[None]
    segments = (positions < len(ids)).astype(np.int32)
    logits = np.asarray(_whole_logits(model, tokens, positions, segments, lora)[0, : len(ids)], np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return sum(log_probs[len(prompt) - 1 + t, token] for t, token in enumerate(response))


@pytest.mark.parametrize("rows", [1, 128], ids=["one column a chunk", "one chunk"])
def test_pairs_against_whole_logits(model, lora, rows, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_ROWS", rows)
    monkeypatch.setattr(module, "_CHUNK_LOGITS", 1)
    compiled = jax.jit(lambda model, batch, lora: pair_logps(model, batch, lora=lora))
    for adapter in (None, lora):
        chosen, rejected = compiled(model, _pair_batch(), adapter)
        assert chosen.dtype == rejected.dtype == jnp.float32
        expected = [[plain_logps(model, p, r, adapter) for r in (c, j)] for p, c, j in PAIRS]
        np.testing.assert_allclose(np.stack([chosen, rejected], 1)[:3], expected, atol=2e-5)
        assert float(chosen[3]) == float(rejected[3]) == 0.0  # a padding row


def test_responses_and_the_compiled_form_agree_with_pairs(model, lora):
    batch = _pair_batch()
    chosen, rejected = pair_logps(model, batch, lora=lora)
    compiled = pair_logps_jit(model, batch, lora=lora)
    np.testing.assert_allclose(np.stack(compiled), np.stack([chosen, rejected]), atol=1e-5)
    single = jax.jit(completion_logps)(model, _response_batch(PAIRS), lora=lora)
    np.testing.assert_allclose(single, chosen[:3], atol=1e-5)


def _unchunked(model, rows, num_slots, *, lora):
    hidden = hidden_states(
        model.config, model.params, rows.tokens, rows.positions, rows.segment_ids, rows.branch_ids, lora=lora
    )
    hidden = jnp.take_along_axis(hidden, rows.target_index[:, :, None], axis=1)
    log_probs = jax.nn.log_softmax(unembed(model.config, model.params, hidden))
    token = jnp.take_along_axis(log_probs, rows.targets[:, :, None], axis=2)[:, :, 0]
    return jnp.stack(
        [jnp.where(rows.target_slot == s, token, 0.0).sum(axis=1) for s in range(num_slots)], axis=1
    )


def test_gradients_of_chunks_equal_those_of_the_whole(model, lora, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_ROWS", 8)
    monkeypatch.setattr(module, "_CHUNK_LOGITS", 1)
    rows = Rows(*(jnp.asarray(x) for x in _pair_batch().rows))
    weights = jnp.array([[1.0, -0.5]])

    def total(logps, trees):
        params, adapter = trees
        value = logps(model.replace(params=params), rows, 2, lora=lora.replace(params=adapter))
        return jnp.sum(value * jnp.broadcast_to(weights, value.shape))

    trees = (model.params, lora.params)
    ours = jax.jit(jax.grad(lambda t: total(slot_logps, t)))(trees)
    plain = jax.jit(jax.grad(lambda t: total(_unchunked, t)))(trees)
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


def test_padding_reaches_neither_value_nor_gradient(model, monkeypatch):
    # The hidden states of padded targets are made nan: whatever lies in padding must not be read.
    rows = _pair_batch(3).rows
    np.asarray(rows.target_index)[np.asarray(rows.target_slot) < 0] = 15  # a padding token in every row
    plain = module.slot_logps_jit(CONFIG, model.params, None, rows, 2)

    def poisoned(config, params, tokens, positions, segment_ids, *rest, **options):
        hidden = hidden_states(config, params, tokens, positions, segment_ids, *rest, **options)
        return jnp.where((segment_ids > 0)[:, :, None], hidden, jnp.nan)

    monkeypatch.setattr(module, "hidden_states", poisoned)
    assert (rows.segment_ids[:, 15] == 0).all()
    total = jax.jit(jax.value_and_grad(lambda p: slot_logps(model.replace(params=p), rows, 2).sum()))
    value, gradient = total(model.params)
    np.testing.assert_allclose(value, plain.sum(), rtol=1e-6)
    assert np.isfinite(gradient["embedding"]).all()


def test_dropout_is_active_with_a_key_only(model, lora):
    batch = _pair_batch()
    off = np.asarray(pair_logps_jit(model, batch, lora=lora))
    with_key = jax.jit(lambda key: pair_logps(model, batch, lora=lora, dropout_key=key))
    on = np.asarray(with_key(jax.random.key(3)))
    assert np.abs(on - off)[:, :3].max() > 1e-3
    assert np.abs(on - np.asarray(with_key(jax.random.key(4))))[:, :3].max() > 1e-3
    np.testing.assert_array_equal(on, with_key(jax.random.key(3)))


@pytest.mark.parametrize(
    "vocab, rows, targets, width", [(49152, 4, 512, 32), (49152, 500, 7, 1), (11, 4, 30, 30)]
)
def test_chunk_width(vocab, rows, targets, width):
    # 128 rows of logits: 32 columns of 4 rows; never less than a column; a small vocabulary goes in one
    # piece.
    assert module.chunk_width(vocab, rows, targets) == width


def test_response_logps_keeps_the_order(model):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 25, size=(13, 2))
    responses = [
        TokenizedResponse(*(rng.integers(0, 11, n).astype(np.int32) for n in row)) for row in lengths
    ]
    done = []
    scores = response_logps(model, responses, batch_size=4, progress=done.append)
    assert sum(done) == 13 and scores.dtype == np.float32
    expected = [plain_logps(model, r.prompt_ids, r.response_ids) for r in (responses[i] for i in (0, 5, 12))]
    np.testing.assert_allclose(scores[[0, 5, 12]], expected, atol=5e-5)
    np.testing.assert_allclose(scores, response_logps(model, responses, batch_size=13), atol=5e-5)
    assert response_logps(model, [], batch_size=4).shape == (0,)
    with pytest.raises(InputError, match="batch_size is 0"):
        response_logps(model, responses, batch_size=0)


def test_preference_logps_are_those_of_each_response(model):
    rng = np.random.default_rng(1)
    pairs = [
        TokenizedPair(*(rng.integers(0, 11, n).astype(np.int32) for n in rng.integers(1, 12, 3)))
        for _ in range(9)
    ]
    done = []
    both = preference_logps(model, pairs, batch_size=4, progress=done.append)
    assert sum(done) == 9 and both.dtype == np.float32 and both.shape == (9, 2)
    for column in (0, 1):
        responses = [TokenizedResponse(pair[0], pair[1 + column]) for pair in pairs]
        np.testing.assert_allclose(both[:, column], response_logps(model, responses, batch_size=9), atol=5e-5)
    assert preference_logps(model, [], batch_size=4).shape == (0, 2)
    with pytest.raises(InputError, match="preference_logps: batch_size is 0"):
        preference_logps(model, pairs, batch_size=0)


def test_the_second_call_compiles_nothing(model):
    responses = [TokenizedResponse(*_ids(p, c)) for p, c, _ in PAIRS]
    response_logps(model, responses, batch_size=2)
    compiled: Any = module.shared_logps_jit  # jax's type does not declare _cache_size
    before = compiled._cache_size()
    response_logps(model, responses[::-1], batch_size=2)
    assert compiled._cache_size() == before


def test_memory_of_a_large_vocabulary():
    # SmolLM2-135M, 4 rows of 512 tokens: whole float32 logits take 384 MiB, and a quarter of it is allowed.
    config = DecoderConfig("llama", 49152, 576, 1536, 30, 9, 3, 64, tie_embeddings=True)
    params = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    shape: Any = jax.ShapeDtypeStruct((4, 512), jnp.int32)  # in place of an array
    rows = Rows(*[shape] * 7)
    compiled = module.slot_logps_jit.lower(config, params, None, rows, 1).compile()
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes <= 96 * 2**20
