"""SIGTERM, as schedulers send it before they take a machine away: stop where nothing is lost, status 75.

In a run of several processes the signal reaches one or all of them, at different moments. JAX's coordination
service tells all of them to stop at the same call of `asked`: none waits for another that is gone.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stopped(BaseException):
    """The run was asked to stop, and everything that is needed to go on is saved.

    No `Exception`: like KeyboardInterrupt it passes through code that turns every failure of a user's own
    function into a message about it.
    """


class _State:
    """Of this process; signals belong to the process too."""

    asked = False
    deferred = 0
    calls = 0


def watch() -> None:
    """From now on SIGTERM raises `Stopped`: at once, or within `deferred` where that says so.

    A second SIGTERM ends the process without further ado. Where processes.start is called afterwards, JAX
    takes the signal over, and `asked` tells of it.
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
    """Whether the run was asked to stop; several processes call this equally often, for the same answer."""
    if jax.distributed.is_initialized() and not _State.asked:
        _State.calls += 1
        _State.asked = multihost_utils.reached_preemption_sync_point(_State.calls)
    return _State.asked


def stop_if_asked() -> None:
    """Between batches of what is not `deferred`: raises `Stopped` where several processes shall stop."""
    if jax.distributed.is_initialized() and asked() and not _State.deferred:
        raise Stopped


def _handle(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)
    _State.asked = True
    if not _State.deferred:
        raise Stopped
