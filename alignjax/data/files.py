"""Reads rows from files of any usual format, and reports the file and line, or row, of each.

JSON Lines, a JSON array and CSV may be compressed (gzip, xz, bzip2, zstd); Parquet and Arrow files compress
themselves. A path may be a file, a folder of such files, or a glob, and may begin with `~`.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

from alignjax.data.folders import files_of
from alignjax.errors import InputError, file_near

_BOM = b"\xef\xbb\xbf"
_COMPRESSIONS = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\0": ".xz", b"BZh": ".bz2", b"\x28\xb5\x2f\xfd": ".zst"}
_KINDS = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2", ".zst": "zstd"}
_SPACE = re.compile(r"[ \t\n\r]*")  # of JSON
_LONGEST_LINE = 2**26  # bytes
_MOST_BLANK = 1_000_000  # lines one after the other
# A file may unpack to so many bytes and so many times its size; JSON packs 5 to 30 times.
SMALL, RATIO = 2**26, 100
_TABLES = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")  # Parquet, an Arrow file, an Arrow stream
_REFUSED = {
    b"PK\x03\x04": "is a ZIP archive or a workbook; unpack it, or save it as CSV",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    b"SQLite format 3": "is an SQLite database; write its rows as JSON Lines or Parquet",
    b"\x80\x04": "is a pickle, which can run code; save the data as JSON Lines or Parquet",
    b"\x80\x05": "is a pickle, which can run code; save the data as JSON Lines or Parquet",
    b"\x93NUMPY": "is a NumPy array; write rows as JSON Lines or Parquet",
    b"version https://git-lfs": "is a Git LFS pointer, not the data; run git lfs pull",
    b"<!DOCTYPE": "is a web page, not the data; download the file itself",
    b"<html": "is a web page, not the data; download the file itself",
}


def read_rows(path: str | Path, limit: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads objects from JSON Lines, a JSON array, CSV or TSV, Parquet, or Arrow files.

    Args:
      path: a file, a folder or a glob; `~` is the home folder. The files of a folder or a glob are read in
        the order of their names.
      limit: largest number of objects to read; None: all.

    Yields:
      "file:line", or "file, row N" where a format has no lines, and the object.

    Raises:
      InputError: nothing is there, a file is damaged or of a format that is not read, or a row is no object.
    """
    given = 0
    for file in files_of(path):
        for row in _rows(file):
            if limit is not None and given >= limit:
                return
            given += 1
            yield row


def read_json_lines(path: str | Path, limit: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads JSON objects, one per line; blank lines are skipped.

    Args:
      path: UTF-8 file, plain or compressed.
      limit: largest number of objects to read; None: all.

    Yields:
      "file:line" and the object.

    Raises:
      InputError: the file is missing, damaged or not UTF-8, or a line is not a JSON object.
    """
    given = blank = 0
    for number, line in enumerate(_lines(path), start=1):
        if limit is not None and given >= limit:
            return
        blank += 1
        if blank > _MOST_BLANK:
            raise InputError(f"{path}:{number}: more than {_MOST_BLANK:,} blank lines; give a file of rows.")
        if line := line.removeprefix(_BOM).strip():
            blank = 0
            given += 1
            where = f"{path}:{number}"
            yield where, _object(line, where)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of one file, in the format that its first bytes show."""
    head = _head(path)
    for magic, problem in _REFUSED.items():
        if head.startswith(magic):
            raise InputError(f"{path}: {problem}.")
    if head[257:262] == b"ustar":
        raise InputError(f"{path}: is a tar archive; unpack it.")
    if head.startswith(_TABLES):
        from alignjax.data.tables import read_table  # importing pyarrow takes half a second

        return read_table(path)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _KINDS]
    if suffixes[-1:] in ([".csv"], [".tsv"]):
        return _csv(path, "\t" if suffixes[-1] == ".tsv" else ",")
    if suffixes[-1:] in ([".parquet"], [".arrow"], [".feather"]):
        raise InputError(f"{path}: is not a {suffixes[-1][1:]} file, or is damaged; get it again.")
    start = head.removeprefix(_BOM).lstrip()
    return _array(path) if start.startswith(b"[") else read_json_lines(path)


def _head(path: Path) -> bytes:
    """The first bytes, unpacked; those of a refused format, such as a damaged file, are found later."""
    blocks = _blocks(path)
    head = b""
    while len(head) < 512 and (block := next(blocks, b"")):
        head += block
    blocks.close()
    return head


def _array(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = b"".join(_blocks(path)).removeprefix(_BOM)
    number = 0
    try:
        for number, row in enumerate(_items(content.decode()), start=1):
            if not isinstance(row, dict):
                raise InputError(f"{path}, row {number}: {_not_an_object(row)}; write an array of objects.")
            yield f"{path}, row {number}", row
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}); convert the file.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}:{getattr(error, 'lineno', 1)}: is not JSON after {number} rows ({error}); write one "
            "object per line, or one array of objects."
        ) from error


