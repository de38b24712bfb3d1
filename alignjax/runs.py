"""A run: its folder, its configuration, and all its stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignjax.config import Config, from_mapping, to_mapping
from alignjax.errors import InputError
from alignjax.mocan import mocan
from alignjax.pecan import pecan
from alignjax.runtime import processes
from alignjax.runtime.metrics import MetricsWriter
from alignjax.stages import Stages, read_json, write_json
from alignjax.workflow.context import Context


def run(config: Config, workdir: Path, *, devices: Sequence[Any] | None = None) -> str:
    """Every stage of the configured method, skipping those that are done; returns the last table.

    Args:
      config: checked configuration.
      workdir: the run's folder; made where missing.
      devices: to run on, as `config.mesh` arranges them; None: all there are.

    Raises:
      InputError: data, model or scores cannot be used.
      InfeasibleError: the constraints cannot be met on the samples.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        processes.check_shared(workdir, f"--workdir={workdir}")
        write_json(workdir / "config.json", to_mapping(config))
    except OSError as error:
        raise InputError(
            f"--workdir={workdir}: cannot be written to ({error.strerror}); name another."
        ) from None
    with MetricsWriter(workdir, active=processes.is_primary()) as metrics:
        context = Context(config, workdir, Stages(workdir, say=_say), metrics, say=_say, devices=devices)
        return {"pecan": pecan, "mocan": mocan}[config.method](context)


def read_config(workdir: Path) -> Config:
    """The configuration a run was started with.

    Raises:
      InputError: the folder holds no config.json.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise InputError(f"{path}: is missing; --workdir must name the folder of a run.")
    return from_mapping(read_json(path))


def _say(line: str) -> None:
    if processes.is_primary():
        print(line, flush=True)
