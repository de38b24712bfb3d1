"""What went wrong with the machine, in one line: a full disk, a folder that is gone, no memory.

Such an error is neither a mistake in the input nor a bug: a command ends with status 2 and a line that says
what happened, where, and what to change. Files are written atomically, so that nothing finished is lost.
"""

import errno
import logging
import os
import re
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from alignjax.errors import InputError
from alignjax.runtime.preemption import Stopped

PACKAGE = Path(__file__).parents[1]
_DETAIL_CHARACTERS = 300
_LEAST_ADDRESS_SPACE = 5 * 2**29  # bytes; measured: the compiler ends the process with 2 GB, not with 3 GB
_AGAIN = "then run the same command again; nothing that was finished is lost"


class _Fault(NamedTuple):
    what: str
    remedy: str


_UNREACHABLE = _Fault("the file system does not answer", "check the disk or the mount")
_FORBIDDEN = _Fault("this user may not write or read here", "change the permissions or name another folder")
_FILES = _Fault("too many files are open", "raise the limit (ulimit -n)")
_HOST_MEMORY = _Fault(
    "this machine is out of memory",
    "use a machine with more, or lower the batch sizes (docs/troubleshooting.md, Slow, or out of memory)",
)
_DEVICE_MEMORY = _Fault(
    "out of memory on the device",
    "lower the batch size, set --config.model.remat=True, or use more devices (docs/troubleshooting.md, "
    "Slow, or out of memory)",
)
_THREADS = _Fault(
    "no more threads can be started", "raise the limit on processes (ulimit -u) or the memory limit"
)
_GONE = _Fault("the folder is gone", "bring it back (a mount, perhaps), or begin again in another folder")
_BY_NUMBER: dict[int, _Fault] = {
    errno.ENOSPC: _Fault("no space left on the disk", "free some or name another folder"),
    errno.EDQUOT: _Fault("the disk quota is used up", "free some space or name another folder"),
    errno.EFBIG: _Fault("the file is larger than allowed", "raise the limit (ulimit -f)"),
    errno.EROFS: _Fault("the file system is read-only", "mount it writable or name another folder"),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EIO: _UNREACHABLE,
    errno.ESTALE: _UNREACHABLE,
    errno.ENOTCONN: _UNREACHABLE,
    errno.ENODEV: _UNREACHABLE,
    errno.EREMOTEIO: _UNREACHABLE,
    errno.ENOMEM: _HOST_MEMORY,
    errno.ENAMETOOLONG: _Fault("the name is too long", "choose a shorter one"),
    errno.EPIPE: _Fault("the reader of standard output has closed it", "let it read to the end"),
}  # fmt: skip
# A missing file is a bug of ours, unless its whole folder is gone.
_OF_LOST_FOLDERS = (errno.ENOENT, errno.ENOTDIR)
# Libraries in C++ and Rust give the number within a text: os_error_code='28', or (os error 28).
_NUMBER_IN_TEXT = re.compile(r"os[ _]error(?:_code)?[ =:']*(\d+)", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile("^RESOURCE_EXHAUSTED|out[ _]of[ _]memory", re.IGNORECASE)
_TEMPORARY = re.compile(r"(\.new)?\.orbax-checkpoint-tmp.*")
_PATH_IN_TEXT = re.compile(r"[\"'](/[^\"']*)[\"']")


def describe_fault(error: BaseException) -> str | None:
    """One line about a fault of the machine: what, where, and what to change.

    Args:
      error: what ended the work. Its causes are looked at too, and the errors that were being handled when it
        arose: libraries wrap a failed write in errors of their own.

    Returns:
      The line, or None if the error is none of these: then it is a bug, whose traceback is wanted.
    """
    link, direct, seen = error, True, set[int]()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if (line := _describe(link, direct=direct)) is not None:
            return line
        if isinstance(link, BaseExceptionGroup):
            link = link.exceptions[0]
        elif link.__cause__ is not None:
            link = link.__cause__
        else:
            link, direct = None if link.__suppress_context__ else link.__context__, False
    return None


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust gave up: its error is no Exception, and of no module."""
    return type(error).__name__ == "PanicException"


def check_address_space() -> None:
    """Refuses a limit of memory under which compiling a program would end the process without a word.

    Raises:
      InputError: the limit is below what JAX needs before any data are read.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESS_SPACE:
        raise InputError(
            f"this process may use {limit / 2**30:.1f} GiB of address space (ulimit -v), less than the "
            f"{_LEAST_ADDRESS_SPACE / 2**30:.1f} GiB that JAX and its compiler need; raise the limit."
        )


def hide_what_is_raised_too() -> None:
    """Keeps tracebacks off standard error that are of an error which is raised as well.

    A command prints one line for it. Orbax logs each thread that a failed write ends; TensorStore's other
    writes then find their event loop closed. A `Stopped` within a destructor is raised again later.
    """
    logging.getLogger("absl").addFilter(_is_not_raised_too)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


class _UnraisableHook:
    """Passes on all that Python cannot raise, but for what comes of an error that is raised."""

    def __init__(self, before: "Callable[[sys.UnraisableHookArgs], object]"):
        self._before = before

    def __call__(self, unraisable: "sys.UnraisableHookArgs") -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        if not closed and not isinstance(unraisable.exc_value, Stopped):
            self._before(unraisable)


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


def _describe(error: BaseException, *, direct: bool) -> str | None:
    """The line for one error of a chain; `direct`: nobody was handling it when the last one arose."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return _line(_HOST_MEMORY, _frame(error), text)
    if isinstance(error, OSError) and error.errno is not None:
        path = None if error.filename is None else os.fsdecode(error.filename)
        return _of_number(error, error.errno, path, direct=direct)
    # Of safetensors there is only the name: importing it here, out of memory perhaps, could fail.
    if (
        not isinstance(error, RuntimeError | ValueError | OSError)
        and type(error).__name__ != "SafetensorError"
    ):
        return None
    if number := _NUMBER_IN_TEXT.search(text):
        paths = _PATH_IN_TEXT.findall(text)
        path = _TEMPORARY.sub("", paths[-1]) if paths else None
        return _of_number(error, int(number[1]), path, direct=direct)
    if isinstance(error, RuntimeError):
        if _OUT_OF_MEMORY.search(text):
            return _line(_DEVICE_MEMORY, _frame(error), text)
        if text == "can't start new thread":
            return _line(_THREADS, _frame(error))
    return None


def _of_number(error: BaseException, number: int, path: str | None, *, direct: bool) -> str | None:
    if number in _OF_LOST_FOLDERS:
        # An error that was being handled comes from looking whether a file is there, and explains nothing.
        lost = direct and path is not None and not Path(path).parent.is_dir()
        return _line(_GONE, str(Path(path).parent)) if lost and path is not None else None
    fault = _BY_NUMBER.get(number)
    if fault is None:
        return None
    return _line(fault, path or _frame(error), os.strerror(number) if fault is _UNREACHABLE else "")


def _line(fault: _Fault, where: str, detail: str = "") -> str:
    shown = f" ({detail[:_DETAIL_CHARACTERS]})" if detail else ""
    return f"{where}: {fault.what}{shown}; {fault.remedy}, {_AGAIN}."


def _frame(error: BaseException) -> str:
    """The innermost line of this package that the error came through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE.parent)}:{frame.lineno}"
    return "this command"
