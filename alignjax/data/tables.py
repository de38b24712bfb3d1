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

from alignjax.errors import InputError

_ROWS = 1024  # a batch: large enough to be fast, small enough for memory


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
    number = 0
    try:
        for batch in _batches(path):
            kept = [field.name for field in batch.schema if not _is_binary(field.type)]
            for row in batch.select(kept).to_pylist():
                number += 1
                yield f"{path}, row {number}", _plain(row)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        first = str(error).partition("\n")[0]
        raise InputError(f"{path}: is damaged or of a kind that pyarrow cannot read ({first}).") from error


def unpacked_zstd(file: IO[bytes]) -> io.BufferedReader:
    """The content of an opened zstd file, to be read."""
    return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))  # pyright: ignore[reportArgumentType]


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with open(path, "rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"PAR1"):
            yield from pq.ParquetFile(file).iter_batches(batch_size=_ROWS)
            return
        if magic == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(file))
        for batch in batches:
            batch.validate(full=True)  # offsets of a damaged file would be followed out of its memory
            for start in range(0, batch.num_rows, _ROWS):
                yield batch.slice(start, _ROWS)


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
