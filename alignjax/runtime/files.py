"""Whole files written atomically: a reader sees the old file or the new one, never a part.

In a run of several processes all call these functions with the same content; the first one writes, and when a
call returns every process sees the result. A signal that asks the run to stop takes effect after the write.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignjax.records.codec import encode
from alignjax.runtime import preemption, processes


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically; half of a surrogate pair becomes its escape, as JSON writes it."""
    write_bytes(path, text.encode(errors="backslashreplace"))


@preemption.uninterrupted()
def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically; its folder is made if it is missing.

    Args:
      path: the file.
      content: all of it.

    Raises:
      OSError: the file cannot be written; it names `path`, and no temporary file is left.
    """
    processes.barrier(f"before {path.name}")  # another may still read what is there
    if processes.is_primary():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp, whose files only their owner may read.
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            with names(path):
                fresh.write_bytes(content)
                fresh.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the folder may be gone: the error above says so
                fresh.unlink(missing_ok=True)
            raise
    processes.barrier(f"wrote {path.name}")


@preemption.uninterrupted()
def remove(path: Path) -> None:
    """Removes a file, or a folder with all it holds; nothing to do where there is none."""
    processes.barrier(f"before removing {path.name}")
    if processes.is_primary():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    processes.barrier(f"removed {path.name}")


def remove_empty(root: Path, folder: Path) -> None:
    """Removes a folder under `root` if it is empty, and those above it that become so; `root` stays."""
    if not processes.is_primary():
        return
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


@contextlib.contextmanager
def names(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lets every OSError of this block name `path`: a failed write names no file, or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def write_record(path: Path, record: Any) -> None:
    """Writes a record as a JSON file, atomically; floats in full.

    Raises:
      ValueError: a number that is not finite, which JSON cannot hold.
    """
    write_text(path, json.dumps(encode(record), indent=1, allow_nan=False) + "\n")
