"""Scores of any number of responses; calibration error by hand."""

from typing import Any

import jax
import numpy as np
import pytest

from alignjax.data.batches import Bucket, ResponseBatch, make_response_rows
from alignjax.data.shared_rows import RowShapes
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Model,
    decoder_shardings,
    init_lora,
    init_params,
    init_score_model,
    place_head,
    response_scores,
)
from alignjax.runtime.mesh import make_mesh
from alignjax.scores import learned as module
from alignjax.scores.learned import expected_calibration_error, learned_pair_scores, learned_scores

CONFIG = DecoderConfig("llama", 11, 16, 32, 2, 2, 1, 8)
WIDE = [Bucket(32, 16)]
ONE = RowShapes(1, (Bucket(32, 16),))  # one response per row


@pytest.fixture(scope="module")
def model():
    policy = Model(jax.jit(lambda key: init_params(key, CONFIG))(jax.random.key(0)), CONFIG)
    model = init_score_model(jax.random.key(1), policy, kind="cost")
    head = {"kernel": 10 * model.params["head"]["kernel"], "bias": model.params["head"]["bias"] - 0.5}
    return model.replace(params=model.params | {"head": head})


@pytest.fixture(scope="module")
def responses():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 12, (13, 2))
    return [TokenizedResponse(*(rng.integers(0, 11, n).astype(np.int32) for n in row)) for row in sizes]


@pytest.fixture(scope="module")
def alone(model, responses):
    """Each response's score, all in one batch of one shape: [13]."""
    batch = ResponseBatch(
        make_response_rows(responses, WIDE[0], 13), np.ones(13, np.float32), np.arange(13, dtype=np.int32)
    )
    return np.asarray(jax.jit(response_scores)(model, batch))


def test_scores_in_the_order_given(model, responses, alone):
    done = []
    scores = learned_scores(model, responses, batch_size=4, shapes=ONE, progress=done.append)
    assert done == [4, 4, 4, 1] and scores.dtype == np.float32 and scores.shape == (13,)
    np.testing.assert_allclose(scores, alone, atol=1e-5)
    assert np.ptp(alone) > 0.5  # an order by mistake would be seen
    np.testing.assert_allclose(learned_scores(model, responses, batch_size=99), alone, atol=1e-5)


def test_responses_that_share_rows_have_the_scores_that_they_have_alone(model, responses):
    """Three prompts, whose responses are scattered in the list; one of them is empty."""
    prompts = [responses[i].prompt_ids for i in (0, 1, 2)]
    several = [TokenizedResponse(prompts[i % 3], r.response_ids) for i, r in enumerate(responses)]
    several[4] = several[4]._replace(response_ids=np.zeros(0, np.int32))
    wanted = learned_scores(model, several, batch_size=13, shapes=ONE)
    done = []
    shapes = RowShapes(4, (Bucket(12 + 4 * 12, 4 * 12),))
    found = learned_scores(model, several, batch_size=8, shapes=shapes, progress=done.append)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    # The prompts have 5, 4 and 4 responses: four rows, two a batch.
    assert sum(done) == 13 and len(done) == 2
    mesh = make_mesh(4, 2, 1)
    placed = model.replace(
        params=jax.device_put(model.params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    )
    np.testing.assert_allclose(
        learned_scores(placed, several, batch_size=16, shapes=shapes, mesh=mesh), wanted, atol=1e-5
    )


def test_four_devices_agree_with_one(model, responses, alone):
    mesh = make_mesh(2, 2, 1, devices=jax.devices()[:4])
    shardings = decoder_shardings(CONFIG, mesh, where="model")
    decoder = jax.device_put(model.params["decoder"], {k: v for k, v in shardings.items() if k != "head"})
    placed = model.replace(params={"decoder": decoder, "head": place_head(model.params["head"], mesh)})
    scores = learned_scores(placed, responses, batch_size=4, shapes=ONE, mesh=mesh)
    np.testing.assert_allclose(scores, alone, atol=1e-4)
    pairs = [TokenizedPair(r.prompt_ids, r.response_ids, r.response_ids[::-1]) for r in responses]
    scores = learned_pair_scores(placed, pairs, batch_size=16, buckets=[Bucket(48, 32)], mesh=mesh)
    np.testing.assert_allclose(scores[:, 0], alone, atol=1e-4)


def test_pairs_have_the_scores_of_their_responses(model, responses, alone):
    pairs = [TokenizedPair(r.prompt_ids, r.response_ids, r.response_ids[::-1]) for r in responses]
    done = []
    scores = learned_pair_scores(model, pairs, batch_size=5, buckets=[Bucket(48, 32)], progress=done.append)
    assert sum(done) == 13 and scores.dtype == np.float32 and scores.shape == (13, 2)
    np.testing.assert_allclose(scores[:, 0], alone, atol=1e-5)
    turned = [TokenizedResponse(p.prompt_ids, p.rejected_ids) for p in pairs]
    separate = learned_scores(model, turned, batch_size=4, shapes=ONE)
    np.testing.assert_allclose(scores[:, 1], separate, atol=1e-5)
    np.testing.assert_allclose(learned_pair_scores(model, pairs, batch_size=13), scores, atol=1e-5)


def test_adapters_are_applied(model, responses, alone):
    lora = init_lora(jax.random.key(2), model.config, rank=2, alpha=4.0)
    moved = lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))
    scores = learned_scores(model, responses, lora=moved, batch_size=4, shapes=ONE)
    assert np.abs(scores - alone).max() > 1e-2


