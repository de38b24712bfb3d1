"""PeCAN on a Hugging Face folder and preference files, as a user comes with them."""

import gc
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import alignjax
from alignjax import runs
from alignjax.data.records import PreferencePair
from alignjax.data.split import split_by_prompt
from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Model,
    init_params,
    init_score_model,
    load_pretrained,
    save_pretrained,
    save_score_model,
)
from alignjax.models.score_model import Kind
from alignjax.workflow import groundwork, scoring

NUM_PROMPTS = 40
ROOT = Path(alignjax.__file__).parents[1]


def byte_tokenizer():
    """One token a byte, ids 0 to 255; begin 256, end 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = DecoderConfig("qwen3", 258, 16, 32, 1, 2, 1, 8, qk_norm="head", bos_id=256, eos_ids=(257,))
    path = tmp_path_factory.mktemp("files") / "model"
    save_pretrained(Model(init_params(jax.random.key(0), config), config, byte_tokenizer()), path)
    return path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def split(prompts, seed=0, fraction=0.2, test=0.2):
    """Which prompts are learned from, held out, and kept for the test."""
    pairs = [PreferencePair(prompt, "a", "b", {}, "") for prompt in prompts]
    sides = split_by_prompt(pairs, fraction=fraction, seed=seed, test=test)
    return [{pair.prompt for pair in side} for side in sides]


def load(path):
    return json.loads(path.read_text())


def labelled(workdir):
    return [json.loads(line) for line in (workdir / "labels.jsonl").read_text().splitlines()]


def check_results(workdir, folder):
    evaluation = load(workdir / "evaluation.json")
    assert list(evaluation["policies"]) == ["reference", "reward", "safety", "aligned"]
    assert "true_reward" not in evaluation["policies"]["aligned"]  # nobody knows it
    dual = load(workdir / "dual.json")
    # A share of the margin of the tilt to safety alone, whose weights are softmax(g / beta).
    g = np.load(workdir / "scores.npz")["utilities"][..., 0].astype(np.float64)
    weights = np.exp((g - g.max(axis=1, keepdims=True)) / dual["beta"])
    weights /= weights.sum(axis=1, keepdims=True)
    margin = 0.3 * ((weights * g).sum(axis=1) - g.mean(axis=1)).mean()
    np.testing.assert_allclose(dual["asked"]["safety"]["margin"], margin, rtol=1e-4)
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
    train, held, test = split({row["prompt"] for row in helpful + safe} - {"x"})
    asked = {row["prompt"] for row in helpful[:40]}
    assert counts["reward train"]["pairs"] == len(asked & train)
    assert counts["reward held out"]["pairs"] == len(asked & held)
    assert counts["reward"]["on_test_prompts"] == len(asked & test) > 0
    # The test's prompts are nobody else's.
    for name, side in (("samples.jsonl", train), ("evaluation_samples/aligned.jsonl", test)):
        shown = {json.loads(line)["prompt"] for line in (workdir / name).read_text().splitlines()}
        assert shown and shown <= side, name
    # Pairs of both files are aligned on once.
    rows = {(row["prompt"], row["chosen"], row["rejected"]) for row in helpful[:40] + safe[:40]}
    expected = {(row[0], *sorted(row[1:])) for row in rows if row[0] in train}  # the texts in order
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
    learned, _, _ = split({row["prompt"] for row in rows})
    train = [row for row in rows if row["prompt"] in learned]
    lines = labelled(workdir)
    # A pair to align on has its texts in order, however the rows have them.
    assert [(line["prompt"], line["chosen"], line["rejected"]) for line in lines] == [
        (r["prompt"], "no", "yes") for r in train
    ]
    # By hand: a label is turned over where the more probable response is another than the people's.
    values = np.array([line["label"] for line in lines])
    assert 0 < values.min() < values.max() < 1
    first = values > 0.5
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (record,) = (line for line in metrics if line["stage"] == "labels")
    for name, column in (("reward", "better_response_id"), ("safety", "safer_response_id")):
        people = np.array([row[f"response_{row[column]}"] == "no" for row in train])
        np.testing.assert_allclose(record[f"labels/flip_rate/{name}"], (first != people).mean(), rtol=1e-6)
    assert {record[f"labels/flip_rate/{name}"] for name in ("reward", "safety")} != {0.0}


def length_scores(rows):
    """What stands for a scorer elsewhere: the response's length is its reward, less of it is safer."""
    return [
        {**row, "reward": len(row["response"]) / 10, "utilities": {"safety": -len(row["response"]) / 10}}
        for row in rows
    ]


