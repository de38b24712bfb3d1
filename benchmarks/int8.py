"""What int8 weights and bfloat16 change against float32: tokens, log-probabilities, log-ratios, whole runs.

    python benchmarks/int8.py --model=PATH [--prompts=FILE.json] [--num_prompts=32] [--new_tokens=64]
    python benchmarks/int8.py --model=PATH --runs [--prompts=FILE.json] [--num_prompts=32] [--epochs=8]
    python benchmarks/int8.py --run [--seed=0]

With --model: greedy continuations of the prompts, the log-probability per token of the float32 model's own
draws, and the log-ratio of an adapter (random, of the size that a training leaves) against its base, whose
rounding both sides share. With --runs: a whole MoCAN run on the model for each way to hold the weights, with
the functions of text_scores.py as scores, so that margins are exact: lambda, margin, reward gain and KL,
forecast and delivered on test prompts. Without a file the prompts are openings of stories, which the model
goes on with. With --run: PeCAN in the world `assistant` for each way, and its reference as with --model.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import measuring
import numpy as np
from shared import load_preset

from alignjax import runs
from alignjax.config import from_mapping
from alignjax.data.tokenize import template_for, tokenize_prompts
from alignjax.data.worlds import world_for
from alignjax.models import Lora, Model, init_lora, load_pretrained
from alignjax.policy.logps import response_logps
from alignjax.policy.sampling import greedy, sample, sampled_responses
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_record
from alignjax.records.evaluation import Evaluation
from alignjax.records.figure import Figure

_KINDS = {
    "bfloat16": ("bfloat16", "float"),
    "int8, float32": ("float32", "int8"),
    "int8, bfloat16": ("bfloat16", "int8"),
}
_ALL = {"float32": ("float32", "float"), **_KINDS}
_WORLD_TOKENS = 20  # a response of the world, as the preset has it
_ADAPTER = 0.02  # standard deviation of B's entries


def _adapter(model: Model) -> Lora:
    """A random adapter on all projections."""
    key = jax.random.key(1)
    lora = init_lora(key, model.config, rank=8, alpha=16.0)
    for i, pair in enumerate(lora.params["layers"].values()):
        pair["b"] = _ADAPTER * jax.random.normal(jax.random.fold_in(key, i), pair["b"].shape)
    return lora


def of_model(
    path: Path, prompts: list[np.ndarray], new_tokens: int
) -> tuple[list[list[str]], dict[str, float]]:
    """Rows of a table, each way to hold the weights against float32; mean and spread of the log-ratios."""
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
    rows = []
    for name, (dtype, weights) in _KINDS.items():
        other = measured(load_pretrained(path, dtype=dtype, weights=weights))
        same = np.cumprod(other[0] == best, axis=1)  # tokens before the first that differs
        away = other[2] - ratios
        rows.append(
            [
                name,
                f"{np.mean(other[0][:, 0] == best[:, 0]):.1%}",
                f"{same.sum(axis=1).mean():.1f}",
                f"{np.abs(other[1] - logps).mean():.4f}",
                f"{away.mean():+.4f}",
                f"{away.std():.4f}",
                f"{np.corrcoef(other[2], ratios)[0, 1]:.5f}",
            ]
        )
    return rows, {"log_ratio_mean": float(ratios.mean()), "log_ratio_spread": float(ratios.std())}


def of_runs(path: Path, prompts: list[str], *, count: int, epochs: float, seed: int) -> list[list[str]]:
    """Rows of a table: a whole MoCAN run on the model for each way to hold the weights.

    Args:
      path: of the model.
      prompts: to train on and to test on.
      count: prompts that are sampled, and those that are tested on.
      epochs: of the alignment.
      seed: of the runs.
    """
    rows = []
    for name, (dtype, weights) in _ALL.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "prompts.jsonl"
            file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts), "utf-8")
            values: dict[str, Any] = _mocan(path, file, count, epochs) | {"seed": seed}
            values["model"] |= {"dtype": dtype, "weights": weights}
            found = runs.in_memory(from_mapping(values))
        answer, ours = found.answer, found.evaluation.record.policies["aligned"]
        assert answer.lam is not None and answer.forecast is not None
        tilt = answer.forecast.tilt
        pairs = [(tilt.margins["safety"], ours.margins["safety"]), (tilt.reward_gain, ours.reward_gain)]
        pairs.append((tilt.kl, ours.kl))
        shown = [figure for pair in pairs for figure in map(_figure, pair)]
        rows.append([name, f"{answer.lam['safety']:.3f}", *shown])
        measuring.progress(" | ".join(rows[-1]))
    return rows


def _mocan(path: Path, prompts: Path, count: int, epochs: float) -> dict[str, Any]:
    """A small MoCAN run: the functions of text_scores.py as scores, pairs of the reference's own samples."""
    values: dict[str, Any] = load_preset("mocan", "smollm2-135m").to_dict()
    values["model"] |= {"path": str(path), "template": "{prompt}"}
    values["model"] |= {"max_length": 96, "max_prompt_length": 64}
    values["data"] |= {"sources": {}, "prompts": str(prompts), "held_out_fraction": 0.05}
    for name in ("reward", "safety"):
        values["scores"][name]["function"] = f"text_scores:{name}"
    values["constraints"]["safety"]["fraction"] = 0.5
    values["relabel"] |= {"pairs": "samples", "pairs_per_prompt": 16, "max_pairs": None}
    values["sampling"] |= {"num_prompts": count, "num_samples": 32, "max_new_tokens": 32}
    values["evaluation"] |= {"num_prompts": count, "num_samples": 16, "max_new_tokens": 32}
    values["test"] |= {"share": 0.4}
    values["align"] |= {"batch_size": 16, "epochs": epochs, "learning_rate": 1e-3, "preview": 0}
    return values | {"beta": 0.2, "calibrate": False, "confidence": None, "accept_uninformative": True}


