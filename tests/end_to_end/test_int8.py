"""A run whose frozen weights are in int8: its export, and its samples given to another run."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from alignjax import runs
from alignjax.export import export
from alignjax.models import load_adapter, load_pretrained, merge_lora
from alignjax.models.quantized import widened
from alignjax.stages import Work
from alignjax.workflow import groundwork
from alignjax.workflow.setup import make_setup


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("int8") / "run"
    config = tiny_config(lam=0.5, change=lambda config: config.model.update({"weights": "int8"}))
    runs.run(config, workdir)
    return config, workdir


def test_the_frozen_weights_are_rounded_and_those_in_the_folder_are_not(finished):
    config, workdir = finished
    load = groundwork.reference(make_setup(config)).load
    assert load is not None
    held = load(workdir, Work("", None)).model.params["layers"]["up"]
    saved = load_pretrained(workdir / "reference").params["layers"]["up"]["kernel"]
    assert held["kernel"].dtype == np.int8
    steps = np.abs(np.asarray(saved) - np.asarray(widened(held))) / np.asarray(held["kernel_scale"])[:, None]
    assert 0.2 < steps.mean() < 0.3  # of a uniform rounding error the mean is a quarter of a step


def test_a_run_in_memory_rounds_them_too(finished):
    config, workdir = finished
    kept = runs.in_memory(config).calibration.table
    with np.load(workdir / "scores.npz") as scores:
        np.testing.assert_allclose(kept.rewards, scores["rewards"], rtol=1e-4, atol=1e-4)


def test_the_export_adds_to_the_weights_that_were_rounded(finished, tmp_path):
    _, workdir = finished
    export(workdir, tmp_path / "model", adapter_only=False)
    export(workdir, tmp_path / "adapter", adapter_only=True)
    base = load_pretrained(workdir / "reference")
    expected = merge_lora(base.params, load_adapter(tmp_path / "adapter", base.config))
    written = load_pretrained(tmp_path / "model")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), written.params, expected
    )
    assert json.loads((tmp_path / "model" / "config.json").read_text())["torch_dtype"] == "float32"


def test_a_runs_samples_can_be_given_to_another(finished, tmp_path):
    config, workdir = finished
    given = dataclasses.replace(config.sampling, responses=str(workdir / "samples.jsonl"))
    runs.run(dataclasses.replace(config, sampling=given), tmp_path / "other")
    with np.load(workdir / "scores.npz") as ours, np.load(tmp_path / "other" / "scores.npz") as theirs:
        for name in ("rewards", "utilities"):
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert (workdir / "dual.json").read_bytes() == (tmp_path / "other" / "dual.json").read_bytes()
