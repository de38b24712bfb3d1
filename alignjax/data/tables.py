"""Reads Parquet and Arrow files, row by row, by pyarrow."""

import datetime
import decimal
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignjax.data.arrow_sizes import unpacked_size
from alignjax.data.files import RATIO, SMALL
from alignjax.errors import InputError

_ROWS = 16  # a batch: a row may be large


def read_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads the rows of a Parquet file, an Arrow file or an Arrow stream.

    Args:
      path: the file.

    Yields:
      "file, row N" and the row in JSON's types: dates and times as ISO text; columns of bytes (images, audio)
      are left out.

    Raises:
      InputError: the file is damaged.
    """
    number, most = 0, SMALL + RATIO * path.stat().st_size
    try:
        for encoded in _batches(path, most):
            batch = _decoded(encoded)
            most -= batch.nbytes
            _check_size(path, most)
            kept = [field.name for field in batch.schema if not _is_binary(field.type)]
            for row in batch.select(kept).to_pylist():
                number += 1
                yield f"{path}, row {number}", _plain(row)
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        first = str(error).partition("\n")[0]
        raise InputError(f"{path}: is damaged or of a kind that pyarrow cannot read ({first}).") from error


def _check_size(path: Path, left: int) -> None:
    if left < 0:
        raise InputError(
            f"{path}: unpacks to more than {RATIO} times its size; write it uncompressed if its data are "
            "real."
        )


def unpacked_zstd(file: IO[bytes]) -> io.BufferedReader:
    """The content of an opened zstd file, to be read."""
    return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))  # pyright: ignore[reportArgumentType]


def _batches(path: Path, most: int) -> Iterator[pa.RecordBatch]:
    """Batches of a few rows; an Arrow file that unpacks to more than `most` bytes is refused before it is."""
    with pa.memory_map(str(path)) as file:
        magic = bytes(file.read(6))
        file.seek(0)
        if magic.startswith(b"PAR1"):
            yield from pq.ParquetFile(file).iter_batches(batch_size=_ROWS)
            return
        # An Arrow file is a stream between its magic and its footer. It is read as one, and what the footer
        # claims beside it is not.
        start = 8 if magic == b"ARROW1" else 0
        _check_size(path, most - unpacked_size(file, start))
        file.seek(start)
        for batch in pa.ipc.open_stream(file):
            batch.validate(full=True)  # offsets of a damaged file would be followed out of its memory
            for first in range(0, batch.num_rows, _ROWS):
                yield batch.slice(first, _ROWS)


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the values of its dictionaries, whose size is then that of its rows."""
    if not any(pa.types.is_dictionary(field.type) for field in batch.schema):
        return batch
    columns = [c.dictionary_decode() if isinstance(c, pa.DictionaryArray) else c for c in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _plain(value: Any) -> Any:
    """A value in JSON's types."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items() if not isinstance(item, bytes)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value if not isinstance(item, bytes)]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # how pandas writes that there is no value
    return value