def _figure(figure: Figure) -> str:
    return f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def of_run(seed: int) -> tuple[list[list[str]], list[list[str]], dict[str, float]]:
    """Rows of PeCAN in the world `assistant`; rows and log-ratios of its reference, as of `of_model`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (dtype, weights) in _ALL.items():
            values = load_preset("pecan", "tiny").to_dict()
            values["seed"], values["require_verified"] = seed, False
            values["model"] |= {"dtype": dtype, "weights": weights}
            workdir = Path(folder) / name
            runs.run(from_mapping(values), workdir)
            answer = read_record(DualAnswer, workdir / "dual.json")
            ours = read_record(Evaluation, workdir / "evaluation.json").policies["aligned"]
            assert answer.lam is not None and answer.forecast is not None and ours.true_margins is not None
            rows.append(
                [
                    name,
                    f"{answer.lam['safety']:.3f}",
                    f"{answer.forecast.tilt.margins['safety'].mean:.3f}",
                    f"{ours.margins['safety'].mean:.3f}",
                    f"{ours.true_margins['safety'].mean:.3f}",
                    f"{ours.reward.mean:.3f}",
                    f"{ours.kl.mean:.3f}",
                ]
            )
            measuring.progress(" | ".join(rows[-1]))
        path = Path(folder) / "float32" / "reference"
        tokenizer = load_pretrained(path).tokenizer
        assert tokenizer is not None
        texts = world_for("assistant").prompts_test
        prompts, _ = tokenize_prompts(tokenizer, template_for(tokenizer), texts, max_prompt_length=16)
        return rows, *of_model(path, prompts, _WORLD_TOKENS)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--name", default="", help="of the model, in the names of the tables")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--num_prompts", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--epochs", type=float, default=8.0, help="of the alignment, with --runs")
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--runs", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = measuring.with_json(parser).parse_args()
    tables, details = [], {}
    if given.model is not None:
        name = given.name or given.model.stem
        texts = _texts(given.prompts)
        if given.runs:
            sizes = {"count": given.num_prompts, "epochs": given.epochs}
            rows = of_runs(given.model, texts, **sizes, seed=given.seed)
            tables.append(measuring.Table(f"int8_runs_{name}", _RUNS, rows))
        else:
            tokenizer = load_pretrained(given.model).tokenizer
            assert tokenizer is not None
            texts = texts[: given.num_prompts]
            prompts = [np.asarray(tokenizer.encode(text), np.int32)[:128] for text in texts]
            rows, details = of_model(given.model, prompts, given.new_tokens)
            tables.append(measuring.Table(f"int8_{name}", _columns(given.new_tokens), rows))
    if given.run:
        rows, reference, details = of_run(given.seed)
        tables.append(measuring.Table("int8_assistant", _RUN, rows))
        tables.append(measuring.Table("int8_assistant_reference", _columns(_WORLD_TOKENS), reference))
    measuring.finish(given, tables, **details)


_RUN = ["weights, products", "lambda", "forecast margin", "delivered", "true margin", "reward", "KL"]
_RUNS = [
    *("weights, products", "lambda", "margin, forecast", "delivered"),
    *("reward gain, forecast", "delivered", "KL, forecast", "delivered"),
]


def _columns(new_tokens: int) -> list[str]:
    until = f"tokens, of {new_tokens}, until one differs"
    spread = ["log-ratio, mean difference", "spread", "correlation"]
    return ["weights, products", "first token equal", until, "log-prob", *spread]


def _texts(path: Path | None) -> list[str]:
    """Prompts of a file in the layout of the authors' evaluation, or openings of stories."""
    if path is not None:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [row.get("prompt") or row["instruction"] for row in rows]
    heroes, places = ("Lily", "Tom", "a dog", "a girl", "Ben", "the cat", "a bird"), ("park", "wood", "house")
    acts = ("wanted to play", "found a box", "saw a big tree", "was very sad", "lost a toy")
    openings = itertools.product(heroes, places, acts)
    return [f"Once upon a time, {hero} {act} in the {place}." for hero, place, act in openings]


if __name__ == "__main__":
    main()
