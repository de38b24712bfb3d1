"""One run a folder: a second one is refused while the first is at work."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from alignjax.errors import InputError
from alignjax.runtime import processes

_FILE = "run.lock"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the folder's lock within the block.

    The lock is the operating system's (flock) and goes with the process, so that a killed run leaves nothing
    to clean up. In a run of several processes the first one holds it for all.

    Args:
      workdir: an existing folder.

    Raises:
      InputError: another process holds the lock; the message has its process id.
    """
    handle, holder = _acquire(workdir / _FILE) if processes.is_primary() else (None, "process 0")
    if processes.broadcast(handle is None):
        raise InputError(
            f"{workdir}: another run is at work in this folder ({holder}); wait for it, stop it, or name "
            "another --workdir."
        )
    try:
        yield
    finally:
        if handle is not None:
            (workdir / _FILE).unlink(missing_ok=True)  # before it is released: who waits opens a new one
            os.close(handle)


def _acquire(path: Path) -> tuple[int | None, str]:
    """The open and locked file, or None and who holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            return None, holder or "its process is not known"
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle, ""
        os.close(handle)  # its holder removed the file between our opening and locking it
