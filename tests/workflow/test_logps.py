"""Log-probabilities that are kept: computed once, by token ids and policy, in memory or in a folder."""

import jax
import numpy as np
import pytest

from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import init_lora, merge_lora
from alignjax.policy import divergence
from alignjax.policy import known_logps as module
from alignjax.policy.known_logps import (
    LogpsCache,
    distinct,
    kl_of_responses,
    logps_of_pairs,
    logps_of_responses,
)


@pytest.fixture
def computed(monkeypatch):
    """Of every computation its policy's name and how many pairs or responses."""
    seen = []
    pairs, responses = module.logps_of_pairs, module.logps_of_responses
    monkeypatch.setattr(
        module, "logps_of_pairs", lambda p, t, b, **k: seen.append((p.name, len(t))) or pairs(p, t, b, **k)
    )
    monkeypatch.setattr(
        module, "logps_of_responses", lambda p, d, b: seen.append((p.name, len(d.flat))) or responses(p, d, b)
    )
    return seen


@pytest.fixture(scope="module")
def drawn(pairs):
    rows = [
        [TokenizedResponse(p.prompt_ids, ids) for ids in (p.chosen_ids, p.rejected_ids)] for p in pairs[:3]
    ]
    return Responses(["a", "b", "c"], [["", ""]] * 3, rows)


def by_token(policy, pairs):
    """Sums over tokens of the log-softmax of whole logits, float64, of both responses of pairs: [n, 2]."""
    ids = np.array([[*pair.prompt_ids, *response] for pair in pairs for response in pair[1:]], np.int32)
    positions = np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
    apply = jax.jit(lambda m: m.apply(m.params, ids, positions, np.ones_like(ids)))
    logits = np.asarray(apply(policy.model), np.float64)[:, 1:-1]  # prompts have two tokens
    chances = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.take_along_axis(chances, ids[:, 2:, None], axis=-1).sum(axis=(1, 2)).reshape(-1, 2)


def test_values_are_sums_over_tokens(reference, pairs, batching, drawn):
    found = logps_of_pairs(reference, pairs, batching)
    expected = by_token(reference, pairs)
    assert found.shape == (6, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    responses = logps_of_responses(reference, drawn, batching)
    assert responses.dtype == np.float64
    np.testing.assert_allclose(responses, expected[:3], atol=1e-4)


def test_adapters_are_applied(reference, pairs, batching, model):
    lora = init_lora(jax.random.key(1), model.config, rank=2, alpha=4.0)
    moved = lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))
    adapted = reference._replace(name="adapted", lora=moved)
    found = logps_of_pairs(adapted, pairs, batching)
    merged = model.replace(params=merge_lora(model.params, moved))
    expected = logps_of_pairs(reference._replace(load=lambda: merged), pairs, batching)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - logps_of_pairs(reference, pairs, batching)).max() > 0.01


def test_pairs_are_computed_once(reference, pairs, batching, computed):
    cache = LogpsCache(batching)
    first = cache.of_pairs(reference, pairs[:3])
    np.testing.assert_array_equal(cache.of_pairs(reference, pairs[:3]), first)
    assert computed == [("reference", 3)]
    # Of six pairs three are known, and the last is the first.
    found = cache.of_pairs(reference, pairs)
    assert computed == [("reference", 3), ("reference", 2)]
    np.testing.assert_array_equal(found[:3], first)
    np.testing.assert_array_equal(found[5], first[0])
    np.testing.assert_allclose(found, logps_of_pairs(reference, pairs, batching), atol=1e-5)
    np.testing.assert_array_equal(cache.of_pairs(reference, pairs[2::-1]), first[::-1])


def test_equal_pairs_of_one_call_are_computed_once(reference, pairs, batching, computed):
    found = LogpsCache(batching).of_pairs(reference, [pairs[0], pairs[5], pairs[0]])
    assert computed == [("reference", 1)] and (found == found[0]).all()


def test_a_pair_is_known_by_its_three_parts(reference, batching, computed):
    # The same tokens, divided differently.
    cuts = [(1, 2, 3), (2, 1, 3), (1, 3, 2)]
    ids = np.array([1, 2, 3, 4, 5, 0], np.int32)
    cut = [TokenizedPair(ids[:a], ids[a : a + b], ids[a + b :]) for a, b, _ in cuts]
    found = LogpsCache(batching).of_pairs(reference, cut)
    assert computed == [("reference", 3)] and len({tuple(row) for row in found.tolist()}) == 3


def test_policies_are_apart_by_name_and_fingerprint(reference, other, pairs, batching, computed):
    cache = LogpsCache(batching)
    for policy in (reference, other, reference._replace(fingerprint="ef" * 32), reference):
        cache.of_pairs(policy, pairs[:1])
    assert computed == [("reference", 1), ("other", 1), ("reference", 1)]


def test_no_pairs_have_no_log_probabilities(reference, batching, computed):
    found = LogpsCache(batching).of_pairs(reference, [])
    assert found.shape == (0, 2) and found.dtype == np.float32 and computed == []


