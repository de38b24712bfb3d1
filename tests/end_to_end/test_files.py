"""PeCAN on a Hugging Face folder and preference files, as a user comes with them."""

import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignjax import runs
from alignjax.data.records import PreferencePair
from alignjax.data.split import split_by_prompt
from alignjax.models import DecoderConfig, Model, init_params, save_pretrained

NUM_PROMPTS = 40


def byte_tokenizer():
    """One token a byte, ids 0 to 255; begin 256, end 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = DecoderConfig("qwen3", 258, 16, 32, 1, 2, 1, 8, qk_norm=True, bos_id=256, eos_ids=(257,))
    path = tmp_path_factory.mktemp("files") / "model"
    save_pretrained(Model(init_params(jax.random.key(0), config), config, byte_tokenizer()), path)
    return path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def held_out(prompts, seed=0, fraction=0.2):
    """Which prompts the split by prompt holds out."""
    pairs = [PreferencePair(prompt, "a", "b", {}, "") for prompt in prompts]
    return {pair.prompt for pair in split_by_prompt(pairs, fraction=fraction, seed=seed)[1]}


def load(path):
    return json.loads(path.read_text())


def labelled(workdir):
    return [json.loads(line) for line in (workdir / "labels.jsonl").read_text().splitlines()]


def check_results(workdir, folder):
    evaluation = load(workdir / "evaluation.json")
    assert list(evaluation["policies"]) == ["reference", "reward", "safety", "aligned"]
    assert "true_reward" not in evaluation["policies"]["aligned"]  # nobody knows it
    dual = load(workdir / "dual.json")
    np.testing.assert_allclose(
        dual["asked"]["safety"]["margin"], 0.3 * dual["reachable"]["safety"], rtol=1e-6
    )
    for name in ("dual.json", "evaluation.json"):
        assert str(folder) not in (workdir / name).read_text()
    assert not (workdir / "reference").exists()
    assert (workdir / "report.html").exists() and (workdir / "policy" / "best").exists()
    for line in (workdir / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert 1 <= len(row["response_ids"]) <= 8 and row["sample"] in range(4)


def test_two_files_of_two_dimensions(folder, tmp_path, file_config):
    prompts = [f"ask {i}" for i in range(NUM_PROMPTS)]
    # Prompts of the first half are in both files, ten pairs are the very same; a row is dropped in each way.
    helpful = [{"prompt": p, "chosen": f"yes {p}", "rejected": "no"} for p in prompts]
    helpful += [helpful[0], {"prompt": "x", "chosen": "same", "rejected": "same"}]
    safe = [{"prompt": p, "chosen": "no", "rejected": f"here is {p}"} for p in prompts[10:20]]
    safe += helpful[:10] + [{"prompt": f"other {p}", "chosen": "no", "rejected": "oh"} for p in prompts[:20]]
    safe += [{"prompt": "x", "chosen": " ", "rejected": "b"}]
    sources = {
        "reward": {"path": write(tmp_path / "helpful.jsonl", helpful)},
        "safety": {"path": write(tmp_path / "safe.jsonl", safe)},
    }
    workdir = tmp_path / "run"
    runs.run(file_config(folder, sources), workdir)
    check_results(workdir, folder)
    counts = load(workdir / "data.json")
    assert [counts["reward"][k] for k in ("read", "identical", "duplicates", "empty", "kept")] == [
        42,
        1,
        1,
        0,
        40,
    ]
    assert [counts["safety"][k] for k in ("read", "identical", "duplicates", "empty", "kept")] == [
        41,
        0,
        0,
        1,
        40,
    ]
    out = held_out({row["prompt"] for row in helpful + safe} - {"x"})
    kept = {row["prompt"] for row in helpful[:40] if row["prompt"] not in out}
    assert counts["reward train"]["pairs"] == len(kept)
    assert counts["reward held out"]["pairs"] == 40 - len(kept)
    # Pairs of both files are aligned on once.
    rows = {(row["prompt"], row["chosen"], row["rejected"]) for row in helpful[:40] + safe[:40]}
    expected = {row for row in rows if row[0] not in out}
    found = [(line["prompt"], line["chosen"], line["rejected"]) for line in labelled(workdir)]
    assert set(found) == expected and len(found) == len(expected) == counts["align"]["pairs"]


def test_one_file_with_both_labels(folder, tmp_path, file_config):
    # "yes" helps and "no" is safe, so that the two conflict; which comes first changes from row to row.
    rows = [
        {
            "prompt": f"ask {i}",
            "response_0": ("yes", "no")[i % 2],
            "response_1": ("no", "yes")[i % 2],
            "better_response_id": i % 2,
            "safer_response_id": 1 - i % 2,
            "is_response_0_safe": i % 2 == 1,
            "is_response_1_safe": i % 2 == 0,
        }
        for i in range(NUM_PROMPTS)
    ]
    path = write(tmp_path / "pku.jsonl", rows)
    sources = {
        "reward": {"path": path, "label": "better_response_id"},
        "safety": {"path": path, "label": "safer_response_id"},
    }
    workdir = tmp_path / "run"
    runs.run(file_config(folder, sources), workdir)
    check_results(workdir, folder)
    out = held_out({row["prompt"] for row in rows})
    train = [row for row in rows if row["prompt"] not in out]
    lines = labelled(workdir)
    assert [(line["prompt"], line["chosen"]) for line in lines] == [
        (r["prompt"], r["response_0"]) for r in train
    ]
    # By hand: a label is turned over where the more probable response is another than the people's.
    values = np.array([line["label"] for line in lines])
    assert 0 < values.min() < 0.5 < values.max() < 1
    first = values > 0.5
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (record,) = (line for line in metrics if line["stage"] == "labels")
    for name, column in (("reward", "better_response_id"), ("safety", "safer_response_id")):
        people = np.array([row[column] == 0 for row in train])
        np.testing.assert_allclose(record[f"labels/flip_rate/{name}"], (first != people).mean(), rtol=1e-6)
    assert {record[f"labels/flip_rate/{name}"] for name in ("reward", "safety")} != {0.0}
