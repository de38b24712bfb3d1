"""Rows that take the next sample when they have ended: the samples are those of whole forward passes."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from alignjax.models import DecoderConfig, Model, caches, init_params
from alignjax.policy import batch_sizing, refill, response_logps, sample
from alignjax.policy.batch_sizing import Grid
from alignjax.policy.sampling import sample_with_densities, sampled_responses

# A window that is shorter than prompts and responses, in one of the two layers.
CONFIG = DecoderConfig(
    "qwen3",
    11,
    16,
    32,
    2,
    4,
    2,
    8,
    qk_norm="head",
    eos_ids=(2, 9),
    sliding_window=4,
    window_layers=(True, False),
)
PROMPTS = [np.array(ids, np.int32) for ids in ([1, 3, 4], [5] * 20, [1], [1, 10, 7, 7, 8], [6, 6])]
OPTIONS: dict[str, Any] = {"num_samples": 7, "max_new_tokens": 6, "top_p": 0.9, "temperature": 1.3}


@pytest.fixture(scope="module")
def model():
    return Model(init_params(jax.random.key(0), CONFIG), CONFIG)


@pytest.fixture(scope="module")
def all_at_once(model):
    """Every sample in a row of its own, so that none takes the place of another."""
    return sample_with_densities(3, model, PROMPTS, prompt_batch_size=5, **OPTIONS)


# Two groups of a column with two rows; one group of three columns, the last of which is empty at the end.
@pytest.mark.parametrize("grid", [Grid(1, 2, 2, 1), Grid(1, 3, 3, 3)])
@pytest.mark.parametrize("scanned", [False, True])
def test_samples_do_not_depend_on_the_grid(model, all_at_once, grid, scanned, monkeypatch):
    if scanned:
        monkeypatch.setattr(caches, "_UNSCANNED_WEIGHTS", 0)
        jax.clear_caches()
    monkeypatch.setattr(batch_sizing, "grid_of", lambda *_, **__: grid)
    done = list[list[int]]()
    expected, densities = all_at_once
    if scanned:
        found = sample(3, model, PROMPTS, keep=lambda rows, _: done.append(rows), **OPTIONS)
        assert sorted(sum(done, [])) == [0, 1, 2, 3, 4]
    else:
        found, same = sample_with_densities(3, model, PROMPTS, **OPTIONS)
        np.testing.assert_allclose(same, densities, atol=1e-5)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.logps, expected.logps, atol=1e-5)
    assert 1 < found.lengths.mean() < 6  # some end early
    scores = response_logps(model, sampled_responses(PROMPTS, found), batch_size=35)
    np.testing.assert_allclose(found.logps.ravel(), scores, atol=1e-4)


def test_sessions_have_one_width_each():
    grid = Grid(1, 2, 1, 1)  # a session has at least 8 prompts
    lengths = [3] * 8 + [20] * 3 + [100] * 2 + [40] * 5 + [1500]
    assert refill.sessions(lengths, grid) == [
        (16, list(range(8))),
        (64, [8, 9, 10, 13, 14, 15, 16, 17]),
        (2048, [11, 12, 18]),
    ]
    assert refill.sessions([], grid) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_int8_cache_changes_log_probabilities_a_little(model, dtype, monkeypatch):
    monkeypatch.setattr(batch_sizing, "grid_of", lambda *_, **__: Grid(1, 3, 2, 1))
    policy = model.replace(config=dataclasses.replace(CONFIG, dtype=dtype))
    found = sample(3, policy, PROMPTS, int8_cache=True, **OPTIONS)
    scores = response_logps(policy, sampled_responses(PROMPTS, found), batch_size=35)
    tokens = found.lengths.sum()
    distance = np.abs(found.logps.ravel() - scores).sum() / tokens
    plain = sample(3, policy, PROMPTS, **OPTIONS)
    expected = response_logps(policy, sampled_responses(PROMPTS, plain), batch_size=35)
    np.testing.assert_allclose(plain.logps.ravel(), expected, atol=1e-4 if dtype == "float32" else 0.2)
    assert 1e-5 < distance < 0.02  # nats a token
