"""What flags ask, and what the commands say of it: units, exit status 5, further looks, human labels."""

import json
import re
import shutil
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import expit

from alignjax import runs
from alignjax.data import worlds
from alignjax.data.worlds.assistant import category
from alignjax.export import export


def load(path):
    return json.loads(path.read_text())


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def looks_of(workdir):
    """The looks at the run's test prompts."""
    (looks,) = load(workdir / "run.json")["looks"].values()
    return looks


class Case(NamedTuple):
    """A finished run, and the flags that start it again."""

    workdir: Any
    flags: list[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, exact_run):
    """MoCAN with true scores on 16 prompts, asked for a margin: read it, copy it, never write to it."""
    return Case(exact_run, flags_of(exact_run, tmp_path_factory.mktemp("promise") / "own.py"))


@pytest.fixture(scope="module")
def listed(tmp_path_factory, mocan_config):
    """A run in the world that lists its responses, where a test is exact: six steps miss the margin."""

    def change(config):
        config.calibrate, config.baselines.lams = False, ()
        config.data.world, config.data.labels = "enumerable", "exact"
        config.model.update({"max_length": 6, "max_prompt_length": 2})
        config.sampling.update({"num_samples": 64, "max_new_tokens": 4})
        config.align.update({"epochs": 2.0, "learning_rate": 1e-2})
        for source in config.scores.values():
            source.exact = True

    folder = tmp_path_factory.mktemp("listed")
    runs.run(mocan_config(margin=0.1, change=change), folder / "run")
    return Case(folder / "run", flags_of(folder / "run", folder / "own.py"))


def flags_of(workdir, file):
    """A configuration file of a user's own, which leaves out the ways to ask that it does not use."""

    def given(value):
        if isinstance(value, dict):
            return {name: given(item) for name, item in value.items() if item is not None}
        return value

    values = load(workdir / "config.json")
    values["constraints"] = given(values["constraints"])
    file.write_text(
        f"import json, ml_collections\n\nVALUES = {json.dumps(values)!r}\n\n\n"
        "def get_config():\n    return ml_collections.ConfigDict(json.loads(VALUES))\n"
    )
    return [f"--config={file}"]


@pytest.fixture(scope="module")
def rated(whole, tmp_path_factory, command):
    """The same run asked for a rate of safe responses that is a little above the reference's."""
    rate = load(whole.workdir / "calibration.json")["rates"]["safety"]
    scores = np.load(whole.workdir / "scores.npz")["utilities"][..., 0]
    asked = round(float(expit(rate["slope"] * scores + rate["intercept"]).mean()) + 0.005, 4)
    workdir = tmp_path_factory.mktemp("rated") / "run"
    shutil.copytree(whole.workdir, workdir)
    flag = f"--config.constraints.safety.rate={asked}"
    return workdir, asked, command("train", f"--workdir={workdir}", *whole.flags, flag)


def safety_of(workdir, policy="aligned"):
    """[T, K] calibrated safety of a policy's responses to the test prompts."""
    file = "aligned" if policy == "aligned" else "baselines"
    calibration = load(workdir / "calibration.json")
    assert calibration["curves"] is None  # else the scores are not linear
    with np.load(workdir / "evaluation_scores" / f"{file}.npz") as found:
        return (found[f"{policy}.raw"] @ np.array(calibration["matrix"]).T)[..., 1]


def check_end(ended, workdir, done):
    """Only what depends on the question was done; the status and the line say what the test says."""
    stages = [line.partition(": ")[2] for line in ended.out.splitlines() if line.startswith("stage ")]
    assert [name for name in stages if not name.endswith(", done before, kept")] == done
    record, test = load(workdir / "evaluation.json"), load(workdir / "test.json")
    assert record["verdicts"] == test["verdicts"]
    asked = [one for name, one in test["verdicts"].items() if name not in ("reward", "kl")]
    assert test["accepted"] == all(one["state"] == "verified" for one in asked)
    assert ended.status == (0 if test["accepted"] else 5), ended
    headline = " ".join(record["headline"][key] for key in ("sentence", "next"))
    assert ended.out.splitlines()[-1] == headline and headline not in ended.err  # said once, at the end
    *_, last = ended.err.splitlines()
    assert test["accepted"] or last.startswith("exit status 5: what was asked is not shown")
    assert f"report: {workdir / 'report.html'}" in ended.out and (workdir / "report.html").exists()
    return test["verdicts"]


ANSWERED = [
    *("dual", "labels", "policy", "evaluation samples/aligned", "evaluation scores/aligned"),
    *("test", "evaluation"),
]


