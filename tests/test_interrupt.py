"""Ctrl-C is noted once; a request to end waits for what is held, and not twice."""

from __future__ import annotations

import os
import signal

import pytest

from vllava_cli.interrupt import Ending, noted


def test_the_first_ctrl_c_is_noted_and_the_second_raises() -> None:
    with noted() as is_interrupted:
        assert not is_interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert is_interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_ends_at_once_where_nothing_is_held(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Ending.watched(), pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_what_is_held_is_finished_first() -> None:
    done = []
    with Ending.watched() as ending, pytest.raises(SystemExit) as caught, ending.held():
        os.kill(os.getpid(), signal.SIGTERM)
        assert ending.is_asked()
        done.append("the turn")
    assert (done, caught.value.code) == (["the turn"], 143)


def test_a_second_request_does_not_wait() -> None:
    done = []
    with Ending.watched() as ending, pytest.raises(SystemExit) as caught, ending.held():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("never")
    assert (done, caught.value.code) == ([], 143)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Ending.watched() as ending:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not ending.is_asked()
    finally:
        signal.signal(signal.SIGHUP, before)
