"""Measures every golden model of tests/parity and prints the table of docs/models.md.

    python tools/models_table.py

The numbers of transformers are those that tools/make_parity_goldens.py stored.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from alignjax.models import Model, load_pretrained
from alignjax.policy.sampling import greedy

GOLDENS = Path(__file__).parent.parent / "tests" / "parity" / "goldens"


def forward(model: Model, ids: list[int]) -> np.ndarray:
    """Logits [T, V] float32 of one row."""
    row = jnp.asarray([ids], jnp.int32)
    positions = jnp.arange(row.shape[1], dtype=jnp.int32)[None]
    return np.asarray(jax.jit(model.apply)(model.params, row, positions, jnp.ones_like(row))[0])


def response_logp(logits: np.ndarray, prompt: list[int], response: list[int]) -> float:
    """Log-probability of the response, from logits of prompt and response."""
    rows = logits[len(prompt) - 1 : -1].astype(np.float64)
    logps = rows - np.log(np.sum(np.exp(rows - rows.max(1, keepdims=True)), axis=1, keepdims=True))
    return float(np.sum((logps - rows.max(1, keepdims=True))[np.arange(len(response)), response]))


def main() -> None:
    """Prints one row a golden model."""
    print("| model | logits | log-probability of 100 tokens | bfloat16 | greedy ids |")
    print("| --- | --- | --- | --- | --- |")
    for folder in sorted(GOLDENS.iterdir()):
        numbers = json.loads((folder / "golden.json").read_text())
        prompt, response = numbers["prompt_ids"], numbers["response_ids"]
        model = load_pretrained(folder)
        logits = forward(model, prompt + response)
        gap = np.abs(logits - load_file(folder / "golden.safetensors")["logits"]).max()
        logp = response_logp(logits, prompt, response)
        halved = forward(load_pretrained(folder, dtype="bfloat16"), prompt + response)
        drift = np.abs(halved - logits).mean()
        drawn = greedy(model, [np.asarray(prompt, np.int32)], max_new_tokens=len(numbers["greedy_ids"]))
        equal = int(np.sum(drawn.tokens[0, 0] == np.asarray(numbers["greedy_ids"])))
        print(
            f"| {folder.name} | {gap:.0e} | {abs(logp - numbers['response_logp']):.0e} | {drift:.2f} | "
            f"{equal} of {len(numbers['greedy_ids'])} |"
        )


if __name__ == "__main__":
    main()
