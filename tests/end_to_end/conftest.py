"""Small configurations of both methods, and what a run says."""

import dataclasses
import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import alignjax
from alignjax import runs
from alignjax.config import Config, MeshSettings, from_mapping

_CONFIGS = Path(alignjax.__file__).parents[1] / "configs"


@pytest.fixture(autouse=True, scope="session")
def _one_device(one_device: None) -> None:
    """Every run of these tests."""


# A ConfigDict's attributes have no types, so a preset is Any.
def load_preset(preset: str, method: str = "pecan") -> Any:
    spec = importlib.util.spec_from_file_location(f"{method}_config", _CONFIGS / f"{method}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def shrink(config: Any) -> None:
    """A few steps of everything, without a guard: on so few samples it asks for more than can be met."""
    config.confidence = None
    config.bootstrap, config.lora.rank, config.lora.alpha = 100, 2, 4.0
    for name in ("reference", "align", "prealign" if "prealign" in config else "score_training"):
        config[name].update({"epochs": 1.0, "batch_size": 32, "evals": 2, "log_every": 1, "warmup_steps": 0})
    for name in ("sampling", "evaluation"):
        config[name].update({"num_prompts": 8, "num_samples": 4, "max_new_tokens": 8})
    config.accept_uninformative = True
    config.align.preview = 0


@pytest.fixture(scope="session")
def tiny_config():
    """tiny_config(margin=0.2, lam=None, seed=0, ...) is the preset tiny, shrunken, with one constraint."""

    def make(
        *,
        lam: float | None = None,
        seed: int = 0,
        change: Callable[[Any], None] = lambda config: None,
        **asked: float,
    ) -> Config:
        config = load_preset("tiny")
        shrink(config)
        config.data.num_pairs, config.data.num_held_out, config.reference_examples = 96, 96, 320
        config.constraints.safety.margin = None
        config.constraints.safety.update(asked)
        config.lam, config.seed = lam, seed
        change(config)
        return from_mapping(config.to_dict())

    return make


class Watched(NamedTuple):
    """A finished run, and the lines about what was compiled for it."""

    workdir: Path
    compiled: list[str]


@pytest.fixture(scope="session")
def watched_run(tmp_path_factory, tiny_config):
    """The run tiny_config(margin=0.02), which began with no compiled program in memory."""
    workdir, compiled = tmp_path_factory.mktemp("tiny") / "run", list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: compiled.append(record.getMessage())
    log = logging.getLogger("jax._src.interpreters.pxla")
    level, propagate = log.level, log.propagate
    jax.clear_caches()
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        runs.run(tiny_config(margin=0.02), workdir)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
    return Watched(workdir, compiled)


@pytest.fixture(scope="session")
def tiny_run(watched_run):
    """Folder of the finished run tiny_config(margin=0.02); read it, copy it, never write to it."""
    return watched_run.workdir


@pytest.fixture(scope="session")
def mocan_config():
    """mocan_config(margin=0.02, change=lambda config: ...) is MoCAN's preset tiny, shrunken."""

    def make(*, margin: float = 0.02, change: Callable[[Any], None] = lambda config: None) -> Config:
        config = load_preset("tiny", "mocan")
        shrink(config)
        config.data.num_pairs, config.data.num_held_out, config.reference_examples = 96, 96, 320
        config.constraints.safety.margin = margin
        config.baselines.single, config.baselines.lams = False, (0.5,)
        change(config)
        return from_mapping(config.to_dict())

    return make


@pytest.fixture(scope="session")
def exact_config(mocan_config):
    """exact_config(lambda config: ...) is MoCAN with true scores and no baselines, on 16 prompts."""

    def make(change: Callable[[Any], None] = lambda config: None) -> Config:
        def changed(config: Any) -> None:
            config.baselines.lams = ()
            for source in config.scores.values():
                source.exact = True
            for name in ("sampling", "evaluation"):
                config[name].num_prompts = 16
            change(config)

        return mocan_config(change=changed)

    return make


@pytest.fixture(scope="session")
def exact_run(tmp_path_factory, exact_config):
    """Folder of the finished run exact_config(); read it, copy it, never write to it."""
    workdir = tmp_path_factory.mktemp("exact") / "run"
    runs.run(exact_config(), workdir)
    return workdir


@pytest.fixture(scope="session")
def file_config():
    """file_config(model, {"reward": {"path": ...}, ...}, ...) is the preset for files, shrunken."""

    def make(
        model: Path,
        sources: dict[str, dict[str, Any]],
        method: str = "pecan",
        change: Callable[[Any], None] = lambda config: None,
    ) -> Config:
        config = load_preset("smollm2-135m", method)
        shrink(config)
        config.model.path = str(model)
        config.model.update({"remat": False, "max_length": 48, "max_prompt_length": 24})
        for name in ("prealign" if method == "pecan" else "score_training", "align"):
            config[name].update({"batch_size": 8, "learning_rate": 1e-2})
        config.data.update({"num_buckets": 1, "held_out_fraction": 0.2})
        for name, source in sources.items():
            config.data.sources[name].update(source)
        change(config)
        return from_mapping(config.to_dict())

    return make


@pytest.fixture(scope="session")
def stages_done():
    """stages_done(text) are the stages that a run did, and did not only keep, by what it printed."""

    def read(text: str) -> list[str]:
        stages = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("stage ")]
        return [name for name in stages if not name.endswith(", done before, kept")]

    return read


@pytest.fixture(scope="session")
def check_eight_devices():
    """check_eight_devices(whole, config, workdir) runs the configuration again on data 2 x fsdp 2 x tensor 2.

    The numbers are those of `whole`, its run on one device, but for the rounding of sums.
    """

    def load(path: Path) -> Any:
        return json.loads(path.read_text())

    def load_samples(workdir: Path) -> list[list[int]]:
        """Token ids of the reference's samples."""
        lines = (workdir / "samples.jsonl").read_text().splitlines()
        return [json.loads(line)["response_ids"] for line in lines]

    def check(whole: Path, config: Config, workdir: Path) -> None:
        mesh = MeshSettings(data=2, fsdp=2, tensor=2)
        runs.run(dataclasses.replace(config, mesh=mesh), workdir, devices=jax.devices())
        assert len(jax.devices()) == 8
        one, eight = (load_samples(folder) for folder in (whole, workdir))
        assert one == eight
        with np.load(whole / "scores.npz") as a, np.load(workdir / "scores.npz") as b:
            np.testing.assert_allclose(b["rewards"], a["rewards"], atol=1e-3)
            np.testing.assert_allclose(b["utilities"], a["utilities"], atol=1e-3)
        assert load(workdir / "dual.json")["lam"]["safety"] == pytest.approx(
            load(whole / "dual.json")["lam"]["safety"], rel=1e-2
        )
        one, eight = (load(folder / "evaluation.json")["policies"] for folder in (whole, workdir))
        for name, policy in one.items():
            for field in ("reward", "kl"):
                found = eight[name][field]["mean"]
                assert found == pytest.approx(policy[field]["mean"], abs=5e-3), (name, field)

    return check
