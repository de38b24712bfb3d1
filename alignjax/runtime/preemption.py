"""Signals that ask a run to stop: SIGTERM, as schedulers send it, and SIGINT, as Ctrl-C sends it.

The first one raises `Stopped` in the main thread, so that the command ends where nothing is lost, with exit
status 75. A second one, of either kind, ends the process at once. Two kinds of blocks change when the first
takes effect:

    uninterrupted   a write or a restore: the block is completed, then `Stopped` is raised
    deferred        a training: nothing is raised; the block polls `asked` and stops where it has saved

In a run of several processes the signal reaches one or all of them, at different moments. JAX's coordination
service tells all of them to stop at the same call of `asked`, so that none waits for another that is gone.

This module imports no JAX before it is needed: commands watch for signals before they import anything large.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Stopped(BaseException):
    """The run was asked to stop, and what it needs to continue is saved.

    Not an `Exception`: like KeyboardInterrupt it passes through code that turns every failure of a user's own
    function into a message about it.
    """


class _State:
    """Of this process; signals belong to the process too."""

    asked = False
    raised = False  # whether Stopped was raised here; foreign code may have caught it
    deferred = 0  # blocks that the main thread is in, of both kinds
    shared = False  # whether this process is one of several
    calls = 0


def exit_on_signal() -> None:
    """From here on SIGTERM and SIGINT end the process with status 75, before and after `watched`.

    For the first line of a command that is a process of its own: its imports take seconds, while there is
    nothing to save.
    """
    for kind in _kinds():
        signal.signal(kind, _exit)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within this block SIGTERM and SIGINT raise `Stopped`; afterwards they do what they did before.

    A SIGINT that the process inherited as ignored stays ignored: shells start background processes so, and
    Ctrl-C is not meant for them.
    """
    kinds = _kinds()
    before = {kind: signal.getsignal(kind) for kind in kinds}
    _State.asked = _State.raised = _State.shared = False
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    wakeup = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    threading.Thread(target=_quit_at_second, args=(receiver, kinds), name="signals", daemon=True).start()
    try:
        for kind in kinds:
            signal.signal(kind, _handle)
        yield
    finally:
        _State.asked = _State.raised = False
        signal.set_wakeup_fd(wakeup)
        os.close(sender)
        for kind, handler in before.items():
            if kind == signal.SIGTERM and _State.shared:
                continue  # the coordination service has it until the process ends
            # None: a handler that was not installed from Python, and cannot be put back.
            signal.signal(kind, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within this block, or decorated function, signals only set what `asked` returns.

    Nothing is raised at its end either: it saves and raises `Stopped` itself, or ends as if nothing had
    happened, and whoever polls `asked` next stops.
    """
    with _counted():
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Completes this block, or decorated function, and raises `Stopped` at its end if a signal arrived.

    For code that must not be left half-way: writes, and libraries that lose an exception raised in the middle
    of them (orbax runs its own event loops and threads). An error of the block itself goes first.

    Raises:
      Stopped: at the end, if the run was asked to stop and no enclosing block defers it.
    """
    with _counted():
        yield
    if _State.asked and not _State.deferred and _in_main_thread() and not is_stop(sys.exception()):
        _stop()


def asked() -> bool:
    """Whether the run was asked to stop; several processes call this equally often, for the same answer."""
    if _State.shared and not _State.asked:
        from jax.experimental import multihost_utils

        _State.calls += 1
        _State.asked = multihost_utils.reached_preemption_sync_point(_State.calls)
    return _State.asked


def stop_if_asked() -> None:
    """Raises `Stopped` between batches if the run was asked to stop and no block defers it."""
    if asked() and not _State.deferred:
        _stop()


def share() -> None:
    """Tells that this process has become one of several; from here JAX's coordination service has SIGTERM."""
    _State.shared = True


def is_stop(error: BaseException | None) -> bool:
    """Whether an exception is `Stopped` or arose from one, by its causes, contexts and groups."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        if isinstance(error, Stopped):
            return True
        seen.add(id(error))
        waiting += [error.__cause__, error.__context__]
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
    return False


def was_raised() -> bool:
    """Whether `Stopped` was raised here since `watched` began, even if foreign code caught it."""
    return _State.raised


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    """One more block of the main thread that holds signals back; in other threads they never raise."""
    if not _in_main_thread():
        yield
        return
    _State.deferred += 1
    try:
        yield
    finally:
        _State.deferred -= 1


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _kinds() -> list[signal.Signals]:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    os.write(2, b"stopped; run the same command again\n")
    os._exit(EXIT_STOPPED)


def _stop() -> NoReturn:
    _State.raised = True
    raise Stopped


def _handle(number: int, frame: FrameType | None) -> None:
    """The first signal; Python calls this in the main thread, when the call into C at hand has returned."""
    del frame
    if _State.shared:
        # All processes must stop at the same step. The coordination service's handler has SIGTERM by now.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        return
    for kind in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(kind) == _handle:
            signal.signal(kind, signal.SIG_DFL)
    if _State.asked:  # both kinds came before the first was handled
        os.kill(os.getpid(), number)
    _State.asked = True
    if not _State.deferred:
        _stop()


def _quit_at_second(receiver: int, kinds: Sequence[int]) -> None:
    """Ends the process at the second signal when the main thread is in C, where it handles none.

    A compilation can take minutes. Python's own C handler writes each signal's number to the pipe at once.
    """
    count = 0
    with open(receiver, "rb", buffering=0) as pipe:
        while byte := pipe.read(1):
            count += byte[0] in kinds
            if count == 2:
                os._exit(128 + byte[0])
