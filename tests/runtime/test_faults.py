"""What went wrong with the machine: one line each, and none for a bug."""

import errno
import logging
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import SafetensorError

from alignjax.runtime import checkpoint, faults
from alignjax.runtime.faults import describe_fault
from alignjax.runtime.files import write_bytes
from alignjax.runtime.preemption import Stopped

NUMBERS = {
    errno.ENOSPC: "no space left on the disk; free some or name another folder",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file is larger than allowed; raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; mount it writable",
    errno.EACCES: "this user may not write or read here; change the permissions",
    errno.EPERM: "this user may not write or read here",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.EIO: "the file system does not answer (Input/output error); check the disk or the mount",
    errno.ESTALE: "the file system does not answer (Stale file handle)",
    errno.ENOTCONN: "the file system does not answer (Transport endpoint is not connected)",
    errno.ENOMEM: "this machine is out of memory",
    errno.ENAMETOOLONG: "the name is too long",
}


def raised(error, *, cause=None, handling=None):
    """The error as it is caught, with what it was raised from, or while what was being handled."""
    try:
        if cause is not None:
            raise error from cause
        if handling is None:
            raise error
        try:
            raise handling
        except Exception:
            raise error  # noqa: B904  # the chain that is tested
    except Exception as caught:
        return caught


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_by_number(number):
    line = describe_fault(raised(OSError(number, os.strerror(number), "/run/policy")))
    assert line is not None and line.startswith(f"/run/policy: {NUMBERS[number]}")
    assert line.endswith("then run the same command again; nothing that was finished is lost.")
    assert "\n" not in line


@pytest.mark.parametrize(
    "text",
    [
        'RESOURCE_EXHAUSTED: Error writing "w/0.0" in OCDBT database at local file "/run/s/1/ocdbt.p/": '
        'Failed writing: "/run/s/1.orbax-checkpoint-tmp/state/d/3ba": Failed to write 21340 bytes to file 4: '
        "No space left on device [os_error_code='28']",
        "FAILED_PRECONDITION: '/run/s/1' [OS error 28: ENOSPC No space left on device]",
    ],
)  # fmt: skip
def test_texts_of_tensorstore(text):
    line = describe_fault(raised(ValueError(text)))
    assert line is not None and line.startswith("/run/s/1: no space left on the disk;")


def test_texts_of_safetensors():
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    line = describe_fault(raised(SafetensorError(text)))
    assert line is not None and line.startswith("this command: no space left on the disk;")


def test_wrapped_errors():
    full = OSError(errno.ENOSPC, "", "/run/a")
    for error in (
        raised(KeyError("a"), cause=full),
        raised(KeyError("a"), handling=full),
        raised(ValueError("b"), cause=raised(RuntimeError("c"), handling=full)),
        ExceptionGroup("tasks", [full, KeyError("d")]),
    ):
        line = describe_fault(error)
        assert line is not None and line.startswith("/run/a: no space left")
    hidden = raised(KeyError("a"), handling=full)
    hidden.__suppress_context__ = True  # as `raise ... from None` does
    assert describe_fault(hidden) is None
    hidden.__suppress_context__, hidden.__context__ = False, hidden
    assert describe_fault(hidden) is None


def test_a_lost_folder_is_one_and_a_missing_file_is_a_bug(tmp_path):
    def missing(path):
        with pytest.raises(OSError) as caught:
            path.write_bytes(b"") if path.parent.name != "here" else path.read_bytes()
        return caught.value

    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    assert describe_fault(missing(tmp_path / "here" / "a")) is None
    assert describe_fault(FileNotFoundError(errno.ENOENT, "no file is named")) is None
    for parent in (tmp_path / "gone" / "below", tmp_path / "file"):
        error = missing(parent / "a")
        line = describe_fault(error)
        assert line is not None and line.startswith(f"{parent}: the folder is gone; bring it back")
        assert describe_fault(raised(ValueError(), cause=error)) == line
        # To look for a file that is not there is no fault, whatever goes wrong afterwards.
        assert describe_fault(raised(ValueError(), handling=error)) is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a shape"),
        KeyError("os error 28"),
        RuntimeError("INTERNAL: RESOURCE_EXHAUSTED in the middle"),
        OSError("no number"),
        OSError(errno.EINVAL, "Invalid argument", "/run/a"),
        ValueError("os_error_code='22'"),
        AssertionError(),
    ],
)
def test_a_bug_keeps_its_traceback(error):
    assert describe_fault(raised(error)) is None


