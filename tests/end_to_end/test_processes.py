"""Two processes with four devices each are one run: the numbers of one process with eight, and one stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import alignjax
from alignjax.runtime.checkpoint import CHECKSUMS

ROOT = Path(alignjax.__file__).parents[1]
COMMON = """
--config.mesh.fsdp=2 --config.mesh.tensor=2 --config.bootstrap=100 --config.reference_examples=320
--config.data.num_pairs=96 --config.data.num_held_out=96 --config.lora.rank=2 --config.lora.alpha=4.0
--config.reference.epochs=1 --config.reference.batch_size=32 --config.align.epochs=1
--config.align.batch_size=32 --config.align.log_every=1
--config.sampling.num_prompts=8 --config.sampling.num_samples=4
--config.evaluation.num_prompts=8 --config.evaluation.num_samples=4 --config.constraints.safety.margin=0.005
--config.accept_uninformative=True --config.confidence=None --config.require_verified=False
""".split()
METHODS = {
    "pecan": "--config.prealign.epochs=1 --config.prealign.batch_size=32".split(),
    "mocan": """--config.score_training.epochs=1 --config.score_training.batch_size=32
        --config.baselines.single=False --config.baselines.lams=()""".split(),
}


class Run:
    """One run in one or two processes, what each prints in a file."""

    def __init__(self, method, workdir, *, count, more=()):
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "alignjax.train", f"--config=configs/{method}.py"]
        command += [f"--workdir={workdir}", *COMMON, *METHODS[method], *more]
        self.workdir, self.processes, self.logs = workdir, [], []
        for number in range(count):
            env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}"}
            env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # compiling is most of it
            flags = []
            if count > 1:
                env |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
                env["JAX_PROCESS_ID"] = str(number)
                flags = ["--distributed"]
            self.logs.append(workdir.with_name(f"{workdir.name}.{number}.log"))
            with open(self.logs[-1], "w") as log:
                self.processes.append(
                    subprocess.Popen([*command, *flags], cwd=ROOT, env=env, stdout=log, stderr=log)
                )

    def finish(self):
        """Waits; the status of each process, and what it printed."""
        for process in self.processes:
            try:
                process.wait(timeout=600)
            finally:
                process.kill()
        return [process.returncode for process in self.processes], [log.read_text() for log in self.logs]


def whole(method, workdir, *, count, more=()):
    statuses, printed = Run(method, workdir, count=count, more=more).finish()
    assert statuses == [0] * count, printed
    return printed


def load(path):
    return json.loads(path.read_text())


def agree(one, two):
    """The same but for the order of sums."""
    assert (one / "samples.jsonl").read_bytes() == (two / "samples.jsonl").read_bytes()
    with np.load(one / "scores.npz") as a, np.load(two / "scores.npz") as b:
        np.testing.assert_allclose(b["rewards"], a["rewards"], atol=2e-3)
        np.testing.assert_allclose(b["utilities"], a["utilities"], atol=2e-3)
    assert load(two / "dual.json")["lam"]["safety"] == pytest.approx(
        load(one / "dual.json")["lam"]["safety"], rel=2e-2
    )
    losses = [
        [row["loss"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
         if row["stage"] == "policy" and "loss" in row]
        for run in (one, two)
    ]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    first, second = (load(run / "evaluation.json")["policies"] for run in (one, two))
    for name, policy in first.items():
        for field in ("reward", "kl"):
            assert second[name][field]["mean"] == pytest.approx(policy[field]["mean"], abs=5e-3), (
                name,
                field,
            )


@pytest.mark.slow
@pytest.mark.multihost
@pytest.mark.parametrize("method", ["mocan", "pecan"])
def test_two_processes_agree_with_one(method, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    whole(method, one, count=1)
    printed = whole(method, two, count=2)
    agree(one, two)
    assert f"report: {two}" in printed[0] and "report:" not in printed[1]
    assert ": samples" in printed[0] and ": samples" not in printed[1]
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    assert load(two / "run.json")["processes"] == 2
    if method != "pecan":  # a third run is for the slow one
        return
    # What is done is kept, by all processes alike.
    printed = whole(method, two, count=2)
    assert printed[0].count("done before, kept") == len(load(two / "run.json")["stages"])


LONGER = ("--config.align.epochs=8", "--config.align.batch_size=16", "--config.align.checkpoint_every=5")


@pytest.mark.slow
@pytest.mark.multihost
@pytest.mark.parametrize(("stage", "number"), [("policy", 1), ("samples", 0)])
def test_a_signal_to_one_process_stops_both(stage, number, tmp_path):
    unbroken, workdir = tmp_path / "unbroken", tmp_path / "run"
    more = (*LONGER, "--config.sampling.num_prompts=64", "--config.sampling.num_samples=128")
    whole("mocan", unbroken, count=2, more=more)
    run = Run("mocan", workdir, count=2, more=more)
    while all(process.poll() is None for process in run.processes) and not begun(workdir, stage):
        time.sleep(0.05)
    run.processes[number].send_signal(signal.SIGTERM)
    statuses, printed = run.finish()
    assert statuses == [75, 75], printed
    assert all("progress saved; run the same command to resume" in text for text in printed)
    whole("mocan", workdir, count=2, more=more)
    for name in ("samples.jsonl", "dual.json", "labels.jsonl", "evaluation.json"):
        assert (workdir / name).read_bytes() == (unbroken / name).read_bytes(), name


def begun(workdir, stage):
    """Whether a stage keeps something to resume from: finished prompts, or a finished checkpoint."""
    kept = list((workdir / "cache").glob(f"{stage}-*"))
    drawn = [path / "drawn.jsonl" for path in kept]
    return any(any(path.glob(f"steps/*/{CHECKSUMS}")) for path in kept) or any(
        path.exists() and path.stat().st_size > 0 for path in drawn
    )
