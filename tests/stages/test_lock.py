"""The lock of a run's folder: one holder, named to the second, and gone with its process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignjax.errors import InputError
from alignjax.stages.lock import locked

HOLD = """
import sys
from pathlib import Path
from alignjax.stages.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(workdir: Path) -> "subprocess.Popen[str]":
    """Another process that holds the lock until its input ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workdir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    with hold(tmp_path) as process:
        with pytest.raises(InputError) as caught, locked(tmp_path):
            pass
        message = str(caught.value)
        assert message.startswith(
            f"{tmp_path}: another run is at work in this folder (process {process.pid} on "
        )
        assert message.endswith("wait for it, stop it, or name another --workdir.")
        process.kill()
        process.wait()
        assert (tmp_path / "run.lock").exists()  # nobody cleaned up
        with locked(tmp_path):
            assert f"process {os.getpid()} on" in (tmp_path / "run.lock").read_text()
    assert not (tmp_path / "run.lock").exists()


def test_the_lock_is_released_at_the_end_and_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="broken"), locked(tmp_path):
        raise RuntimeError("broken")
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_holder_in_the_same_process_counts(tmp_path):
    with locked(tmp_path):
        with pytest.raises(InputError, match=f"process {os.getpid()} on"), locked(tmp_path):
            pass
        with pytest.raises(InputError), locked(tmp_path):  # the refused one has not taken it away
            pass


def test_folders_have_locks_of_their_own(tmp_path):
    (tmp_path / "a").mkdir()
    with locked(tmp_path), locked(tmp_path / "a"):
        pass


def test_a_folder_that_cannot_be_written_to_is_not_called_busy(tmp_path):
    with pytest.raises(OSError, match="No such file"), locked(tmp_path / "none"):
        pass
