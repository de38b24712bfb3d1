"""A run that is killed, or asked to stop, and started again ends with the numbers of an unbroken one."""

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import alignjax
from alignjax.runtime.checkpoint import CHECKSUMS

ROOT = Path(alignjax.__file__).parents[1]
# Small, but every stage takes a while: seconds of sampling, dozens of steps.
OPTIONS = """
--config.bootstrap=100 --config.reference_examples=320 --config.data.num_pairs=256
--config.data.num_held_out=96
--config.lora.rank=2 --config.reference.epochs=1 --config.score_training.epochs=1 --config.align.epochs=8
--config.align.batch_size=8 --config.align.checkpoint_every=20 --config.score_training.batch_size=16
--config.score_training.checkpoint_every=5 --config.sampling.num_prompts=40 --config.sampling.num_samples=64
--config.evaluation.num_prompts=8 --config.evaluation.num_samples=4 --config.baselines.single=False
--config.baselines.lams=() --config.constraints.safety.margin=0.02 --config.accept_uninformative=True
--config.confidence=None --config.require_verified=False
""".split()
SAME = ("samples.jsonl", "dual.json", "evaluation.json", "labels.jsonl")


def start(workdir, *more):
    command = [sys.executable, "-m", "alignjax.train", "--config=configs/mocan.py", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, *OPTIONS, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(workdir, *more):
    process = start(workdir, *more)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finish(workdir)
    return workdir


def interrupt(workdir, number, stage):
    """Starts a run and sends the signal once the stage has begun to keep something."""
    process = start(workdir)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        kept = [path for path in (workdir / "cache").glob(f"{stage}-*") if any_content(path)]
        if kept:
            break
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def any_content(path):
    """Finished prompts, or a finished checkpoint."""
    drawn = path / "drawn.jsonl"
    return any(path.glob(f"steps/*/{CHECKSUMS}")) or (drawn.exists() and drawn.stat().st_size > 0)


def adapter(path):
    """What was trained, as arrays."""
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state


def same(whole, workdir):
    assert [name for name in SAME if (whole / name).read_bytes() != (workdir / name).read_bytes()] == []
    for name in ("policy", "safety"):
        jax.tree.map(
            np.testing.assert_array_equal, *(adapter(run / name / "best") for run in (whole, workdir))
        )
    first, second = (
        [row["loss"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
         if row["stage"] == "policy" and "loss" in row]
        for run in (whole, workdir)
    )  # fmt: skip
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["samples", "safety", "policy"])
def test_killed(whole, tmp_path, stage):
    status, output = interrupt(tmp_path / "run", signal.SIGKILL, stage)
    assert status == -signal.SIGKILL, output
    finish(tmp_path / "run")
    same(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["samples", "policy"])
def test_asked_to_stop(whole, tmp_path, stage):
    status, output = interrupt(tmp_path / "run", signal.SIGTERM, stage)
    assert status == 75, output
    assert output.rstrip().endswith("progress saved; run the same command to resume")
    finish(tmp_path / "run")
    same(whole, tmp_path / "run")


@pytest.mark.slow
def test_killed_ten_times_in_training(tmp_path):
    """At random moments, in steps and in the writing of checkpoints: not a bit of the adapter differs."""
    more, rng = ("--config.align.epochs=24", "--config.align.checkpoint_every=4"), np.random.default_rng(0)
    finish(tmp_path / "whole", *more)
    workdir, reached = tmp_path / "run", []
    for _ in range(10):
        process = start(workdir, *more)
        before = steps_kept(workdir)
        while process.poll() is None and steps_kept(workdir) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.0))
        process.kill()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, output
        reached.append(steps_kept(workdir))
    assert all(later > earlier for earlier, later in itertools.pairwise(reached)), reached
    finish(workdir, *more)
    same(tmp_path / "whole", workdir)


def steps_kept(workdir):
    """Steps of the last whole checkpoint of the final training, 0 without one."""
    found = (workdir / "cache").glob(f"policy-*/steps/*/{CHECKSUMS}")
    return max((int(path.parent.name) for path in found if path.parent.name.isdecimal()), default=0)
