"""SIGTERM: at once where nothing is lost, later where something would be."""

import os
import signal

import pytest

from alignjax.runtime import preemption


@pytest.fixture(autouse=True)
def restored():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    preemption._State.asked = False


def test_a_signal_stops_at_once():
    preemption.watch()
    assert not preemption.asked()
    with pytest.raises(preemption.Stopped):
        os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.asked()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the second one ends the process


def test_a_deferred_signal_only_tells():
    preemption.watch()

    @preemption.deferred()
    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        return preemption.asked()

    assert work()


def test_no_user_function_swallows_it():
    preemption.watch()
    with pytest.raises(preemption.Stopped):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("taken for an error of a user's own code")
