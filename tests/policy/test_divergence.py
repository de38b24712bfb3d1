"""KL by token against float64 sums over whole logits and against enumeration of every response."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.data.batches import Bucket, ResponseBatch, make_response_rows
from alignjax.data.shared_rows import RowShapes
from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, Model, init_lora, init_params
from alignjax.policy import completion_kl, response_kl, response_logps, sample
from alignjax.policy.divergence import response_divergences

CONFIG = DecoderConfig("llama", 5, 16, 32, 1, 2, 1, 8, tie_embeddings=True, eos_ids=(0,))
PROMPT, MOST = np.array([1, 2], np.int32), 4


@pytest.fixture(scope="module")
def model():
    return Model(init_params(jax.random.key(0), CONFIG), CONFIG)


@pytest.fixture(scope="module")
def lora():
    found = init_lora(jax.random.key(1), CONFIG, rank=2, alpha=4.0, dropout=0.0)
    return found.replace(params=jax.tree.map(lambda x: x + 0.3, found.params))


def whole_log_softmax(model, ids, lora):
    """[T, V] float64 of one document, whole logits."""
    ids = jnp.asarray(ids, jnp.int32)[None]
    positions = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
    logits = model.apply(model.params, ids, positions, jnp.ones_like(ids), lora=lora)
    logits = np.asarray(logits, np.float64)[0]
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def plain_kl(model, response, lora):
    """Of the policy with the adapter from the one without, a sum over positions."""
    ids = [*PROMPT, *response]
    p, q = (whole_log_softmax(model, ids, adapter) for adapter in (lora, None))
    return np.sum((np.exp(p) * (p - q))[len(PROMPT) - 1 : len(ids) - 1])


def responses_of(lists):
    return [TokenizedResponse(PROMPT, np.array(ids, np.int32)) for ids in lists]


def every_response():
    """All of at most four tokens that end with 0, and all of four that do not."""
    lists = []
    for length in range(1, MOST + 1):
        for body in itertools.product(range(1, 5), repeat=length - 1):
            lists += [[*body, 0]]
            lists += [[*body, last] for last in range(1, 5)] if length == MOST else []
    return responses_of(lists)


def test_it_is_the_sum_over_whole_logits(model, lora):
    lists = [[3, 4, 0], [0], [1, 1, 2, 3]]
    found = response_kl(model, model, responses_of(lists), lora=lora, batch_size=2)
    np.testing.assert_allclose(found, [plain_kl(model, ids, lora) for ids in lists], rtol=1e-5)
    assert (found > 0).all()


def test_responses_that_share_rows_have_what_they_have_alone(model, lora):
    """Two prompts, whose responses are scattered in the list; one of them is empty."""
    lists = [[3, 4, 0], [0], [1, 1, 2, 3], [], [2, 2, 0], [4, 0], [1, 3, 3, 0]]
    responses = responses_of(lists)
    for i in (1, 2, 5):
        responses[i] = responses[i]._replace(prompt_ids=np.array([3, 3, 1], np.int32))
    alone, shared = RowShapes(1, (Bucket(16, 8),)), RowShapes(4, (Bucket(8 + 4 * 5, 4 * 5),))
    wanted, found = (
        response_divergences(model, model, responses, lora=lora, batch_size=8, shapes=shapes)
        for shapes in (alone, shared)
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    logps = response_logps(model, responses, lora=lora, batch_size=4, shapes=shared)
    np.testing.assert_allclose(logps, wanted.logps, atol=1e-5)


def test_padding_adds_nothing_and_the_reference_is_at_no_distance(model, lora):
    rows = make_response_rows(responses_of([[3, 0]]), Bucket(16, 8), 2)
    batch = ResponseBatch(rows, np.array([1, 0], np.float32), np.arange(2, dtype=np.int32))
    found = np.asarray(completion_kl(model, model, batch, lora=lora))
    assert found[1] == 0 and found[0] == pytest.approx(plain_kl(model, [3, 0], lora), rel=1e-5)
    same = completion_kl(model, model, batch, lora=lora, reference_lora=lora)
    np.testing.assert_array_equal(same, np.zeros(2))


def test_its_mean_over_all_responses_is_the_divergence_and_its_variance_the_smaller_one(model, lora):
    """Every response is listed: mean and variance of kl, of the log-ratio x and of e^-x - 1 + x are sums."""
    listed = every_response()
    own = response_logps(model, listed, lora=lora, batch_size=128).astype(np.float64)
    ref = response_logps(model, listed, batch_size=128).astype(np.float64)
    kl, same, same_ref = response_divergences(model, model, listed, lora=lora, batch_size=128)
    for found, expected in ((same, own), (same_ref, ref)):  # the pass gives both log-probabilities as well
        np.testing.assert_allclose(found, expected, atol=1e-5)
    weights, ratio = np.exp(own), own - ref
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    exact = float(weights @ ratio)
    assert weights @ kl == pytest.approx(exact, rel=1e-4) and exact > 0.01
    spread = {
        name: weights @ (values - exact) ** 2
        for name, values in {"kl": kl, "ratio": ratio, "k3": np.expm1(-ratio) + ratio}.items()
    }
    assert spread["kl"] < spread["ratio"] and spread["kl"] < spread["k3"], spread


def test_on_samples_it_estimates_the_exact_sum(model, lora):
    listed = every_response()
    own = response_logps(model, listed, lora=lora, batch_size=128).astype(np.float64)
    ref = response_logps(model, listed, batch_size=128).astype(np.float64)
    exact = np.exp(own) @ (own - ref)
    drawn = sample(
        jax.random.key(2), model, [PROMPT], num_samples=512, max_new_tokens=MOST, temperature=1.0, top_p=1.0,
        lora=lora,
    )  # fmt: skip
    pairs = zip(drawn.tokens[0], drawn.lengths[0], strict=True)
    responses = responses_of([tokens[:length] for tokens, length in pairs])
    found = response_kl(model, model, responses, lora=lora, batch_size=128)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - exact) < 4 * error


def test_other_vocabularies_are_refused(model):
    other = DecoderConfig("llama", 6, 16, 32, 1, 2, 1, 8, tie_embeddings=True)
    bigger = Model(init_params(jax.random.key(0), other), other)
    with pytest.raises(InputError, match="vocabularies have 5 and 6 tokens"):
        response_kl(model, bigger, responses_of([[1, 0]]), batch_size=1)
