"""A file of finished pieces of work, one JSON line each, that a killed run continues from."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from absl import logging

from alignjax.runtime import preemption, processes
from alignjax.runtime.files import names

_BEFORE, _BETWEEN, _AFTER = b'{"crc": "', b'", "record": ', b"}\n"
_HEX = 8


class LineLog:
    """Records appended to a file, each with a CRC-32 of its text.

    A line is {"crc": "8 hexadecimal digits", "record": ...}. A last line that a kill cut off is left out. A
    line that was changed is left out too, with all lines after it and a warning that counts them: that work
    is done again, in the same order. Of several processes the first one writes; all read.
    """

    def __init__(self, path: Path) -> None:
        """Opens nothing yet.

        Args:
          path: the file; it and its folder are made at the first `append`.
        """
        self.path = path
        self._checked = False  # whether all that is in the file is whole

    @preemption.uninterrupted()
    def append(self, *records: dict[str, Any]) -> None:
        """Adds records at the end; they are in the file when this returns.

        Args:
          *records: JSON values. A damaged rest of the file, which `read` leaves out, is cut off first.

        Raises:
          ValueError: a number that is not finite.
          OSError: the file cannot be written; it names the file.
        """
        if not processes.is_primary():
            return
        lines = b"".join(map(_line, records))
        with names(self.path):
            if not self._checked:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.exists():
                    os.truncate(self.path, _whole(self.path.read_bytes())[1])
            self._checked = False  # until the lines are written whole
            with open(self.path, "ab") as file:
                file.write(lines)
            self._checked = True

    def read(self) -> list[dict[str, Any]]:
        """All whole records, in the order they were appended; an empty list where there is no file."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        records, size = _whole(content)
        rest = content[size:].splitlines(keepends=True)
        if rest and rest[0].endswith(b"\n"):  # not a last line that a kill cut off
            logging.warning(
                "%s:%d: the line was changed after it was written; %d lines, from this one on, are left out "
                "and their work is done again.",
                self.path,
                len(records) + 1,
                len(rest),
            )
        return records


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, allow_nan=False).encode()
    return b"%b%08x%b%b%b" % (_BEFORE, zlib.crc32(text), _BETWEEN, text, _AFTER)


def _whole(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records up to the first line that is not whole, and the bytes they take."""
    records: list[dict[str, Any]] = []
    size = 0
    for line in content.splitlines(keepends=True):
        text = line[len(_BEFORE) + _HEX + len(_BETWEEN) : -len(_AFTER)]
        if line != b"%b%08x%b%b%b" % (_BEFORE, zlib.crc32(text), _BETWEEN, text, _AFTER):
            break
        records.append(json.loads(text))
        size += len(line)
    return records, size
