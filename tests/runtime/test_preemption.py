"""Signals: at once where nothing is lost, later where something would be."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from alignjax.runtime import preemption

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def watched():
    before = [signal.getsignal(number) for number in SIGNALS]
    with preemption.watched():
        yield
    assert not preemption.asked() and not preemption.was_raised()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_at_once_and_the_next_of_either_kind_would_end_the_process(number):
    assert not preemption.asked() and not preemption.was_raised()
    with pytest.raises(preemption.Stopped):
        send(number)
    assert preemption.asked() and preemption.was_raised()
    assert [signal.getsignal(kind) for kind in SIGNALS] == [signal.SIG_DFL, signal.SIG_DFL]


def test_a_deferred_signal_is_only_told_of():
    @preemption.deferred()
    def work():
        send()
        preemption.stop_if_asked()
        with preemption.uninterrupted():  # the enclosing block decides
            pass
        return preemption.asked()

    assert work()
    assert not preemption.was_raised()
    with pytest.raises(preemption.Stopped):
        preemption.stop_if_asked()


def test_an_uninterrupted_block_is_completed_first():
    done = []

    @preemption.uninterrupted()
    def write():
        with preemption.uninterrupted():
            send()
            done.append("inner")
        done.append("outer")

    with pytest.raises(preemption.Stopped):
        write()
    assert done == ["inner", "outer"]


def test_an_error_of_an_uninterrupted_block_goes_first():
    with pytest.raises(KeyError), preemption.uninterrupted():
        send()
        raise KeyError
    assert preemption.asked() and not preemption.was_raised()


def test_cleaning_up_after_a_stop_is_not_cut_short():
    done = []
    with pytest.raises(preemption.Stopped):
        try:
            send()
        finally:
            for name in "ab":
                with preemption.uninterrupted():
                    done.append(name)
    assert done == ["a", "b"]


def test_a_stop_that_foreign_code_dropped_is_raised_again():
    try:
        send()
    except BaseException:
        pass
    with pytest.raises(preemption.Stopped):
        preemption.stop_if_asked()
    with pytest.raises(preemption.Stopped), preemption.uninterrupted():
        pass


def test_another_thread_neither_defers_nor_raises():
    send_now, seen = threading.Event(), []

    def other():
        with preemption.uninterrupted():
            send_now.wait(30)
            seen.append(preemption._State.deferred)

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.raises(preemption.Stopped):
        send()
    send_now.set()
    thread.join()
    assert seen == [0]


def test_no_user_function_swallows_it():
    with pytest.raises(preemption.Stopped):
        try:
            send()
        except Exception:
            pytest.fail("taken for an error of a user's own code")


def test_what_arose_from_a_stop_is_recognized():
    stop, other = preemption.Stopped(), ValueError("a")
    assert preemption.is_stop(stop) and not preemption.is_stop(other) and not preemption.is_stop(None)
    other.__context__ = stop
    assert preemption.is_stop(other)
    try:
        try:
            raise stop
        except preemption.Stopped:
            raise ValueError("wrapped") from None
    except ValueError as error:
        assert preemption.is_stop(error)
    assert preemption.is_stop(BaseExceptionGroup("tasks", [KeyError(), stop]))
    loop = KeyError()
    loop.__context__ = ValueError()
    loop.__context__.__context__ = loop
    assert not preemption.is_stop(loop)


def test_within_an_event_loop():
    async def work():
        send()
        await asyncio.sleep(10)

    with pytest.raises(preemption.Stopped):
        asyncio.run(work())


def python(code, *before):
    return subprocess.run(
        [*before, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(preemption.__file__).parents[2],
        timeout=120,
    )


LONG_CALL = """
import os, signal, threading, time
import numpy as np
from alignjax.runtime import preemption
big = np.random.default_rng(0).normal(size=(3000, 3000))
def send():
    for number in (signal.{first}, signal.{second}):
        time.sleep(0.3)
        os.kill(os.getpid(), number)
with preemption.watched():
    threading.Thread(target=send, daemon=True).start()
    np.linalg.svd(big)  # many seconds in C, without a look at signals
print("survived")
"""


@pytest.mark.parametrize(
    ("first", "second", "status"), [("SIGTERM", "SIGINT", 130), ("SIGINT", "SIGTERM", 143)]
)
def test_a_second_signal_ends_the_process_within_a_long_call(first, second, status):
    ended = python(LONG_CALL.format(first=first, second=second))
    assert (ended.returncode, ended.stdout) == (status, ""), ended.stderr


def test_an_inherited_ignored_ctrl_c_stays_ignored():
    code = """
import os, signal
from alignjax.runtime import preemption
with preemption.watched():
    os.kill(os.getpid(), signal.SIGINT)
    assert not preemption.asked() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except preemption.Stopped:
        print("stopped")
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
"""
    ended = python(code, "sh", "-c", """trap '' INT; exec "$@" """, "sh")
    assert (ended.returncode, ended.stdout) == (0, "stopped\n"), ended.stderr


def test_watching_imports_no_jax():
    ended = python("import sys; import alignjax.runtime.preemption; print('jax' in sys.modules)")
    assert ended.stdout == "False\n", ended.stderr
