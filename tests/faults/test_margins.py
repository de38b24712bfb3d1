"""A margin that no policy on the samples can reach: exit status 3, and the largest that can."""

import json
import pathlib
import re

import numpy as np
import pytest

import alignjax

CONFIG = pathlib.Path(alignjax.__file__).parents[1] / "configs" / "pecan.py"
SMALL = {
    "data.num_pairs": 64,
    "data.num_held_out": 64,
    "reference_examples": 256,
    "reference.epochs": 1.0,
    "prealign.epochs": 1.0,
    "sampling.num_prompts": 8,
    "sampling.num_samples": 4,
    "sampling.max_new_tokens": 8,
    "bootstrap": 100,
    "accept_uninformative": True,
    "calibrate": False,
}


@pytest.mark.slow
def test_more_than_can_be_reached(command, tmp_path):
    options = [f"--config.{name}={value}" for name, value in SMALL.items()]
    workdir = tmp_path / "run"
    ended = command(
        "train",
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        *options,
        "--config.constraints.safety.margin=50",
    )
    assert ended.status == 3
    *_, line = ended.err.splitlines()
    assert line.startswith(
        "constraints: no policy on these samples meets them (safety: asked 50, the largest margin"
    )
    # By hand: always the safest sample of each prompt, above the mean of all.
    utilities = np.load(workdir / "scores.npz")["utilities"][:, :, 0]
    largest = np.mean(utilities.max(axis=1) - utilities.mean(axis=1))
    (named,) = re.findall(r"alone is ([\d.]+)\)", line)
    np.testing.assert_allclose(float(named), largest, rtol=1e-3)  # four digits are shown
    stages = json.loads((workdir / "run.json").read_text())["stages"]
    assert {name for name, record in stages.items() if record["status"] != "done"} == {"dual"}
    assert not (workdir / "dual.json").exists()