def _items(text: str) -> Iterator[Any]:
    """The values of a JSON array, one at a time: together they can take many times the text's memory."""
    decoder = json.JSONDecoder()
    place = _skip_space(text, text.index("[") + 1)
    if text[place : place + 1] != "]":
        while True:
            item, place = decoder.raw_decode(text, place)
            yield item
            place = _skip_space(text, place)
            if text[place : place + 1] != ",":
                break
            place = _skip_space(text, place + 1)
    if text[place : place + 1] != "]":
        raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
    if (place := _skip_space(text, place + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, place)


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


def _csv(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of texts; a text that is a JSON list or object stands for it."""
    csv.field_size_limit(_LONGEST_LINE)  # the default refuses texts of more than 131,072 characters
    lines = (line.removeprefix(_BOM) for line in _lines(path))
    reader = csv.reader(
        (_decoded(line, path, i) for i, line in enumerate(lines, start=1)), delimiter=delimiter
    )
    names: list[str] = []
    start = 1
    try:
        for fields in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not fields:
                continue
            if not names:
                names = fields
                if len(set(names)) < len(names):
                    raise InputError(f"{where}: two columns have one name ({', '.join(names)}); rename one.")
                continue
            if len(fields) != len(names):
                raise InputError(
                    f"{where}: has {len(fields)} fields and the header {len(names)}; quote texts that hold "
                    f"{'tabs' if delimiter == chr(9) else 'commas'} or line breaks."
                )
            yield (
                where,
                {name: _csv_value(value, where, name) for name, value in zip(names, fields, strict=True)},
            )
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: is not CSV ({error}); save it again.") from error


def _csv_value(text: str, where: str, name: str) -> Any:
    if not text.startswith(("[{", "{")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if text.startswith("[{'"):
            raise InputError(
                f'{where}: "{name}" is a list as Python prints it, which is no JSON; save the data as JSON '
                "Lines or Parquet."
            ) from None
        return text


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: is not UTF-8 (byte {error.start} of the line); convert the file."
        ) from error


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: is not UTF-8 (byte {error.start} of the line); convert the file."
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4,300 digits
        raise InputError(f"{where}: is not JSON ({error}); write one object per line.") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {_not_an_object(row)}; write one object per line.")
    return row


def _not_an_object(value: Any) -> str:
    return f"is {'a list' if isinstance(value, list) else 'a single value'}, must be a JSON object"


def _lines(path: str | Path) -> Iterator[bytes]:
    number, parts, size = 1, list[bytes](), 0  # parts: of a line that has not ended
    for block in _blocks(path):
        *lines, rest = block.split(b"\n")
        for line in lines:
            yield b"".join((*parts, line, b"\n"))
            number, parts, size = number + 1, [], 0
        parts, size = [*parts, rest], size + len(rest)
        if size > _LONGEST_LINE:
            raise InputError(
                f"{path}:{number}: is longer than {_LONGEST_LINE // 2**20} MiB; write one object per line."
            )
    if any(parts):
        yield b"".join(parts)


def _blocks(path: str | Path) -> Generator[bytes, None, None]:
    """The content of a file in blocks, unpacked."""
    kind = ""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            suffix = Path(path).suffix.lower()
            found = next((kind for magic, kind in _COMPRESSIONS.items() if start.startswith(magic)), "")
            kind = found or (suffix if suffix in _KINDS else "")
            file.seek(0)
            most = SMALL + RATIO * os.fstat(file.fileno()).st_size
            with _unpacked(file, kind) as content:
                while block := content.read(2**20):
                    most -= len(block) if kind else 0
                    if most < 0:
                        raise InputError(
                            f"{path}: unpacks to more than {RATIO} times its size; unpack it first "
                            "if its data are real."
                        )
                    yield block
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}: is a damaged {_KINDS[kind]} file ({error}); get it again.") from error
    except OSError as error:
        if kind and not error.strerror:  # bz2 and pyarrow say so of damaged data
            raise InputError(f"{path}: is a damaged {_KINDS[kind]} file ({error}); get it again.") from error
        hint = f"{file_near(path)}check the path"
        raise InputError(f"{path}: cannot be read ({error.strerror}); {hint}.") from error


def _unpacked(file: IO[bytes], kind: str) -> Any:
    if kind == ".gz":
        return gzip.open(file, "rb")
    if kind == ".xz":
        return lzma.open(file, "rb")
    if kind == ".bz2":
        return bz2.open(file, "rb")
    if kind == ".zst":
        from alignjax.data.tables import unpacked_zstd

        return unpacked_zstd(file)
    return io.BufferedReader(file)  # pyright: ignore[reportArgumentType]  # a raw or buffered file alike
