"""Reads JSON Lines files and reports the file and line of every row."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from alignjax.errors import InputError

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


def read_json_lines(path: str | Path, limit: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads JSON objects, one per line; blank lines are skipped.

    Args:
      path: UTF-8 file, plain or gzip.
      limit: largest number of objects to read; None: all.

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


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: is not UTF-8 (byte {error.start} of the line); convert the file."
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error}); write one object per line.") from error
    if not isinstance(row, dict):
        what = "a list" if isinstance(row, list) else "a single value"
        raise InputError(f"{where}: is {what}, must be a JSON object; write one object per line.")
    return row


def _lines(path: str | Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == _GZIP or str(path).endswith(".gz")
            file.seek(0)
            yield from _unzipped(file) if compressed else file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is a damaged gzip file ({error}); get it again.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path.") from error


def _unzipped(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.open(file, "rb") as lines:
        yield from lines