def test_values_from_elsewhere_are_remembered(reference, pairs, batching, computed):
    cache = LogpsCache(batching)
    given = np.array([[-1.0, -2.0], [-3.0, -4.0]], np.float32)
    cache.remember(reference, pairs[:2], given)
    np.testing.assert_array_equal(cache.of_pairs(reference, pairs[1::-1]), given[::-1])
    assert computed == []


def test_a_folder_outlives_the_process(reference, other, pairs, batching, computed, tmp_path):
    first = LogpsCache(batching, tmp_path).of_pairs(reference, pairs[:2])
    found = LogpsCache(batching, tmp_path).of_pairs(reference, pairs[:3])
    np.testing.assert_array_equal(found[:2], first)
    LogpsCache(batching, tmp_path).of_pairs(other, pairs[:1])
    assert computed == [("reference", 2), ("reference", 1), ("other", 1)]
    np.testing.assert_array_equal(LogpsCache(batching, tmp_path).of_pairs(reference, pairs[:3]), found)
    assert len(computed) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"logps-other-{'cd' * 8}.npz", f"logps-reference-{'ab' * 8}.npz",
    ]  # fmt: skip
    # Without a folder nothing of this is known.
    LogpsCache(batching).of_pairs(reference, pairs[:3])
    assert computed[-1] == ("reference", 3)


def test_a_damaged_file_is_refused_with_a_remedy(reference, pairs, batching, tmp_path):
    LogpsCache(batching, tmp_path).of_pairs(reference, pairs[:2])
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[content.index(b"\x93NUMPY") + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"logps-reference-\w*\.npz: damaged .*remove it to have it computed"
    ):
        LogpsCache(batching, tmp_path).of_pairs(reference, pairs[:2])


def test_responses_are_known_by_the_draw(reference, other, batching, drawn, computed):
    cache = LogpsCache(batching)
    first = cache.of_responses(reference, drawn)
    assert cache.of_responses(reference, Responses(*drawn)) is first  # another object of the same tokens
    cache.of_responses(other, drawn)
    cache.of_responses(reference, Responses(drawn.prompts[:2], drawn.texts[:2], drawn.tokens[:2]))
    assert computed == [("reference", 6), ("other", 6), ("reference", 4)]
    # The same responses to other prompts are others.
    moved = [[one._replace(prompt_ids=one.prompt_ids[:1]) for one in row] for row in drawn.tokens]
    cache.of_responses(reference, drawn._replace(tokens=moved))
    assert computed[-1] == ("reference", 6)
    cache.remember_responses(other, drawn, first)
    np.testing.assert_array_equal(cache.of_responses(other, drawn), first)
    assert len(computed) == 4


def test_equal_responses_to_one_prompt_are_computed_once(reference, other, batching, drawn):
    rows = drawn.tokens
    repeated = drawn._replace(tokens=[[*row, row[0], row[1], row[0]] for row in rows])
    flat, places = distinct(repeated.flat)
    assert places.tolist() == [0, 1, 0, 1, 0, 2, 3, 2, 3, 2, 4, 5, 4, 5, 4]
    assert all(a is b for a, b in zip(flat, drawn.flat, strict=True))
    found = logps_of_responses(reference, repeated, batching)
    once = logps_of_responses(reference, drawn, batching)
    np.testing.assert_array_equal(found, once[:, [0, 1, 0, 1, 0]])
    kl = kl_of_responses(other, reference, repeated, batching)
    np.testing.assert_array_equal(kl, kl_of_responses(other, reference, drawn, batching)[:, [0, 1, 0, 1, 0]])


def test_a_pass_for_the_divergence_gives_both_log_probabilities(
    reference, other, batching, drawn, computed, monkeypatch
):
    cache = LogpsCache(batching)
    found = cache.kl_of_responses(other, reference, drawn)
    np.testing.assert_array_equal(found, kl_of_responses(other, reference, drawn, batching))
    kept = [cache.of_responses(policy, drawn) for policy in (other, reference)]
    assert computed == []
    for policy, values in zip((other, reference), kept, strict=True):
        np.testing.assert_allclose(values, logps_of_responses(policy, drawn, batching), atol=1e-5)
    # The reference is at no distance from itself, and nothing is computed for it.
    monkeypatch.setattr(module, "divergences_of_responses", None)
    np.testing.assert_array_equal(cache.kl_of_responses(reference, reference, drawn), np.zeros((3, 2)))


def test_the_divergence_from_the_reference(reference, other, batching, drawn):
    found = kl_of_responses(other, reference, drawn, batching)
    expected = divergence.response_kl(
        other.model,
        reference.model,
        drawn.flat,
        batch_size=4,
        shapes=batching.response_shapes(other.model.config, drawn.flat),
        mesh=batching.mesh,
    )
    assert found.shape == (3, 2) and found.dtype == np.float64 and (found > 0).all()
    np.testing.assert_array_equal(found.ravel(), expected.astype(np.float64))
