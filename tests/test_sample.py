"""The command `sample` on a tiny random model: what it writes, adapters, and what it refuses."""

import json
from typing import Any

import jax
import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Model,
    init_lora,
    init_params,
    merge_lora,
    save_adapter,
    save_pretrained,
)
from alignjax.policy import greedy, sample, sampled_responses
from alignjax.policy.logps import response_logps
from alignjax.policy.sampling import sample_with_densities
from alignjax.sample import sample as run_sample

CONFIG = DecoderConfig("llama", 11, 16, 24, 2, 2, 1, 8, max_positions=16, eos_ids=(0,))
PROMPTS = [np.array([1, 2], np.int32), np.array([3], np.int32)]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(init_params(jax.random.key(0), CONFIG), CONFIG)


@pytest.fixture(scope="module")
def root(tmp_path_factory, model):
    """model and adapter folders, and prompts.jsonl."""
    root = tmp_path_factory.mktemp("sample")
    save_pretrained(model, root / "model")
    save_adapter(_adapter(), CONFIG, root / "adapter")
    rows = [{"prompt_ids": prompt.tolist(), "other": 1} for prompt in PROMPTS]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


def _adapter():
    lora = init_lora(jax.random.key(2), CONFIG, rank=2, alpha=4.0)
    return lora.replace(params=jax.tree.map(lambda x: x + 0.3, lora.params))


def _run(root, **options: Any) -> list[dict[str, Any]]:
    options = {"max_new_tokens": 5} | options
    run_sample(str(root / "model"), str(root / "prompts.jsonl"), str(root / "out.jsonl"), **options)
    return [json.loads(line) for line in (root / "out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_lines_hold_the_draws_of_the_seed_and_their_log_probabilities(root, model):
    rows = _run(root, num_samples=3, seed=4)
    drawn = sample(4, model, PROMPTS, num_samples=3, max_new_tokens=5)
    responses = sampled_responses(PROMPTS, drawn)
    assert [row["response_ids"] for row in rows] == [r.response_ids.tolist() for r in responses]
    assert [row["sample"] for row in rows] == [0, 1, 2] * 2
    assert [row["prompt_ids"] for row in rows] == [[1, 2]] * 3 + [[3]] * 3
    assert {row["response"] for row in rows} == {None} and "other" not in rows[0]
    expected = response_logps(model, responses, batch_size=6)
    np.testing.assert_allclose([row["logps"] for row in rows], expected, rtol=1e-4)


def test_lines_of_a_narrowed_distribution_hold_its_log_probabilities_too(root, model):
    options: dict[str, Any] = {"num_samples": 3, "temperature": 0.7, "top_p": 0.8}
    rows = _run(root, seed=4, **options)
    drawn, densities = sample_with_densities(4, model, PROMPTS, max_new_tokens=5, **options)
    np.testing.assert_allclose([row["drawn_logps"] for row in rows], densities.ravel(), rtol=1e-5)
    np.testing.assert_allclose([row["logps"] for row in rows], drawn.logps.ravel(), rtol=1e-5)
    assert (densities.ravel() > drawn.logps.ravel()).any()
    assert "drawn_logps" not in _run(root, seed=4)[0]
    assert "drawn_logps" not in _run(root, greedy=True)[0]


def test_an_adapter_is_added_to_the_model(root, model):
    rows = _run(root, greedy=True, adapter_path=str(root / "adapter"))
    merged = model.replace(params=merge_lora(model.params, _adapter()))
    adapted, plain = (greedy(m, PROMPTS, max_new_tokens=5) for m in (merged, model))
    np.testing.assert_allclose([row["logps"] for row in rows], adapted.logps[:, 0], rtol=1e-4)
    assert [row["response_ids"] for row in rows] == [
        r.response_ids.tolist() for r in sampled_responses(PROMPTS, adapted)
    ]
    assert np.abs(adapted.logps - plain.logps).min() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "--num_samples: is 0"),
        ({"max_new_tokens": 0}, "--max_new_tokens: is 0"),
        ({"temperature": 0.0}, "--temperature: is 0.0; must be above 0. For the mode use --greedy"),
        ({"top_p": 1.5}, "--top_p: is 1.5"),
        ({"prompt_batch_size": 0}, "--prompt_batch_size: is 0"),
        ({"greedy": True, "num_samples": 2}, "--greedy: draws nothing and gives one response"),
        ({"max_new_tokens": 15}, r"prompts.jsonl:1: a prompt of 2 tokens .* of 15 do not fit the context"),
        ({"adapter_path": "nowhere"}, "nowhere/adapter_config.json: no such file"),
    ],
)
def test_options_refused(root, options, message):
    with pytest.raises(InputError, match=message):
        _run(root, **options)
