"""Files at the edges: JSON Lines read with the place of every row, and whole files written atomically."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from alignjax.errors import InputError

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


def read_json_lines(path: str | Path, limit: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads JSON objects, one a line; blank lines are skipped.

    Args:
      path: UTF-8 file, gzip or not.
      limit: objects to read at most; None: all.

    Yields:
      "file:line" and the object.

    Raises:
      InputError: the file is missing, damaged or not UTF-8, or a line is not a JSON object.
    """
    given = 0
    for number, line in enumerate(_lines(path), start=1):
        if limit is not None and given >= limit:
            return
        if line := line.removeprefix(_BOM).strip():
            given += 1
            yield f"{path}:{number}", _object(line, f"{path}:{number}")


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically: a reader sees the old file or the new one, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically; its folder is made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp, whose files only their owner may read.
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: is not UTF-8 (byte {error.start} of the line); convert the file."
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error}); write one object a line.") from error
    if not isinstance(row, dict):
        what = "a list" if isinstance(row, list) else "a single value"
        raise InputError(f"{where}: is {what}, must be a JSON object; write one object a line.")
    return row


def _lines(path: str | Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == _GZIP or str(path).endswith(".gz")
            file.seek(0)
            yield from _unzipped(file) if compressed else file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is not a whole gzip file ({error}); fetch it again.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path.") from error


def _unzipped(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.open(file, "rb") as lines:
        yield from lines