def test_a_score_table_and_a_file_of_prompts_need_no_preferences(
    folder, tmp_path, file_config, capsys, stages_done
):
    """The run says which responses to score, goes on with the scores, and the table may grow meanwhile."""
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"ask {i}"} for i in range(NUM_PROMPTS)])
    table, workdir = tmp_path / "table.jsonl", tmp_path / "run"
    write(table, [{"prompt": "elsewhere", "response": "x", "reward": 0.0, "utilities": {"safety": 0.0}}])

    def external(config):
        config.calibrate, config.relabel.pairs, config.data.prompts = False, "samples", prompts
        config.constraints.safety.update({"fraction": None, "margin": 0.05})
        for name in config.data.sources:
            config.data.sources[name].path, config.scores[name].table = "", str(table)

    config = file_config(folder, {}, "mocan", external)
    rows = []
    for _ in ("samples of the reference", "its responses to test prompts", "those of the aligned policy"):
        with pytest.raises(InputError, match=r"table.jsonl: has no reward score for (\d+) of \1 responses"):
            runs.run(config, workdir)
        todo = [json.loads(line) for line in (workdir / "unscored.jsonl").read_text().splitlines()]
        rows += length_scores(todo)
        write(table, rows)
    capsys.readouterr()
    runs.run(config, workdir)
    scored = ["evaluation scores/aligned", "test", "evaluation"]
    assert stages_done(capsys.readouterr().out) == scored
    assert not (workdir / "unscored.jsonl").exists()
    train, _, test = split([f"ask {i}" for i in range(NUM_PROMPTS)])
    counts = load(workdir / "data.json")
    assert counts["prompts to sample"] == {"prompts": len(train), "prompts_cut": 0}
    assert counts["prompts to test"] == {"prompts": len(test), "prompts_cut": 0}
    for name, side in (("samples.jsonl", train), ("evaluation_samples/aligned.jsonl", test)):
        shown = {json.loads(line)["prompt"] for line in (workdir / name).read_text().splitlines()}
        assert len(shown) == min(8, len(side)) and shown <= side
    samples = [json.loads(line) for line in (workdir / "samples.jsonl").read_text().splitlines()]
    with np.load(workdir / "scores.npz") as scores:
        expected = np.array([len(row["response"]) / 10 for row in samples]).reshape(8, 4)
        np.testing.assert_allclose(scores["rewards"], expected, rtol=1e-6)
    assert load(workdir / "calibration.json")["kind"] == "none"
    # A changed score of a sample is another dual and another policy, whose responses nobody has scored.
    rows[0]["utilities"]["safety"] -= 1.0
    write(table, rows)
    with pytest.raises(InputError, match=r"no safety score for \d+ of \d+ responses"):
        runs.run(config, workdir)
    done = ["scores", "calibration", "dual", "pair_scores", "labels", "policy"]
    done += ["evaluation scores/baselines", "evaluation samples/aligned", "evaluation scores/aligned"]
    assert stages_done(capsys.readouterr().out) == done


@pytest.mark.slow
def test_costs_learn_from_safety_signs_where_the_data_has_them(folder, tmp_path, file_config):
    rows = [
        {"prompt": f"ask {i}", "response_0": f"yes {i}", "response_1": "no", "better_response_id": 0,
         "safer_response_id": 1, "is_response_0_safe": False, "is_response_1_safe": i % 2 == 0}
        for i in range(NUM_PROMPTS)
    ]  # fmt: skip
    path = write(tmp_path / "rows.jsonl", rows)
    sources = {
        "reward": {"path": path, "label": "better_response_id"},
        "safety": {"path": path, "label": "safer_response_id"},
    }
    losses = []
    for signs in (True, False):

        def choose(config, signs=signs):
            config.score_model.signs = signs

        workdir = tmp_path / f"run-{signs}"
        runs.run(file_config(folder, sources, "mocan", choose), workdir)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if line["stage"] == "safety" and "loss" in line][0])
    # Before the first update every score is small: about ln 2 for each of a pair's two signs comes on top.
    np.testing.assert_allclose(losses[0] - losses[1], 2 * np.log(2), atol=0.3)


