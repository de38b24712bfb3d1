"""Checks what the header of a GGUF file claims, before its reader believes it."""

import mmap
import struct
from pathlib import Path

from alignjax.errors import InputError

# GGUF's numbers of types: bytes of a value. 8 is a text and 9 a list.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9
_MOST_DIMENSIONS = 4


class _Damaged(ValueError):
    """What is wrong with a header."""


class _Cursor:
    """A place in the file that moves forward; nothing beyond the end can be taken."""

    def __init__(self, content: mmap.mmap):
        self._content, self._place, self._order = content, 0, "<"

    def numbers(self, layout: str) -> tuple[int, ...]:
        size = struct.calcsize(self._order + layout)
        return struct.unpack(self._order + layout, self.skip(size))

    def skip(self, size: int) -> bytes:
        if size > len(self._content) - self._place:
            raise _Damaged(f"it claims {size} bytes at byte {self._place}, where its end is nearer")
        self._place += size
        # Only small parts are looked at; what is large is stepped over.
        return self._content[self._place - size : self._place] if size <= 64 else b""

    def text(self) -> None:
        (size,) = self.numbers("Q")
        self.skip(size)

    def swap(self) -> None:
        self._order = ">"


def check_header(path: Path) -> None:
    """Refuses a header whose counts and sizes do not fit the file.

    Without this a list that claims 2^63 values would be read beyond the file's end, one by one.

    Args:
      path: the file.

    Raises:
      InputError: the file is missing, or is not what it claims.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _walk(_Cursor(content))
    except (ValueError, OSError) as error:  # ValueError: an empty file, too
        raise InputError(f"{path}: not a readable GGUF file ({error}); get it again.") from None


def _walk(cursor: _Cursor) -> None:
    if cursor.skip(4) != b"GGUF":
        raise _Damaged("it does not begin with GGUF")
    (version,) = cursor.numbers("I")
    if version & 65535 == 0:  # written on a machine of the other byte order
        cursor.swap()
    tensors, fields = cursor.numbers("QQ")
    for _ in range(fields):
        cursor.text()
        (kind,) = cursor.numbers("I")
        _value(cursor, kind)
    for _ in range(tensors):
        cursor.text()
        (dimensions,) = cursor.numbers("I")
        if dimensions > _MOST_DIMENSIONS:
            raise _Damaged(f"a tensor has {dimensions} dimensions")
        cursor.skip(8 * dimensions + 4 + 8)


def _value(cursor: _Cursor, kind: int) -> None:
    if kind == _TEXT:
        cursor.text()
    elif kind == _LIST:
        item, count = cursor.numbers("IQ")
        if item == _TEXT:
            for _ in range(count):
                cursor.text()
        elif item in _SIZES:
            cursor.skip(count * _SIZES[item])
        else:
            raise _Damaged(f"a list holds values of the type {item}")
    elif kind in _SIZES:
        cursor.skip(_SIZES[kind])
    else:
        raise _Damaged(f"a field has the type {kind}")
