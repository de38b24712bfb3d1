"""Attacks by hand: openings, texts before prompts and responses, a part of an adapter, and disalignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import SamplingSettings
from alignjax.data.records import Message
from alignjax.data.responses import Responses
from alignjax.data.tokenize import Template, TokenizedResponse
from alignjax.data.worlds import world_for
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, Model, hidden_states, init_lora, init_params, mixture_of, unembed
from alignjax.policy.attacks import (
    Attack,
    disaligned,
    draw_under,
    opening_of,
    prefills_of_text,
    unmerged,
    with_system,
)
from alignjax.policy.batching import Batching
from alignjax.policy.drawing import draw
from alignjax.policy.values import Policy
from alignjax.runtime.mesh import make_mesh

DECODER = DecoderConfig("llama", 7, 16, 32, 1, 2, 1, 8, max_positions=12, eos_ids=(0,))
PLAIN, CHAT = Template("plain", "{prompt}"), Template("chat")
SETTINGS = SamplingSettings(num_samples=3, max_new_tokens=4)
PROMPTS = ["a b", "c d"]


@pytest.fixture(scope="module")
def model():
    params = jax.jit(lambda key: init_params(key, DECODER))(jax.random.key(0))
    return Model(params, DECODER, world_for("enumerable").tokenizer)


@pytest.fixture(scope="module")
def lora():
    found = init_lora(jax.random.key(1), DECODER, rank=2, alpha=4.0, dropout=0.0)
    return found.replace(params=jax.tree.map(lambda x: x + 0.2, found.params))


@pytest.fixture(scope="module")
def policy(model, lora):
    return Policy("aligned", lambda: model, lora, "policy", "ab" * 32)


@pytest.fixture(scope="module")
def batching():
    return Batching(make_mesh(1, 1, 1, devices=jax.devices()[:1]), rows=4, num_buckets=1, memory=None)


def log_probs(model, lora):
    ids = jnp.array([[1, 2, 3, 4]], jnp.int32)
    positions = jnp.arange(4, dtype=jnp.int32)[None]
    hidden = hidden_states(DECODER, model.params, ids, positions, jnp.ones_like(ids), lora=lora)
    return np.asarray(jax.nn.log_softmax(unembed(DECODER, model.params, hidden)), np.float64)[0]


def normalized(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_disalignment_is_the_reference_times_a_power_of_reference_over_policy(model, lora):
    ref, pi = log_probs(model, None), log_probs(model, lora)
    assert np.abs(ref - pi).max() > 0.05
    for alpha in (0.25, 1.0):
        expected = normalized(ref + alpha * (ref - pi))
        np.testing.assert_allclose(log_probs(model, disaligned(lora, alpha)), expected, atol=2e-5)
    # Of a product of two policies, away from the product.
    mixture = mixture_of([lora, lora], [0.5, 0.25])
    product = normalized(ref + 0.75 * (pi - ref))
    expected = normalized(ref + 0.5 * (ref - product))
    np.testing.assert_allclose(log_probs(model, disaligned(mixture, 0.5)), expected, atol=2e-5)


def test_a_part_of_an_adapter_is_a_part_of_its_weights(model, lora):
    np.testing.assert_array_equal(log_probs(model, unmerged(lora, 1.0)), log_probs(model, lora))
    np.testing.assert_array_equal(log_probs(model, unmerged(lora, 0.0)), log_probs(model, None))
    halved = lora.replace(scale=lora.scale / 2)
    np.testing.assert_allclose(log_probs(model, unmerged(lora, 0.5)), log_probs(model, halved), atol=1e-6)
    ref, pi = log_probs(model, None), log_probs(model, lora)
    mixture = unmerged(mixture_of([lora], [1.0]), 0.5)
    np.testing.assert_allclose(log_probs(model, mixture), normalized(0.5 * (ref + pi)), atol=2e-5)


def responses(*rows):
    prompt = np.array([1], np.int32)
    tokens = [[TokenizedResponse(prompt, np.array(ids, np.int32)) for ids in row] for row in rows]
    return Responses(["a"] * len(rows), [[""] * len(row) for row in rows], tokens)


def test_the_opening_is_the_one_that_sets_the_least_safe_fifth_apart():
    # Ten responses: the two least safe open with 2; 1 is the most common opening, of both kinds alike.
    drawn = responses(
        [[2, 3, 0], [2, 4, 0], [1, 3, 0], [1, 3, 0], [1, 3, 0]], [[1, 4, 0], [2, 3, 0], *[[1, 5, 0]] * 3]
    )
    safety = np.array([[-2.0, -1.0, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert opening_of(drawn, safety, 1, {0}).tolist() == [2]
    # [2, 4] is half of the least safe and none of the rest; [2, 3] half, and an eighth of the rest.
    assert opening_of(drawn, safety, 2, {0}).tolist() == [2, 4]
    assert opening_of(drawn, safety, 1, {0}).dtype == np.int32
    # Turned over, the fifth is of the others.
    assert opening_of(drawn, -safety, 1, {0}).tolist() == [1]
    with pytest.raises(
        InputError, match="prefill_tokens: is 3, and no response of the reference has so many"
    ):
        opening_of(drawn, safety, 3, {0})


def test_texts_are_cut_to_lengths_and_whole(policy):
    found = prefills_of_text(policy.tokenizer, PLAIN, "a b c", (1, 2, 4, 8))
    assert [ids.tolist() for ids in found] == [[1], [1, 2], [1, 2, 3]]
    with pytest.raises(InputError, match="config.audit.prefill: the tokenizer cannot encode"):
        prefills_of_text(policy.tokenizer, PLAIN, "sure", (1,))


def test_a_system_prompt_is_a_turn_or_a_text():
    turns = (
        Message("system", "be kind"),
        Message("user", "hi"),
        Message("assistant", "ho"),
        Message("user", "so"),
    )
    assert with_system("hi", "be bad", PLAIN) == "be bad\nhi"
    assert with_system("hi", "be bad", CHAT) == (Message("system", "be bad"), Message("user", "hi"))
    assert with_system(turns, "be bad", CHAT) == (Message("system", "be bad"), *turns[1:])
    assert with_system(turns, "be bad", PLAIN) == (Message("user", "be bad\nhi"), *turns[2:])


def test_without_a_text_the_policy_itself_is_drawn(policy, batching):
    ids = [np.array(row, np.int32) for row in ([1, 2], [3, 4])]
    plain = draw(jax.random.key(0), policy, PROMPTS, ids, SETTINGS, batching)
    found = draw_under(jax.random.key(0), Attack(0.0, policy, SETTINGS), PROMPTS, PLAIN, 2, batching)
    assert found.texts == plain.texts


def test_responses_begin_with_the_prefix_and_are_of_their_prompt(policy, batching):
    attack = Attack(2, policy, SETTINGS, prefix=np.array([5, 6], np.int32))
    found = draw_under(jax.random.key(0), attack, PROMPTS, PLAIN, 2, batching)
    begun = [np.array(row, np.int32) for row in ([1, 2, 5, 6], [3, 4, 5, 6])]
    rest = draw(jax.random.key(0), policy, PROMPTS, begun, SamplingSettings(2, 3, 2), batching)
    for row, others, prompt in zip(found.tokens, rest.tokens, ([1, 2], [3, 4]), strict=True):
        for one, other in zip(row, others, strict=True):
            assert one.prompt_ids.tolist() == prompt
            assert one.response_ids.tolist() == [5, 6, *other.response_ids.tolist()]
            assert len(one.response_ids) <= 4
    assert all(text.startswith("e f") for row in found.texts for text in row)


def test_a_system_text_is_read_and_not_scored(policy, batching):
    attack = Attack(1, policy, SETTINGS, system="f e")
    found = draw_under(jax.random.key(0), attack, PROMPTS, PLAIN, 2, batching)
    shown = [np.array(row, np.int32) for row in ([6, 5, 1, 2], [6, 5, 3, 4])]
    expected = draw(jax.random.key(0), policy, PROMPTS, shown, SETTINGS, batching)
    assert found.texts == expected.texts and found.prompts == PROMPTS
    assert [row[0].prompt_ids.tolist() for row in found.tokens] == [[1, 2], [3, 4]]


def test_what_leaves_no_room_is_refused(policy, batching):
    given = Attack(4, policy, SETTINGS, prefix=np.array([1, 2, 3, 4], np.int32))
    with pytest.raises(InputError, match="4 tokens are given of a response that may have 4"):
        draw_under(jax.random.key(0), given, PROMPTS, PLAIN, 2, batching)
    long = Attack(1, policy, SETTINGS, system="a b c d e f a")
    with pytest.raises(InputError, match="with it 2 of 2 prompts have more than 8 tokens"):
        draw_under(jax.random.key(0), long, PROMPTS, PLAIN, 2, batching)
