"""How a command ends: its status and its one line, whatever happens within it."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import cli
from alignjax.errors import InfeasibleError, InputError
from alignjax.runtime import checkpoint, preemption
from alignjax.runtime.files import write_text

SAVED = "progress saved; run the same command to resume\n"
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def end(capfd):
    """end(main) runs a command that takes no flags; its status and what it wrote to standard error."""

    def run(main, **options):
        capfd.readouterr()
        before = [signal.getsignal(number) for number in SIGNALS]
        with pytest.raises(SystemExit) as ended:
            cli.run(main, ["command"], **options)
        assert [signal.getsignal(number) for number in SIGNALS] == before
        return ended.value.code, capfd.readouterr().err

    return run


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def fails(error):
    def main():
        raise error

    return main


def test_statuses(end):
    assert end(lambda: None) == (0, "")
    assert end(fails(InputError("a: is\nwrong; mend it."))) == (2, "a: is wrong; mend it.\n")
    assert end(fails(InfeasibleError("b"))) == (3, "b\n")
    assert end(fails(preemption.Stopped())) == (75, SAVED)
    status, line = end(fails(OSError(28, "", "/run/a")))
    assert status == 2 and line.startswith("/run/a: no space left on the disk; ") and line.count("\n") == 1
    with pytest.raises(KeyError):  # a bug: its traceback
        cli.run(fails(KeyError("a")), ["command"])
    with pytest.raises(KeyboardInterrupt):
        cli.run(fails(KeyboardInterrupt()), ["command"])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal(end, number):
    assert end(lambda: send(number)) == (75, SAVED)
    assert end(lambda: send(number), resumes=False) == (75, "stopped; run the same command again\n")


def wrapped():
    try:
        send()
    except BaseException as error:
        raise ValueError("a library's own") from error


def replaced():
    try:
        send()
    except BaseException:
        pass
    raise ValueError("in another thread, so that nothing links them")


def dropped():
    try:
        send()
    except BaseException:
        pass


def refused():
    try:
        send()
    except BaseException as error:
        raise InputError(f"the user's function failed: {error!r}") from None


def in_a_destructor():
    class Odd:
        def __del__(self):
            send()

    Odd()


def in_an_event_loop():
    async def work():
        send()
        await asyncio.sleep(60)

    async def both():
        await asyncio.gather(work(), asyncio.sleep(60))

    asyncio.run(both())


def in_a_compilation():
    @jax.jit
    def f(x):
        send()  # while it is traced
        return x + 1

    f(jnp.zeros(3))


def in_a_callback():
    def here(x):
        send()
        return x

    f = jax.jit(lambda x: jax.pure_callback(here, jax.ShapeDtypeStruct((3,), jnp.float32), x))
    f(jnp.zeros(3, jnp.float32)).block_until_ready()


def in_an_import():
    import importlib

    folder = Path(os.environ["PYTEST_FOLDER"])
    (folder / "sends_a_signal.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module("sends_a_signal")
    finally:
        sys.path.remove(str(folder))


MOMENTS = [
    wrapped,
    replaced,
    dropped,
    refused,
    in_an_event_loop,
    in_a_compilation,
    in_a_callback,
    in_an_import,
]


@pytest.mark.parametrize("main", MOMENTS)
def test_a_signal_whatever_foreign_code_makes_of_it(end, main, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_FOLDER", str(tmp_path))
    status, line = end(main)
    assert status == 75 and line.endswith(SAVED)


def test_a_signal_after_which_all_was_done(end):
    assert end(preemption.deferred()(send)) == (0, "")


def test_a_failure_that_a_signal_did_not_cause(end):
    @preemption.deferred()
    def main():
        send()
        raise InputError("the loss is not finite.")

    assert end(main) == (2, "the loss is not finite.\n")


def test_a_save_that_fails_after_a_signal_does_not_say_saved(end):
    def main():
        try:
            send()
        finally:
            raise OSError(28, "", "/run/a")

    status, line = end(main)
    assert status == 2 and line.startswith("/run/a: no space left")


def test_a_file_that_was_looked_for_does_not_hide_the_signal(end, tmp_path):
    def main():
        try:
            (tmp_path / "gone" / "a").read_text()
        except FileNotFoundError:
            send()

    assert end(main) == (75, SAVED)


@pytest.mark.parametrize("moment", np.linspace(0.0, 0.08, 9))
def test_a_signal_at_any_moment_of_restores_and_writes(end, tmp_path, moment):
    tree = {"w": jnp.ones((64, 64)), "b": [jnp.ones(n) for n in range(1, 5)]}
    checkpoint.save_tree(tmp_path / "a", tree)
    timer = threading.Timer(moment, os.kill, (os.getpid(), signal.SIGTERM))

    def main():
        timer.start()
        while True:
            checkpoint.restore_tree(tmp_path / "a", tree)
            write_text(tmp_path / "b", "text")

    assert end(main) == (75, SAVED)
    timer.join()
    assert {path.name for path in tmp_path.iterdir()} <= {"a", "b"}


def test_a_file_that_is_too_large(end, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        tree = {"w": jnp.ones((1024, 1024))}
        ended = [
            end(lambda: checkpoint.save_tree(tmp_path / "a", tree)),
            end(lambda: write_text(tmp_path / "a", "x" * (1 << 21))),
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for status, line in ended:
        assert status == 2, line
        assert line.startswith(
            f"{tmp_path / 'a'}: the file is larger than allowed; raise the limit (ulimit -f), "
        )
        assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())


def command(code, before=""):
    """A command in a process of its own; `before` its imports, which it announces then."""
    before += '\nprint("importing")' if before else ""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", f"{before}\nimport time\nfrom alignjax import cli\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(cli.__file__).parents[1],
    )


LOOP = """
def main():
    try:
        print("begun")
        while True:
            pass
    finally:
        print("saving")
        time.sleep({seconds})
cli.run(main, ["command"])
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_ends_in_75(number):
    process = command(LOOP.format(seconds=0))
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (75, "saving\n", SAVED)


@pytest.mark.parametrize(("first", "second"), [SIGNALS, SIGNALS[::-1], SIGNALS[:1] * 2, SIGNALS[1:] * 2])
def test_a_second_signal_quits_at_once(first, second):
    process = command(LOOP.format(seconds=60))
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(first)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(second)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (-second, "")  # a shell calls it 128 + the number


def test_standard_output_that_takes_no_more():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", "from alignjax import cli\ncli.run(lambda: print('a'), ['command'])"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            text=True,
            check=False,
            cwd=Path(cli.__file__).parents[1],
        )
    assert ended.returncode == 2
    assert (
        ended.stderr.startswith("standard output: no space left on the disk; ")
        and ended.stderr.count("\n") == 1
    )


def test_a_signal_during_the_imports():
    process = command("", before="from alignjax.runtime import preemption\npreemption.exit_on_signal()")
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (75, "stopped; run the same command again\n")


def test_a_signal_after_the_end():
    code = """
import atexit
atexit.register(lambda: (print("ending"), time.sleep(60)))
cli.run(lambda: print("done"), ["command"])
"""
    process = command(code, before="from alignjax.runtime import preemption\npreemption.exit_on_signal()")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["importing\n", "done\n", "ending\n"]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (75, "stopped; run the same command again\n")