def test_memory_of_the_host():
    with pytest.raises(MemoryError) as caught:
        np.ones((1 << 29, 1 << 26))
    line = describe_fault(caught.value)
    assert line is not None
    assert line.startswith(
        "this command: this machine is out of memory (Unable to allocate 256. PiB for an array"
    )
    assert "lower the batch sizes (docs/troubleshooting.md" in line
    line = describe_fault(raised(MemoryError()))
    assert line is not None and "out of memory; use a machine with more" in line


def test_memory_of_the_device():
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jnp.ones((1 << 20, 1 << 26)).block_until_ready()
    line = describe_fault(caught.value)
    assert line is not None
    assert re.match(r"this command: out of memory on the device \(RESOURCE_EXHAUSTED: Out of memory", line)
    assert "set --config.model.remat=True" in line and "\n" not in line
    assert len(describe_fault(RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: " + "x" * 9999)) or "") < 600


def test_the_place_is_a_line_of_this_package():
    with pytest.raises(MemoryError) as caught:
        checkpoint._not_finite({"a": _Huge()})
    line = describe_fault(caught.value)
    assert line is not None
    assert re.match(r"alignjax/runtime/checkpoint\.py:\d+: this machine is out of memory", line)


class _Huge:
    @property
    def dtype(self):
        raise MemoryError


def test_threads():
    line = describe_fault(raised(RuntimeError("can't start new thread")))
    assert line is not None and "no more threads can be started; raise the limit on processes" in line


LIMITED = """
import resource, sys
import numpy as np
from alignjax.runtime.faults import describe_fault
{body}
"""


def limited(body):
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED.format(body=body)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(faults.__file__).parents[2],
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_real_limit_on_memory():
    line = limited(
        """
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    kept = [bytearray(1 << 26) for _ in range(64)]
except MemoryError as error:
    print(describe_fault(error))
"""
    )
    assert "this machine is out of memory; use a machine with more" in line


def test_a_real_limit_on_files():
    line = limited(
        """
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
try:
    kept = [open("/dev/null") for _ in range(64)]
except OSError as error:
    print(describe_fault(error))
"""
    )
    assert line.startswith("/dev/null: too many files are open; raise the limit (ulimit -n)")


def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError) as caught:
            write_bytes(tmp_path / "a", bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = describe_fault(caught.value)
    assert line is not None and line.startswith(f"{tmp_path / 'a'}: the file is larger than allowed;")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_what_orbax_raises_is_not_logged_too(tmp_path, caplog):
    faults.hide_what_is_raised_too()
    faults.hide_what_is_raised_too()
    logger = logging.getLogger("absl")
    assert logger.filters.count(faults._is_not_raised_too) == 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))
        with pytest.raises(ValueError) as caught:
            checkpoint.save_tree(tmp_path / "a", {"w": jnp.ones((512, 512))})
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        logger.error("ours")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        logger.removeFilter(faults._is_not_raised_too)
    assert [record.getMessage() for record in caplog.records] == ["ours"]
    line = describe_fault(caught.value)
    assert line is not None and line.startswith(f"{tmp_path / 'a'}: the file is larger than allowed;")


def test_errors_in_destructors_are_shown_but_for_two(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(unraisable.exc_value))
    faults.hide_what_is_raised_too()
    faults.hide_what_is_raised_too()
    other = KeyError()
    for error in (RuntimeError("Event loop is closed"), Stopped(), other):

        class Odd:
            def __del__(self, error=error):
                raise error

        Odd()
    assert shown == [other]
    logging.getLogger("absl").removeFilter(faults._is_not_raised_too)
