"""A folder in which the commands of the documentation find the files that they name."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import alignjax
from alignjax import runs
from alignjax.config import Config, EvaluationSettings, SamplingSettings
from alignjax.models import DecoderConfig, Model, init_params, save_pretrained

ROOT = Path(alignjax.__file__).parents[1]
NUM_PROMPTS = 60


class Place(NamedTuple):
    """The folder, and the command of README.md that made its run, with what it ended with."""

    folder: Path
    arguments: list[str]
    status: int
    config: Config


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, ids 0 to 255; begin 256, end 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def shrunken(config: Config) -> Config:
    """A few steps of everything, without a guard: on so few samples it asks for more than can be met."""
    steps: dict[str, Any] = {"epochs": 1.0, "batch_size": 8, "evals": 1, "warmup_steps": 0}
    drawn: dict[str, Any] = {"num_prompts": 8, "num_samples": 4, "max_new_tokens": 6}
    return dataclasses.replace(
        config,
        confidence=None,
        bootstrap=100,
        accept_uninformative=True,
        model=dataclasses.replace(config.model, remat=False, max_length=40, max_prompt_length=16),
        lora=dataclasses.replace(config.lora, rank=2),
        data=dataclasses.replace(config.data, num_buckets=1),
        prealign=dataclasses.replace(config.prealign, **steps),
        align=dataclasses.replace(config.align, preview=0, **steps),
        sampling=SamplingSettings(**drawn),
        evaluation=EvaluationSettings(**drawn),
    )


def write_tables(folder: Path) -> None:
    """Score tables of one constraint and of two, with texts and categories.

    Half of the responses are safe (1.5) and half are not (-1.5), and likewise honest: margins of 1 can be met
    at a KL of less than log 4 nats, which 32 responses can show, so that the gates are open.
    """
    rng = np.random.default_rng(0)
    n, k = 40, 32
    rewards = rng.normal(scale=0.05, size=(n, k))
    utilities = 1.5 * rng.choice([-1.0, 1.0], size=(n, k, 2)) + rng.normal(scale=0.05, size=(n, k, 2))
    categories = np.array(["theft", "fraud"] * (n // 2))
    np.savez(
        folder / "scores.npz",
        rewards=rewards,
        utilities=utilities[..., :1],
        names=np.array(["safety"]),
        categories=categories,
    )
    lines = [
        {
            "prompt_id": f"p{i}",
            "response": f"response {j}",
            "reward": rewards[i, j],
            "utilities": dict(zip(("safety", "honesty"), utilities[i, j].tolist(), strict=True)),
        }
        for i in range(n)
        for j in range(k)
    ]
    write(folder / "scores.jsonl", lines)


def write_files(folder: Path) -> None:
    """The model, pairs, prompts and tables."""
    config = DecoderConfig("qwen3", 258, 16, 32, 1, 2, 1, 8, qk_norm="head", bos_id=256, eos_ids=(257,))
    model = Model(init_params(jax.random.key(0), config), config, byte_tokenizer())
    (folder / "path" / "to").mkdir(parents=True)
    save_pretrained(model, folder / "path" / "to" / "model")
    prompts = [f"ask {i}" for i in range(NUM_PROMPTS)]
    helpful = [{"prompt": p, "chosen": f"yes {p}", "rejected": "no"} for p in prompts]
    write(folder / "helpful.jsonl", helpful)
    write(folder / "safe.jsonl", [{"prompt": p, "chosen": "no", "rejected": f"do {p}"} for p in prompts])
    write(folder / "pairs.jsonl", helpful[:4])
    write(folder / "prompts.jsonl", [{"prompt": p} for p in prompts[:2]])
    labelled = [
        {"prompt": p, "response_0": "no", "response_1": f"do {p}", "safer_response_id": i % 2}
        for i, p in enumerate(prompts)
    ]
    pq.write_table(pa.Table.from_pylist(labelled[10:]), folder / "pkusafe.parquet")
    pq.write_table(pa.Table.from_pylist(labelled[:10]), folder / "test.parquet")
    write_tables(folder)


def write_labels(folder: Path) -> None:
    """Of each tested prompt one pair: people prefer the aligned policy's response at every second prompt."""
    samples = folder / "runs/mine/evaluation_samples"
    drawn = [
        {row["prompt"]: row["response"] for row in map(json.loads, path.read_text().splitlines())}
        for path in (samples / "aligned.jsonl", samples / "reference.jsonl")
    ]
    rows = []
    for i, prompt in enumerate(drawn[0]):
        chosen, rejected = (drawn[side][prompt] for side in ((0, 1) if i % 2 else (1, 0)))
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "dimension": "safety"})
    write(folder / "labels.jsonl", rows)


@pytest.fixture(scope="module")
def place(tmp_path_factory, command, one_device, readme_train) -> Place:
    """Files as the documentation names them, and runs/mine, which README.md's command made."""
    folder = tmp_path_factory.mktemp("docs")
    write_files(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    given: list[Config] = []
    real = runs.run

    def run(config: Config, workdir: Path, **options: Any) -> Any:
        given.append(config)
        return real(shrunken(config), workdir, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(runs, "run", run)
        ended = command("train", *readme_train)
        assert (folder / "runs/mine/report.html").exists(), ended.err
        write_labels(folder)
        exported = command("export", "--workdir=runs/mine", "--output=aligned-model")
        assert exported.status == 0, exported.err
    shutil.copytree(folder / "runs/mine", folder / "runs/pecan-tiny")
    return Place(folder, readme_train, ended.status, given[0])
