"""Digests of settings and of files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from alignjax.stages.stage import Json

_BLOCK = 1 << 22  # bytes


def fingerprint(name: str, version: int, settings: Mapping[str, Json], inputs: Mapping[str, str]) -> str:
    """sha256 of all that determines a stage's value.

    Args:
      name: of the stage.
      version: of its code. The package's own version is not part: a release alone redoes nothing.
      settings: of the stage, JSON values.
      inputs: fingerprints of the stages it reads, by name.
    """
    content = {"stage": name, "version": version, "settings": settings, "inputs": inputs}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """sha256 of a file, or of all files in a folder: what a model or data set is, wherever it lies."""
    root = Path(path)
    if root.is_file():
        return _sha256(root)
    digest = hashlib.sha256()
    for name, value in file_digests(root, [""]).items():
        digest.update(f"{name} {value}\n".encode())
    return digest.hexdigest()


def file_digests(root: Path, outputs: Iterable[str]) -> dict[str, str]:
    """sha256 of every file of the outputs, by its path under `root`, in order.

    Args:
      root: a folder.
      outputs: files and folders under it, all of which exist.
    """
    files = []
    for output in outputs:
        path = root / output
        files += [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {file.relative_to(root).as_posix(): _sha256(file) for file in sorted(files)}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
