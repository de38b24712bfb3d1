"""Runs the stages of a method, keeps their artefacts, and skips what is done.

A stage is done when run.json holds its fingerprint and its outputs exist. The fingerprint covers the stage's
own settings, the fingerprints of the stages it reads, and the code's version: changing a margin redoes the
dual and what reads it, and never samples or scores again.
"""

import dataclasses
import hashlib
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import alignjax
from alignjax.errors import InputError
from alignjax.runtime import preemption, processes
from alignjax.runtime.files import write_text

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "jaxopt", "numpy")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: keys in the order given, floats in full, never nan."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON; a file that does not parse is an InputError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}); remove it to redo its stage.") from None


def file_digest(path: str | Path) -> str:
    """sha256 of a file, or of all files in a folder: what a model or data set is, wherever it lies."""
    digest = hashlib.sha256()
    root = Path(path)
    for file in [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(root)).encode())
        with open(file, "rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


@dataclasses.dataclass
class Stages:
    """The stages of one run folder, in the order they are called.

    Attributes:
      workdir: the run's folder.
      say: prints a line for the user.
      fingerprints: of the stages met in this process, by name.
    """

    workdir: Path
    say: Callable[[str], None] = print
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)

    def run(
        self,
        name: str,
        work: Callable[[], None],
        *,
        settings: Mapping[str, Any],
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
    ) -> None:
        """Runs `work` unless its outputs exist under the same fingerprint.

        Args:
          name: the stage's name in run.json.
          work: writes the outputs.
          settings: all that the result depends on, JSON values.
          inputs: names of earlier stages whose artefacts are read.
          outputs: files or folders under the run's folder; all exist when the stage is done.
        """
        fingerprint = self._fingerprint(name, settings, inputs)
        self.fingerprints[name] = fingerprint
        record = self.records().get(name, {})
        same = record.get("fingerprint") == fingerprint and record.get("status") == "done"
        if processes.broadcast(same and all((self.workdir / output).exists() for output in outputs)):
            self.say(f"[{name}] done before, kept")
            return
        if preemption.asked():
            raise preemption.Stopped
        self.say(f"[{name}]")
        self._record(name, {"fingerprint": fingerprint, "status": "running"})
        start = time.monotonic()
        work()
        seconds = round(time.monotonic() - start, 2)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux gives KiB
        done = {
            "fingerprint": fingerprint,
            "status": "done",
            "seconds": seconds,
            "peak_memory_mib": round(peak),
        }
        self._record(name, done)
        self.say(f"[{name}] {seconds:.1f} s, peak memory {peak:,.0f} MiB")

    def records(self) -> dict[str, dict[str, Any]]:
        """Stages by name as run.json has them."""
        path = self.workdir / "run.json"
        found = read_json(path) if path.exists() else {"stages": {}}
        stages = found.get("stages") if isinstance(found, dict) else None
        if not isinstance(stages, dict) or not all(isinstance(record, dict) for record in stages.values()):
            raise InputError(f"{path}: is not the record of a run's stages; remove it to redo them.")
        return stages

    def _fingerprint(self, name: str, settings: Mapping[str, Any], inputs: Sequence[str]) -> str:
        content = {
            "stage": name,
            "settings": settings,
            "inputs": {stage: self.fingerprints[stage] for stage in inputs},
            "version": alignjax.__version__,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _record(self, name: str, record: Mapping[str, Any]) -> None:
        stages = self.records()
        stages.pop(name, None)  # the order of run.json is the order of the work
        write_json(self.workdir / "run.json", {**environment(), "stages": {**stages, name: dict(record)}})


def environment() -> dict[str, Any]:
    """Versions and devices, for run.json and the report."""
    import jax  # here, so that reading a run's records starts no backend

    return {
        "alignjax": alignjax.__version__,
        "python": platform.python_version(),
        "platform": sys.platform,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
    }
