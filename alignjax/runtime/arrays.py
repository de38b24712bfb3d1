"""Arrays in .npz files that notice damage: a digest of the content lies beside the arrays.

NumPy checks a CRC-32 of each array at most, and does not notice an array that was replaced by another. The
digest is the archive's comment, which other readers of .npz files do not look at.
"""

import hashlib
import io
import struct
import tokenize
import zipfile
from pathlib import Path

import numpy as np

from alignjax.errors import InputError
from alignjax.runtime.files import write_bytes

_DIGEST = "sha256 "
_ENDING = ".npy"


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays to an uncompressed .npz file, atomically; equal arrays give equal bytes.

    Args:
      path: the file; its folder is made if it is missing.
      **arrays: name -> array of numbers, booleans or text, of any shape.

    Raises:
      ValueError: an array that the format cannot hold (objects, bfloat16).
    """
    members = {name: _encode(name, array) for name, array in arrays.items()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name + _ENDING), member)  # without the time of writing
        archive.comment = (_DIGEST + _digest(members)).encode()
    write_bytes(path, content.getvalue())


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write_npz` wrote.

    Nothing is unpickled or unpacked: an archive with compressed arrays, or with arrays larger than the file
    itself, is not one of ours.

    Args:
      path: the file.

    Returns:
      name -> array.

    Raises:
      InputError: the file is missing, or is not what `write_npz` wrote.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; run the command that writes it.") from None
    try:
        members, comment = _members(content)
        if comment != (_DIGEST + _digest(members)).encode():
            raise ValueError("its content does not fit its digest")
        return {name: _decode(member) for name, member in members.items()}
    except (MemoryError, OverflowError):  # what a forged header claims; a real array is in memory
        reason = "an array's header claims more than the file holds"
    except (
        ValueError,
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
    raise InputError(f"{path}: damaged ({reason}); remove it to have it computed again.")


def _members(content: bytes) -> tuple[dict[str, bytes], bytes]:
    """Name -> the .npy file of each array of an archive, and the archive's comment.

    Raises:
      ValueError, and zipfile's own errors: it is not an archive as `write_npz` makes it.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its directory claims more than the file holds")
        members = {}
        for entry in entries:
            name = entry.filename.removesuffix(_ENDING)
            if entry.compress_type != zipfile.ZIP_STORED or name == entry.filename or name in members:
                raise ValueError(f"{entry.filename!r} is not an uncompressed array, or is there twice")
            members[name] = archive.read(entry)
        return members, archive.comment


def _digest(members: dict[str, bytes]) -> str:
    """SHA-256 over name, length and .npy bytes (type, shape, values) of each array, by name."""
    found = hashlib.sha256()
    for name, member in sorted(members.items()):
        found.update(f"{len(name)} {name} {len(member)} ".encode())
        found.update(member)
    return found.hexdigest()


def _encode(name: str, array: np.ndarray) -> bytes:
    array = np.asarray(array)
    if array.dtype.kind not in "biufcSUmM":
        raise ValueError(
            f"write_npz: {name!r} has type {array.dtype}, which an .npz file cannot hold; convert it."
        )
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def _decode(member: bytes) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(member), allow_pickle=False)
    except (TypeError, KeyError, SyntaxError, tokenize.TokenError, RecursionError) as error:
        # A header is Python text to NumPy; one that was forged with its digest fails in many ways.
        raise ValueError(f"an array's header cannot be read: {error}") from None
