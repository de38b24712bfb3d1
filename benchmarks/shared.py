"""What benchmarks that run whole configurations share: presets, and the pairs of a run."""

import importlib.util
from pathlib import Path
from typing import Any

from alignjax.config import Config
from alignjax.runtime.metrics import MetricsWriter
from alignjax.stages import Stages
from alignjax.workflow import preferences, scoring, training
from alignjax.workflow.context import Context
from alignjax.workflow.preferences import Preferences

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
    with MetricsWriter(workdir) as metrics:
        context = Context(config, workdir, Stages(workdir, say=print), metrics)
        tokenizer = scoring.tokenizer_of(training.load_reference(context))
        return preferences.load(context, tokenizer, preferences.template_of(context, tokenizer))