def test_the_second_call_compiles_nothing(model, responses):
    compiled: Any = module.response_scores_jit  # jax's type does not declare _cache_size
    learned_scores(model, responses, batch_size=4, shapes=ONE)
    before = compiled._cache_size()
    learned_scores(model.replace(tokenizer=None), responses[::-1], batch_size=4, shapes=ONE)
    assert compiled._cache_size() == before


def test_nothing_to_score(model):
    assert learned_scores(model, [], batch_size=4).shape == (0,)
    assert learned_pair_scores(model, [], batch_size=4).shape == (0, 2)


def test_errors(model, responses):
    with pytest.raises(InputError, match="learned_scores: batch_size is 0; it must be at least 1"):
        learned_scores(model, responses, batch_size=0)
    with pytest.raises(InputError, match="learned_pair_scores: batch_size is -1"):
        learned_pair_scores(model, [], batch_size=-1)
    # Token 7 alone has an embedding that is not finite.
    decoder = model.params["decoder"]
    embedding = decoder["embedding"].at[7].set(np.inf)
    spoilt = model.replace(params=model.params | {"decoder": decoder | {"embedding": embedding}})
    clean, bad = np.array([1, 2], np.int32), np.array([7, 2], np.int32)
    some = [TokenizedResponse(clean, clean)] * 5 + [TokenizedResponse(clean, bad)]
    with pytest.raises(InputError, match="learned_scores: response 5 scores nan; check the weights"):
        learned_scores(spoilt, some, batch_size=4, shapes=ONE)
    pairs = [TokenizedPair(clean, clean, clean), TokenizedPair(clean, clean, bad)]
    with pytest.raises(InputError, match="learned_pair_scores: pair 1 scores nan, nan; check"):
        learned_pair_scores(spoilt, pairs, batch_size=5, buckets=[Bucket(48, 32)])


def test_calibration_error_by_hand():
    """Ten bins: 0.62 and 0.68 share one, mean 0.65 against 1/2: 0.15. 0.05 against 0: 0.05. 1.0 against 1: 0.

    (2 * 0.15 + 0.05 + 0) / 4 = 0.0875. In one bin the mean 0.5875 is against 1/2: 0.0875 too; in two bins
    (0.05 + |2.3 - 2|) / 4, the same, since no bin mixes signs. 0.9 at label 0 with 0.1 at label 1 mix.
    """
    p, y = np.array([0.62, 0.68, 0.05, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    for bins in (10, 2, 1):
        np.testing.assert_allclose(expected_calibration_error(p, y, bins), 0.0875, atol=1e-12)
    mixed = np.array([0.9, 0.1]), np.array([0.0, 1.0])
    np.testing.assert_allclose(expected_calibration_error(*mixed, bins=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(expected_calibration_error(*mixed), 0.9, atol=1e-12)
    # 1 is in the last bin, with 0.92: |1 - 0.88 + 0.92 - 1| / 2 = 0.02.
    last = np.array([1.0, 0.92]), np.array([0.88, 1.0])
    np.testing.assert_allclose(expected_calibration_error(*last), 0.02, atol=1e-12)


def test_calibrated_and_over_confident_probabilities():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20000)
    p = 1 / (1 + np.exp(-logits))
    labels = (rng.random(20000) < p).astype(float)
    # A bin's mean is known to about 0.5 / sqrt(2000) = 0.011.
    assert expected_calibration_error(p, labels) < 0.02
    assert expected_calibration_error(1 / (1 + np.exp(-3 * logits)), labels) > 0.1
    assert expected_calibration_error(p, p) == 0  # soft labels


@pytest.mark.parametrize(
    ("p", "y", "bins", "message"),
    [
        ([0.5], [1.0, 0.0], 10, r"probabilities \(1,\) and labels \(2,\) must both be \[n\]"),
        ([], [], 10, r"must both be \[n\], with n >= 1"),
        ([0.5], [1.0], 0, "bins is 0; it must be at least 1"),
        ([0.5, 1.5], [1.0, 0.0], 10, r"probability 1 is 1.5; must be in \[0, 1\]"),
        ([0.5], [np.nan], 10, "label 0 is nan"),
    ],
)
def test_what_has_no_calibration_error(p, y, bins, message):
    with pytest.raises(InputError, match=message):
        expected_calibration_error(np.array(p), np.array(y), bins)
