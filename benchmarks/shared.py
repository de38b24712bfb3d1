"""What benchmarks that run whole configurations share: presets, and the pairs of a run."""

import importlib.util
from pathlib import Path
from typing import Any

from alignjax.config import Config
from alignjax.data.preferences import Preferences
from alignjax.stages import FolderRun
from alignjax.workflow import groundwork
from alignjax.workflow.setup import make_setup

_CONFIGS = Path(__file__).parents[1] / "configs"


def load_preset(method: str, preset: str) -> Any:
    """The ConfigDict of configs/METHOD.py; its attributes have no types."""
    spec = importlib.util.spec_from_file_location(f"{method}_config", _CONFIGS / f"{method}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def read_data(config: Config, workdir: Path) -> Preferences:
    """The pairs of a run, split as the run splits them; its reference is there."""
    run, setup = FolderRun(workdir, lambda folder: "", may_compute=()), make_setup(config)
    reference = run.load(groundwork.reference(setup))
    return run.do(groundwork.data(setup, reference)).pairs
