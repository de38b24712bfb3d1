"""Whole files written atomically: a reader sees the old file or the new one, never a part.

In a run of several processes all call these functions with the same content; the first one writes, and when a
call returns every process sees the result.
"""

import os
import shutil
from pathlib import Path

from alignjax.runtime import processes


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically; its folder is made where missing."""
    processes.barrier(f"before {path.name}")  # another may still read what is there
    if processes.is_primary():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp, whose files only their owner may read.
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            fresh.write_bytes(content)
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    processes.barrier(f"wrote {path.name}")


def remove(path: Path) -> None:
    """Removes a file, or a folder with all it holds; nothing to do where there is none."""
    processes.barrier(f"before removing {path.name}")
    if processes.is_primary():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    processes.barrier(f"removed {path.name}")