def test_a_rate(rated):
    workdir, asked, ended = rated
    verdict = check_end(ended, workdir, ANSWERED)["safety"]
    dual = load(workdir / "dual.json")
    rate = dual["units"]["safety"]["rate"]
    assert dual["asked"]["safety"]["rate"] == verdict["asked"] == asked
    assert rate == load(workdir / "calibration.json")["rates"]["safety"]
    # The policy's own mean, not a difference: the mean probability of a safe response.
    safe = expit(rate["slope"] * safety_of(workdir) + rate["intercept"])
    assert verdict["mean"] == pytest.approx(safe.mean(), rel=1e-6)
    assert 0 <= verdict["low"] <= verdict["mean"] <= verdict["high"] <= 1
    assert verdict["prompts"] == 16 and verdict["labels"] == 0
    assert (workdir / "answers" / "safety-margin-0.02" / "test.json").exists()
    assert [look["share"] for look in looks_of(workdir)] == pytest.approx([0.8, 0.1])


def test_groups(whole, tmp_path, command):
    workdir = shutil.copytree(whole.workdir, tmp_path / "run")
    flag = "--config.constraints.safety.groups.margin=0.01"
    ended = command("train", f"--workdir={workdir}", *whole.flags, flag)
    verdicts = check_end(ended, workdir, ANSWERED)
    assert list(verdicts) == ["reward", "safety[benign]", "safety[harmful]", "kl"]
    dual = load(workdir / "dual.json")
    assert list(dual["lam"]) == ["safety[benign]", "safety[harmful]"]
    prompts = [rows_of(workdir / "samples.jsonl")[i * 4]["prompt"] for i in range(16)]
    tested = [rows_of(workdir / "evaluation_samples" / "aligned.jsonl")[i * 4]["prompt"] for i in range(16)]
    margins = (safety_of(workdir) - safety_of(workdir, "reference")).mean(axis=1)
    for name in ("benign", "harmful"):
        verdict = verdicts[f"safety[{name}]"]
        share = np.mean([category(prompt) == name for prompt in prompts])
        assert dual["units"][f"safety[{name}]"]["share"] == pytest.approx(share)
        here = np.array([category(prompt) == name for prompt in tested])
        assert verdict["prompts"] == here.sum() > 1
        assert verdict["mean"] == pytest.approx(margins[here].mean(), rel=1e-6, abs=1e-9)
        assert verdict["asked"] == 0.01
        # Two questions share the look's part of the error.
        assert verdict["confidence"] == pytest.approx(1 - 0.05 * 0.1 / 2)


def test_a_tail_and_status_0_where_no_verdict_is_required(whole, tmp_path, command):
    workdir = shutil.copytree(whole.workdir, tmp_path / "run")
    costs = np.sort(-np.load(workdir / "scores.npz")["utilities"][..., 0].ravel())
    cost = round(float(costs[-32:].mean()) - 0.005, 4)  # the worse half of 64 responses of the reference
    tail = [f"--config.constraints.safety.tail.{asked}" for asked in ("share=0.5", f"cost={cost}")]
    ended = command("train", f"--workdir={workdir}", *whole.flags, *tail, "--config.require_verified=False")
    assert ended.status == 0, ended
    dual, verdict = load(workdir / "dual.json"), load(workdir / "test.json")["verdicts"]["safety"]
    unit = dual["units"]["safety"]["tail"]
    assert (unit["share"], unit["cost"]) == (0.5, cost)
    excess = np.maximum(-safety_of(workdir) - unit["threshold"], 0.0)
    assert verdict["mean"] == pytest.approx(-(excess / 0.5).mean(), rel=1e-6)
    assert verdict["asked"] == dual["asked"]["safety"]["level"] == pytest.approx(-(cost - unit["threshold"]))


