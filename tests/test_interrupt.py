"""Ctrl-C is noted once; a request to end waits for what is held, and not twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vllava_cli.interrupt import GracefulExit, sigint_flag


def test_the_first_ctrl_c_is_noted_and_the_second_raises() -> None:
    with sigint_flag() as is_interrupted:
        assert not is_interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert is_interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_raises_as_long_as_nothing_has_begun() -> None:
    is_early = True
    with sigint_flag(is_early=lambda: is_early) as is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert not is_interrupted()
        is_early = False
        os.kill(os.getpid(), signal.SIGINT)
        assert is_interrupted()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_ends_at_once_where_nothing_is_held(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with GracefulExit.watched(), pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("is_failing", [False, True])
def test_what_is_held_is_finished_first_and_a_failure_in_it_loses_no_request(is_failing: bool) -> None:
    done = []
    with GracefulExit.watched() as ending, pytest.raises(SystemExit) as caught, ending.held():
        os.kill(os.getpid(), signal.SIGTERM)
        assert ending.is_asked()
        done.append("the turn")
        if is_failing:
            raise ValueError
    assert (done, caught.value.code) == (["the turn"], 143)


def test_a_second_request_does_not_wait_and_behind_what_was_held_none_does() -> None:
    done = []
    with GracefulExit.watched() as ending, pytest.raises(SystemExit) as caught, ending.held():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("never")
    assert (done, caught.value.code) == ([], 143)
    with GracefulExit.watched() as ending, pytest.raises(SystemExit):
        with ending.held():
            done.append("the turn")
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("never")
    assert done == ["the turn"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with sigint_flag() as is_interrupted, GracefulExit.watched() as ending:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            assert not is_interrupted() and not ending.is_asked()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_thread_leaves_ctrl_c_to_the_main_one() -> None:
    said: list[bool] = []

    def ask() -> None:
        with sigint_flag() as is_interrupted:
            said.append(is_interrupted())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert said == [False]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_held_after_a_request_is_finished_too() -> None:
    """The file is closed while the process already ends."""
    done = []
    with GracefulExit.watched() as ending, pytest.raises(SystemExit) as caught:
        try:
            with ending.held():
                os.kill(os.getpid(), signal.SIGTERM)
        finally:
            with ending.held():
                done.append("closed")
    assert (done, caught.value.code) == (["closed"], 143)


def test_ctrl_c_while_the_command_line_is_imported_ends_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt", encoding="utf-8")
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "vllava_cli", "demo"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
