"""run.json: which stages are done, with which settings, and a digest of every file that they wrote."""

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import alignjax
from alignjax.errors import InputError
from alignjax.records.codec import decode, encode, read_json
from alignjax.runtime.files import write_text
from alignjax.stages.stage import Json

FILE = "run.json"
_ENVIRONMENT = ("alignjax", "python", "platform", "versions", "devices", "processes")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "jaxopt", "numpy")


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """What run.json keeps of one stage.

    Attributes:
      status: running or done.
      fingerprint: of settings, inputs and version.
      version: of the stage's code.
      settings: that determined the result.
      inputs: names of the stages that were read.
      outputs: sha256 of every file, by its path under the run's folder; empty while running.
      seconds: that the computation took, in the process that finished it.
      peak_memory_mib: largest resident memory of that process so far.
    """

    status: str
    fingerprint: str
    version: int
    settings: Json
    inputs: tuple[str, ...]
    outputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    peak_memory_mib: int | None = None

    @property
    def done(self) -> bool:
        """Whether the stage finished."""
        return self.status == "done"


@dataclasses.dataclass(frozen=True)
class Answer:
    """An earlier answer that lies under answers/.

    Attributes:
      fingerprint: of its stage `dual`.
      stages: records of the stages that belong to it; paths of outputs as they were at the top.
    """

    fingerprint: str
    stages: Mapping[str, StageRecord]


@dataclasses.dataclass(frozen=True)
class LookRecord:
    """One look at test prompts: fingerprint of the stage that looked, and the share of the error it spent."""

    fingerprint: str
    share: float


@dataclasses.dataclass(frozen=True)
class Ledger:
    """The content of run.json.

    Attributes:
      alignjax: version of the package that wrote last; python, platform, versions, devices and processes
        are of that process too.
      stages: by name, in the order of the work.
      answers: earlier answers by the name of their folder.
      looks: at test prompts, by the digest of the prompts; they are never forgotten.
    """

    FORMAT: ClassVar[int] = 3
    alignjax: str = ""
    python: str = ""
    platform: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    devices: tuple[str, ...] = ()
    processes: int = 1
    stages: Mapping[str, StageRecord] = dataclasses.field(default_factory=dict)
    answers: Mapping[str, Answer] = dataclasses.field(default_factory=dict)
    looks: Mapping[str, tuple[LookRecord, ...]] = dataclasses.field(default_factory=dict)

    @property
    def environment(self) -> dict[str, Json]:
        """Versions and devices of the process that wrote last, for the report."""
        return {name: getattr(self, name) for name in _ENVIRONMENT}

    def with_stage(self, name: str, record: StageRecord) -> "Ledger":
        """The same with one stage's record, in the place that the stage has or as the last."""
        return dataclasses.replace(self, stages={**self.stages, name: record})

    def without(self, names: Iterable[str]) -> "Ledger":
        """The same without some stages."""
        gone = set(names)
        return dataclasses.replace(self, stages={k: v for k, v in self.stages.items() if k not in gone})

    def dependents(self, name: str) -> list[str]:
        """The stage and every stage that reads it, directly or not, in the order of the work."""
        found = {name}
        while more := {k for k, v in self.stages.items() if k not in found and found & set(v.inputs)}:
            found |= more
        return [key for key in self.stages if key in found]


def read_ledger(workdir: Path) -> Ledger:
    """Reads run.json; a folder without one has no stages yet.

    Raises:
      InputError: it was damaged or edited, or an older version of the package wrote it.
    """
    path = workdir / FILE
    if not path.exists():
        return Ledger()
    value = read_json(path)
    where = str(path)
    if not isinstance(value, dict):
        raise InputError(f"{where}: is not the record of a run; restore it, or run in a new folder.")
    digest = value.pop("sha256", None)
    ledger = decode(Ledger, value, where)  # refuses another format first
    if digest != _digest(value):
        raise InputError(
            f"{where}: was damaged or edited after it was written, so that nothing says which of the run's "
            "files can be trusted; restore it, or run again in a new folder."
        )
    _check_paths(ledger, where)
    return ledger


def write_ledger(workdir: Path, ledger: Ledger) -> None:
    """Writes run.json atomically, with a digest of its own content."""
    value = encode(dataclasses.replace(ledger, **environment()))
    write_text(workdir / FILE, json.dumps({**value, "sha256": _digest(value)}, indent=1) + "\n")


def environment() -> dict[str, Json]:
    """Versions and devices, for run.json and the report."""
    import jax  # here, so that reading a run's records starts no backend

    return {
        "alignjax": alignjax.__version__,
        "python": platform.python_version(),
        "platform": sys.platform,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "devices": tuple(f"{device.platform}:{device.device_kind}" for device in jax.devices()),
        "processes": jax.process_count(),
    }


def _check_paths(ledger: Ledger, where: str) -> None:
    """Refuses paths outside of the run's folder: an answer moves files, and a folder may be foreign."""
    records = [*ledger.stages.values(), *(r for a in ledger.answers.values() for r in a.stages.values())]
    for name in [*ledger.answers, *(path for record in records for path in record.outputs)]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(
                f"{where}: names a file outside of the folder, {name!r}; do not use this folder."
            )


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
