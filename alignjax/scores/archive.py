"""Reads the arrays of an .npz file that anyone may have written."""

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignjax.errors import InputError, file_near

_UNPACKED = 2**30  # bytes that an archive may unpack to beyond its own size
# Exceptions of numpy, zipfile and zlib for a damaged archive: a wrong header, checksum, length or method.
_DAMAGED = (
    ValueError,
    EOFError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    TypeError,
    MemoryError,
)


def load_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names that an archive holds; pickled objects are never loaded.

    Args:
      path: the file.
      names: of arrays; those that the archive lacks are left out.

    Raises:
      InputError: the file cannot be read, is damaged, or unpacks to far more than its size.
    """
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path}: is not an .npz archive; save it with np.savez.")
            with zipfile.ZipFile(file) as members:
                unpacked = sum(member.file_size for member in members.infolist())
            if unpacked > path.stat().st_size + _UNPACKED:
                raise InputError(
                    f"{path}: unpacks to {unpacked / 1e9:.1f} GB from {path.stat().st_size / 1e6:.1f} MB; "
                    "save it uncompressed with np.savez if the scores are real."
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                wanted = [name for name in names if name in archive.files]
                return {name: _array(lambda name=name: archive[name], path, name) for name in wanted}
    except InputError:
        raise
    except OSError as error:
        hint = f"{file_near(path)}check the path"
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {hint}.") from error
    except _DAMAGED as error:
        raise InputError(f"{path}: is a damaged .npz archive ({error}); write it again.") from error


def _array(load: Callable[[], Any], path: Path, name: str) -> np.ndarray:
    try:
        array = load()
    except _DAMAGED as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f'{path}: array "{name}" holds Python objects, which are never loaded; save numbers or texts.'
            ) from error
        raise InputError(f'{path}: array "{name}" cannot be read ({error}); write the file again.') from error
    if not isinstance(array, np.ndarray):
        raise InputError(f'{path}: "{name}" is not an array; save it with np.savez.')
    return array
