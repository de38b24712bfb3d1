"""Sampling against full forward passes and against exact probabilities."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, Model, init_lora, init_params
from alignjax.policy import sampling
from alignjax.policy.logps import response_logps
from alignjax.policy.sampling import greedy, sample, sample_with_densities

CONFIG = DecoderConfig("qwen3", 11, 16, 32, 2, 4, 2, 8, qk_norm="head", eos_ids=(2, 9))
PROMPTS = [np.array(ids, np.int32) for ids in ([1, 3, 4], [5] * 20, [1], [1, 10, 7, 7, 8])]


@pytest.fixture(scope="module")
def model():
    return Model(init_params(jax.random.key(0), CONFIG), CONFIG)


@pytest.fixture(scope="module")
def lora():
    lora = init_lora(jax.random.key(1), CONFIG, rank=2, alpha=4.0)
    return lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))


def _next_logits(model, ids, lora=None):
    tokens = np.zeros((1, 32), np.int32)
    tokens[0, : len(ids)] = ids
    positions = jnp.arange(32, dtype=jnp.int32)[None]
    segments = (positions < len(ids)).astype(jnp.int32)
    logits = _apply(model.config, model.params, jnp.asarray(tokens), positions, segments, lora)
    return np.asarray(logits[0, len(ids) - 1], np.float64)


@jax.jit(static_argnums=0)
def _apply(config, params, tokens, positions, segments, lora):
    return Model(params, config).apply(params, tokens, positions, segments, lora=lora)


def _log_probs(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("adapted", [False, True])
def test_greedy_equals_a_loop_of_full_forward_passes(model, lora, adapted):
    adapter = lora if adapted else None
    found = greedy(model, PROMPTS, max_new_tokens=8, lora=adapter)
    assert found.tokens.shape == (4, 1, 8)
    for i, prompt in enumerate(PROMPTS):
        ids, logp = list(prompt), 0.0
        for _ in range(8):
            logits = _next_logits(model, ids, adapter)
            ids.append(int(np.argmax(logits)))
            logp += _log_probs(logits)[ids[-1]]
            if ids[-1] in CONFIG.eos_ids:
                break
        length = found.lengths[i, 0]
        assert found.tokens[i, 0, :length].tolist() == ids[len(prompt) :]
        assert (found.tokens[i, 0, length:] == 0).all()
        np.testing.assert_allclose(found.logps[i, 0], logp, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_p": 0.8}])
def test_ends_and_log_probabilities(model, lora, options):
    drawn = sample(jax.random.key(2), model, PROMPTS, num_samples=5, max_new_tokens=7, lora=lora, **options)
    stopped = 0
    responses = []
    for prompt, rows, lengths in zip(PROMPTS, drawn.tokens, drawn.lengths, strict=True):
        for row, length in zip(rows, lengths, strict=True):
            ends = np.isin(row[:length], CONFIG.eos_ids)
            assert not ends[:-1].any()  # goes on until an end ...
            assert length == 7 or ends[-1]  # ... or the limit
            assert (row[length:] == 0).all()
            stopped += bool(ends[-1])
            responses.append(TokenizedResponse(prompt, row[:length]))
    assert 0 < stopped < 20
    # Of the policy itself, whatever the samples were drawn with.
    scores = response_logps(model, responses, lora=lora, batch_size=20)
    np.testing.assert_allclose(drawn.logps.ravel(), scores, atol=1e-4)


def _frequencies(model, num, length, **options):
    """Counts of all first `length` tokens of `num` samples of one prompt: [11] * length."""
    config = dataclasses.replace(model.config, eos_ids=())
    drawn = sample(
        jax.random.key(5),
        model.replace(config=config),
        PROMPTS[:1],
        num_samples=num,
        max_new_tokens=length,
        **options,
    )
    assert (drawn.lengths == length).all()
    counts = np.zeros((11,) * length)
    np.add.at(counts, tuple(drawn.tokens[0].T), 1)
    return counts


def _nucleus(probs, top_p):
    order = np.argsort(-probs, kind="stable")
    before = np.cumsum(probs[order]) - probs[order]
    kept = np.zeros(len(probs), bool)
    kept[order[before < top_p]] = True
    return np.where(kept, probs, 0.0) / probs[kept].sum()


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.6, 1.0), (1.7, 0.75), (1.0, 0.01)])
def test_distribution_of_two_tokens(model, temperature, top_p):
    # Every two-token response has a known probability; 20,000 samples must look like it (chi-square, a
    # deviation this large has probability 1e-4), and what is outside the nucleus never occurs.
    counts = _frequencies(model, 20_000, 2, temperature=temperature, top_p=top_p)
    prompt = list(PROMPTS[0])
    policy = [
        _nucleus(np.exp(_log_probs(_next_logits(model, prompt + more) / temperature)), top_p)
        for more in [[], *([i] for i in range(11))]
    ]
    probs = policy[0][:, None] * np.stack(policy[1:])
    assert (counts[probs == 0] == 0).all()
    expected = probs[probs > 0] * 20_000
    common = expected >= 5
    seen = np.append(counts[probs > 0][common], counts[probs > 0][~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    keep = wanted > 0
    statistic = ((seen - wanted)[keep] ** 2 / wanted[keep]).sum()
    assert statistic <= stats.chi2.isf(1e-4, max(keep.sum() - 1, 1))


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.6, 1.0), (1.7, 0.75), (1.0, 0.4), (0.3, 0.01)])
def test_log_probabilities_under_the_distribution_drawn_from(model, temperature, top_p):
    options: dict[str, Any] = {"num_samples": 6, "max_new_tokens": 4}
    options |= {"temperature": temperature, "top_p": top_p}
    drawn, densities = sample_with_densities(3, model, PROMPTS, prompt_batch_size=3, **options)
    plain = sample(3, model, PROMPTS, prompt_batch_size=3, **options)
    for field, same in zip(drawn, plain, strict=True):  # asking for them changes nothing else
        np.testing.assert_array_equal(field, same)
    for i, prompt in enumerate(PROMPTS):
        for k in range(6):
            ids, expected = list(prompt), 0.0
            for token in drawn.tokens[i, k, : drawn.lengths[i, k]]:
                probs = np.exp(_log_probs(_next_logits(model, ids) / temperature))
                expected += np.log(_nucleus(probs, top_p)[token])
                ids.append(int(token))
            np.testing.assert_allclose(densities[i, k], expected, atol=1e-4)
    if top_p == 0.01:
        np.testing.assert_allclose(densities, 0.0, atol=1e-5)  # the likeliest token alone


def test_draws_do_not_depend_on_the_batch(model):
    options: dict[str, Any] = {"num_samples": 3, "max_new_tokens": 6, "top_p": 0.95}
    whole = sample(jax.random.key(3), model, PROMPTS, **options)
    one = sample(jax.random.key(3), model, PROMPTS, prompt_batch_size=1, **options)
    np.testing.assert_array_equal(whole.tokens, one.tokens)
    np.testing.assert_allclose(whole.logps, one.logps, atol=1e-5)
    # Another number of samples keeps those that both have; another key changes them.
    fewer = sample(jax.random.key(3), model, PROMPTS, **{**options, "num_samples": 2})
    np.testing.assert_array_equal(whole.tokens[:, :2], fewer.tokens)
    other = sample(jax.random.key(4), model, PROMPTS, **options)
    assert (other.tokens != whole.tokens).any()
    assert len({tuple(row) for row in whole.tokens[1]}) > 1  # samples of one prompt differ


def test_the_rest_of_a_list_is_drawn_as_with_the_whole_of_it(model):
    options: dict[str, Any] = {"num_samples": 3, "max_new_tokens": 6}
    whole = sample(jax.random.key(3), model, PROMPTS, **options)
    kept = {}
    rest = sample(
        jax.random.key(3),
        model,
        [PROMPTS[3], PROMPTS[1]],
        places=[3, 1],
        prompt_batch_size=1,
        keep=lambda rows, found: kept.update({row: found for row in rows}),
        **options,
    )
    np.testing.assert_array_equal(rest.tokens, whole.tokens[[3, 1]])
    assert sorted(kept) == [0, 1]
    np.testing.assert_array_equal(kept[1].tokens, whole.tokens[[1]])
    with pytest.raises(InputError, match="^sample: 1 places for 4 prompts; give one each"):
        sample(jax.random.key(3), model, PROMPTS, places=[0], **options)


def test_progress_and_one_token(model):
    done = []
    drawn = sample(
        jax.random.key(0),
        model,
        PROMPTS,
        num_samples=2,
        max_new_tokens=1,
        prompt_batch_size=2,
        progress=done.append,
    )
    assert sum(done) == 4 and drawn.tokens.shape == (4, 2, 1) and (drawn.lengths == 1).all()


def test_the_tokenizers_end_counts(model):
    class Tokenizer:
        eos_token_id = 4
        chat_template = None

    tokenizer: Any = Tokenizer()  # all that is read of one
    assert sampling.end_ids(Model(None, CONFIG, tokenizer)) == (2, 4, 9)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_samples": 0}, "num_samples is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0. For the mode use greedy"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"prompt_batch_size": 0}, "prompt_batch_size is 0"),
        ({"prompts": [np.array([], np.int32)]}, "prompt 0 has no tokens"),
        (
            {"prompts": [PROMPTS[0], np.array([11], np.int32)]},
            "prompt 1 has id 11; the vocabulary has 11 ids",
        ),
    ],
)
def test_refused(model, changes, message):
    options = {"prompts": PROMPTS, "num_samples": 1, "max_new_tokens": 1} | changes
    prompts = options.pop("prompts")
    with pytest.raises(InputError, match=message):
        sample(jax.random.key(0), model, prompts, **options)
