"""SIGTERM, as schedulers send it before they take a machine away: stop where nothing is lost, status 75."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """The run was asked to stop, and everything that is needed to go on is saved.

    No `Exception`: like KeyboardInterrupt it passes through code that turns every failure of a user's own
    function into a message about it.
    """


class _State:
    """Of this process; signals belong to the process too."""

    asked = False
    deferred = 0


def watch() -> None:
    """From now on SIGTERM raises `Stopped`: at once, or within `deferred` where that says so.

    A second SIGTERM ends the process without further ado.
    """
    _State.asked = False
    signal.signal(signal.SIGTERM, _handle)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within this block, or function, SIGTERM only sets what `asked` tells: it saves and stops by itself."""
    _State.deferred += 1
    try:
        yield
    finally:
        _State.deferred -= 1


def asked() -> bool:
    """Whether this process was asked to stop."""
    return _State.asked


def _handle(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)
    _State.asked = True
    if not _State.deferred:
        raise Stopped