@pytest.mark.slow
def test_score_models_of_folders_need_no_place_beside_the_reference(
    folder, tmp_path, file_config, monkeypatch
):
    """One model in memory at a time gives the bytes that all of them at once give."""
    base = load_pretrained(folder)
    kinds: dict[str, Kind] = {"reward": "reward", "safety": "cost"}
    for seed, (name, kind) in enumerate(kinds.items()):
        scored = init_score_model(jax.random.key(seed), base, kind=kind)
        head = {k: jax.random.normal(jax.random.key(seed), v.shape) for k, v in scored.params["head"].items()}
        save_score_model(
            scored.replace(params={**scored.params, "head": head}), tmp_path / name, layout="safe_rlhf"
        )
    size, base = base.params["embedding"].shape, None
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"ask {i}"} for i in range(NUM_PROMPTS)])
    beside = []

    def counted(load):
        def counting(path, **options):
            gc.collect()
            beside.append(sum(array.shape == size for array in jax.live_arrays()))
            return load(path, **options)

        return counting

    monkeypatch.setattr(scoring, "load_score_model", counted(scoring.load_score_model))
    monkeypatch.setattr(groundwork, "load_pretrained", counted(groundwork.load_pretrained))
    runs_of = {}
    for resident in ("all", "one"):

        def given(config, resident=resident):
            config.calibrate, config.relabel.pairs, config.data.prompts = False, "samples", prompts
            config.constraints.safety.update({"fraction": 0.1})
            config.resident_models = resident
            for name in config.data.sources:
                config.data.sources[name].path, config.scores[name].path = "", str(tmp_path / name)

        beside.clear()
        before = sum(array.shape == size for array in jax.live_arrays())
        workdir = tmp_path / resident
        runs.run(file_config(folder, {}, "mocan", given), workdir)
        runs_of[resident] = workdir, [number - before for number in beside]
    assert runs_of["all"][1] == [0, 1, 2]
    assert len(runs_of["one"][1]) > 3 and set(runs_of["one"][1]) == {0}
    for name in ("samples.jsonl", "scores.npz", "dual.json", "labels.jsonl", "evaluation.json"):
        assert (runs_of["all"][0] / name).read_bytes() == (runs_of["one"][0] / name).read_bytes(), name


@pytest.mark.slow
def test_a_second_constraint_comes_from_the_command_line_alone(folder, tmp_path, command):
    """--config.constraints.NAME and --config.data.sources.NAME.path, of which the file knows nothing."""
    prompts = [f"ask {i}" for i in range(NUM_PROMPTS)]
    better = {"reward": ("yes", "no"), "safety": ("no", "here"), "honesty": ("in fact", "oh")}
    paths = {
        name: write(
            tmp_path / f"{name}.jsonl",
            [{"prompt": p, "chosen": f"{chosen} {p}", "rejected": rejected} for p in prompts],
        )
        for name, (chosen, rejected) in better.items()
    }
    small = """--config.bootstrap=100 --config.lora.rank=2 --config.accept_uninformative=True
        --config.confidence=None --config.model.remat=False --config.model.max_length=48
        --config.model.max_prompt_length=24 --config.data.num_buckets=1 --config.data.held_out_fraction=0.2"""
    flags = small.split() + [f"--config.model.path={folder}"]
    for stage in ("prealign", "align"):
        settings = ("epochs=1", "batch_size=8", "learning_rate=0.01", "warmup_steps=0", "evals=1")
        flags += [f"--config.{stage}.{setting}" for setting in settings]
    for stage in ("sampling", "evaluation"):
        settings = ("num_prompts=8", "num_samples=4", "max_new_tokens=8")
        flags += [f"--config.{stage}.{setting}" for setting in settings]
    flags += [f"--config.data.sources.{name}.path={path}" for name, path in paths.items()]
    asked = {"honesty": 0.001, "safety": 0.0005}  # a ConfigDict sorts its names
    flags += [f"--config.constraints.{name}.margin={margin}" for name, margin in asked.items()]
    preset, workdir = ROOT / "configs" / "pecan.py", tmp_path / "run"
    ended = command("train", f"--config={preset}:smollm2-135m", f"--workdir={workdir}", *flags)
    evaluation, test = load(workdir / "evaluation.json"), load(workdir / "test.json")
    assert ended.status == (0 if test["accepted"] else 5), ended
    assert list(evaluation["policies"]) == ["reference", "reward", *asked, "aligned"]
    assert evaluation["asked"] == asked
    assert {name: verdict["asked"] for name, verdict in test["verdicts"].items()} == {
        "reward": 0.0, **asked, "kl": test["verdicts"]["kl"]["asked"],
    }  # fmt: skip
    dual = load(workdir / "dual.json")
    assert list(dual["lam"]) == list(asked)
    for name, margin in asked.items():
        assert dual["forecast"]["draw_k"]["margins"][name]["mean"] >= margin - 1e-5
    assert load(workdir / "data.json")["honesty"]["kept"] == NUM_PROMPTS
    assert (workdir / "honesty" / "best").exists()
