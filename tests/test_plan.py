"""The command: what it prints, and its statuses."""

import json
import subprocess
import sys

import pytest

PAIRS = "--config=configs/pecan.py:alpaca-7b"


def run(*arguments):
    command = [sys.executable, "-m", "alignjax.plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_plan_in_json_and_in_text():
    ended = run("--config=configs/pecan.py", "--topology=h100:2", "--only=policy,samples", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["fits"] and found["chips"] == 2 and found["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1}
    samples, prompts, policy = found["stages"]
    programs = [stage["program"] for stage in (samples, prompts, policy)]
    assert programs == ["sampler", "sampler's prompts", "train step"]
    # Gradients of the adapters are summed over both devices; a sampler's rows know nothing of each other but
    # for which groups are done, a few bytes a step.
    sent = sum(policy["sent_bytes"].values())
    assert sent == pytest.approx(policy["memory_bytes"]["adapters"], rel=0.05)
    assert sum(samples["sent_bytes"].values()) < 1000
    assert policy["hours"] > 0 and policy["bound"] in ("compute", "memory", "network")


def test_what_does_not_fit_ends_with_4():
    ended = run("--config=configs/pecan.py", "--topology=gpu:0.01GiB", "--only=policy")
    assert ended.returncode == 4
    assert "does not fit gpu:0.01GiB: policy (train step)" in ended.stderr.splitlines()[-1]
    assert "Try --suggest" in ended.stderr and "policy" in ended.stdout and "NO" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PAIRS, "--topology=v7:1x1"), "--topology=v7:1x1: no such topology; known are TPU slices v4"),
        ((PAIRS,), "--topology is missing"),
        (
            (PAIRS, "--topology=h100:8", "--config.mesh.fsdp=3"),
            "config.mesh: data=-1 x fsdp=3 x tensor=1 does",
        ),
        ((PAIRS, "--topology=h100:8"), "config.align.batch_size: is 2"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    ended = run(*arguments)
    assert ended.returncode == 2 and message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and not ended.stdout
