"""How many bytes the buffers of an Arrow stream unpack to, read before they are unpacked."""

import struct
from collections.abc import Iterator

import pyarrow as pa

_DICTIONARY, _BATCH = 2, 3  # types of messages, as format/Message.fbs of Arrow numbers them


def unpacked_size(source: pa.NativeFile, place: int) -> int:
    """Bytes of all buffers of a stream, after decompression.

    Args:
      source: a file.
      place: where the stream begins in it.

    Returns:
      What the stream claims; a reader allocates as much.

    Raises:
      ValueError: the stream is damaged.
    """
    source.seek(place)
    try:
        return sum(map(_message_size, pa.ipc.MessageReader.open_stream(source)))
    except (struct.error, IndexError) as error:
        raise ValueError(f"a message is not what it claims: {error}") from None


def _message_size(message: pa.Message) -> int:
    data, body = memoryview(message.metadata), message.body
    root = _followed(data, 0)
    kind = _field(data, root, 1)
    header = _field(data, root, 2)
    if kind is None or header is None or data[kind] not in (_DICTIONARY, _BATCH):
        return 0
    batch = _followed(data, header)
    if data[kind] == _DICTIONARY:
        values = _field(data, batch, 1)
        if values is None:
            return 0
        batch = _followed(data, values)
    if _field(data, batch, 3) is None:  # nothing is compressed
        return 0 if body is None else body.size
    content = memoryview(body)
    return sum(_buffer_size(content, start, size) for start, size in _buffers(data, batch))


def _buffers(data: memoryview, batch: int) -> Iterator[tuple[int, int]]:
    """Start and length of each buffer in the body."""
    place = _field(data, batch, 2)
    if place is None:
        return
    vector = _followed(data, place)
    (count,) = struct.unpack_from("<I", data, vector)
    for i in range(count):
        yield struct.unpack_from("<qq", data, vector + 4 + 16 * i)


def _buffer_size(content: memoryview, start: int, size: int) -> int:
    """A compressed buffer begins with its length after decompression; -1: it is as it was."""
    if size <= 0:
        return 0
    (unpacked,) = struct.unpack_from("<q", content, start)
    return size if unpacked == -1 else max(0, unpacked)


def _followed(data: memoryview, place: int) -> int:
    """The place that the offset at `place` points to."""
    return place + struct.unpack_from("<I", data, place)[0]


def _field(data: memoryview, table: int, number: int) -> int | None:
    """The place of a field of a FlatBuffers table; None: it is not there."""
    names = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, names)
    if 4 + 2 * number >= size:
        return None
    (offset,) = struct.unpack_from("<H", data, names + 4 + 2 * number)
    return table + offset if offset else None
