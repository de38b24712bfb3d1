"""What int8 weights and bfloat16 change against float32: tokens, log-probabilities, log-ratios, whole runs.

    python benchmarks/int8.py --model=FOLDER --prompts=FILE.json [--num_prompts=32] [--new_tokens=64]
    python benchmarks/int8.py --run [--seed=0]

With --model: greedy continuations of the prompts, the log-probability per token of the float32 model's own
draws, and the log-ratio of an adapter (random, of the size that a training leaves) against its base, whose
rounding both sides share. With --run: PeCAN in the world `assistant`, with float and with int8 weights.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from alignjax import runs
from alignjax.config import from_mapping
from alignjax.models import Lora, Model, init_lora, load_pretrained
from alignjax.policy.logps import response_logps
from alignjax.policy.sampling import greedy, sample, sampled_responses

try:
    from benchmarks.shared import load_preset
except ImportError:  # run as a script, whose folder is on the path
    from shared import load_preset

_KINDS = {
    "bfloat16": ("bfloat16", "float"),
    "int8, float32": ("float32", "int8"),
    "int8": ("bfloat16", "int8"),
}
_ADAPTER = 0.02  # standard deviation of B's entries


def _adapter(model: Model) -> Lora:
    """A random adapter on all projections."""
    key = jax.random.key(1)
    lora = init_lora(key, model.config, rank=8, alpha=16.0)
    for i, pair in enumerate(lora.params["layers"].values()):
        pair["b"] = _ADAPTER * jax.random.normal(jax.random.fold_in(key, i), pair["b"].shape)
    return lora


def of_model(path: Path, prompts: list[np.ndarray], new_tokens: int) -> list[str]:
    """Rows of a table: each way to hold the weights against float32."""
    whole = load_pretrained(path)
    lora = _adapter(whole)
    drawn = sample(0, whole, prompts, num_samples=2, max_new_tokens=new_tokens, lora=lora)
    responses = sampled_responses(prompts, drawn)
    tokens = np.array([len(one.response_ids) for one in responses])

    def measured(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        base = response_logps(model, responses, batch_size=16)
        ratio = response_logps(model, responses, lora=lora, batch_size=16) - base
        return greedy(model, prompts, max_new_tokens=new_tokens).tokens[:, 0], base / tokens, ratio

    best, logps, ratios = measured(whole)
    rows = [
        f"log-ratios of the adapter: {ratios.mean():.3f} on average, standard deviation {ratios.std():.3f}"
    ]
    for name, (dtype, weights) in _KINDS.items():
        other = measured(load_pretrained(path, dtype=dtype, weights=weights))
        same = np.cumprod(other[0] == best, axis=1)  # tokens before the first that differs
        away = other[2] - ratios
        rows.append(
            f"| {name} | {np.mean(other[0][:, 0] == best[:, 0]):.1%} | {same.sum(axis=1).mean():.1f} | "
            f"{np.abs(other[1] - logps).mean():.4f} | {away.mean():+.4f} | {away.std():.4f} | "
            f"{np.corrcoef(other[2], ratios)[0, 1]:.5f} |"
        )
    return rows


def of_run(seed: int) -> list[str]:
    """Rows of a table: whole runs."""
    rows = []
    for weights in ("float", "int8"):
        values = load_preset("pecan", "tiny").to_dict()
        values["seed"], values["model"]["weights"] = seed, weights
        found = runs.in_memory(from_mapping(values))
        record, answer = found.evaluation.record, found.answer
        ours = record.policies["aligned"]
        assert answer.lam is not None and answer.forecast is not None and ours.true_margins is not None
        rows.append(
            f"| {weights} | {answer.lam['safety']:.3f} | {answer.forecast.tilt.margins['safety'].mean:.3f} | "
            f"{ours.margins['safety'].mean:.3f} | {ours.true_margins['safety'].mean:.3f} | "
            f"{ours.reward.mean:.3f} | {ours.kl.mean:.3f} |"
        )
    return rows


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--num_prompts", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.model is not None:
        tokenizer = load_pretrained(given.model).tokenizer
        rows = json.loads(given.prompts.read_text(encoding="utf-8"))
        texts = [row.get("prompt") or row["instruction"] for row in rows][: given.num_prompts]
        assert tokenizer is not None
        prompts = [np.asarray(tokenizer.encode(text), np.int32)[:128] for text in texts]
        print(
            f"| weights | first token equal | tokens, of {given.new_tokens}, until one differs | log-prob | "
            "log-ratio, mean | spread | correlation |"
        )
        print("\n".join(of_model(given.model, prompts, given.new_tokens)))
    if given.run:
        print("| weights | lambda | forecast | margin | true margin | reward | KL |")
        print("\n".join(of_run(given.seed)))


if __name__ == "__main__":
    main()