def test_human_labels_are_what_the_verdict_rests_on(rated, tmp_path, command):
    """Labels cost a further look; a file that cannot be used costs none, and leaves the folder as it was."""
    workdir, asked, _ = rated
    workdir = shutil.copytree(workdir, tmp_path / "run")
    before = {name: (workdir / name).read_bytes() for name in ("config.json", "test.json", "evaluation.json")}
    world = worlds.world_for("assistant")
    rows = rows_of(workdir / "evaluation_samples" / "aligned.jsonl")
    safe = [bool(world.true_scores(row["prompt"], [row["response"]])[0, 1] > 0) for row in rows]
    lines = [
        {"prompt": row["prompt"], "response": row["response"], "safety": label}
        for row, label in zip(rows, safe, strict=True)
    ]
    file = tmp_path / "labels.jsonl"

    def evaluate(*labels):
        file.write_text("".join(json.dumps(line) + "\n" for line in labels))
        return command("evaluate", f"--workdir={workdir}", f"--labels={file}")

    for labels, message in (
        ([], f"{file}: has no lines"),
        ([lines[0], {"prompt": "p", "safety": True}], f'{file}:2: has neither "response"'),
        ([lines[0] | {"safety": 0.5}], f'{file}:1: "safety" must be true or false'),
        ([lines[0] | {"response": "never said"}], "none of the 1 labels fits a response"),
    ):
        ended = evaluate(*labels)
        (line,) = [text for text in ended.err.splitlines() if text and not re.search(r": \d+/\d+[ ,]", text)]
        assert ended.status == 2 and message in line, ended
    missing = command("evaluate", f"--workdir={workdir}", "--labels=nowhere.jsonl")
    assert missing.status == 2 and "--labels=nowhere.jsonl: is no file" in missing.err
    assert len(looks_of(workdir)) == 2
    for name, content in before.items():
        assert (workdir / name).read_bytes() == content, name

    ended = evaluate(*lines)
    record = load(workdir / "evaluation.json")
    assert ended.status == (0 if record["verdicts"]["safety"]["state"] == "verified" else 5), ended
    verdict = record["verdicts"]["safety"]
    # Every response is labelled, so that the scores take no part: the mean is the labels' own.
    assert verdict["mean"] == pytest.approx(np.mean(safe)) and verdict["labels"] == len(lines) == 64
    assert verdict["asked"] == asked
    assert record["look"] == 3 == len(looks_of(workdir))
    assert record["verdicts"]["reward"]["labels"] == 0
    assert load(workdir / "human_labels.test.json")["verdicts"] == record["verdicts"]
    # The test of the training run is as it was.
    assert (workdir / "test.json").read_bytes() == before["test.json"]
    # The folder goes on with its labels: the same look again.
    again = command("evaluate", f"--workdir={workdir}")
    assert again.status == ended.status and load(workdir / "evaluation.json") == record


def test_status_5_and_a_rescue_by_further_rounds(listed, tmp_path, command):
    """The first policy is refused; rounds correct the multiplier and train on until the test accepts."""
    workdir = shutil.copytree(listed.workdir, tmp_path / "run")
    refused = command("train", f"--workdir={workdir}", *listed.flags)
    assert refused.status == 5 and ": policy, done before, kept" in refused.out, refused
    *_, line = refused.out.splitlines()
    assert line.startswith("Do not ship: safety: asked 0.10") and "(refuted)" in line
    first = load(workdir / "evaluation.json")
    verdict, margin = first["verdicts"]["safety"], first["policies"]["aligned"]["margins"]["safety"]
    assert verdict["bound"] == "exact" and verdict["mean"] == pytest.approx(margin["mean"])

    rescued = command("train", f"--workdir={workdir}", *listed.flags, "--config.rounds.count=5")
    record, rounds = load(workdir / "evaluation.json"), sorted((workdir / "rounds").glob("?.test.json"))
    assert rescued.status == 0 and not load(workdir / "test.json")["accepted"], rescued
    numbers = re.findall(r"^stage (\d+) of (\d+)", rescued.out, re.MULTILINE)
    assert numbers[-1][0] == numbers[-1][1] > numbers[0][1]  # a round adds its stages once it has begun
    # It stops as soon as a test accepts.
    assert [load(path)["accepted"] for path in rounds] == [False] * (len(rounds) - 1) + [True]
    assert (
        record["verdicts"]["safety"]["state"] == "verified" and record["headline"]["state"] != "do not ship"
    )
    assert record["policies"]["aligned"]["true_margins"]["safety"]["mean"] >= 0.1
    assert record["policies"]["one-shot"] == first["policies"]["aligned"]
    assert record["look"] == 1 + len(rounds) == len(looks_of(workdir))
    corrected = load(workdir / "rounds" / "1.json")
    assert corrected["next_lam"]["safety"] > corrected["lam"]["safety"]
    # The next command finds the policy of the last round, and does nothing again.
    kept = command("train", f"--workdir={workdir}", *listed.flags, "--config.rounds.count=5")
    assert kept.status == 0 and ": test/2, done before, kept" in kept.out
    assert command("evaluate", f"--workdir={workdir}").status == 0
    assert load(workdir / "evaluation.json") == record
    # What is exported is the policy that the test accepted.
    adapters = []
    for stage in ("", f"rounds/{1 + len(rounds)}", "policy"):
        output = tmp_path / f"adapter {len(adapters)}"
        export(workdir, output, adapter_only=True, stage=stage)
        adapters.append((output / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1] != adapters[2]


def test_a_world_that_lists_its_responses_has_nothing_to_label(listed, tmp_path, command):
    workdir = shutil.copytree(listed.workdir, tmp_path / "run")
    file = tmp_path / "labels.jsonl"
    file.write_text('{"prompt": "p", "response": "r", "safety": 1.0}\n')
    ended = command("evaluate", f"--workdir={workdir}", f"--labels={file}")
    assert ended.status == 2 and "there is nothing to label" in ended.err.splitlines()[-1]
