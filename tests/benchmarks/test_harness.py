"""A process of a benchmark that fails is a sentence, and Ctrl-C ends all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.harness import ProcessError, run_module
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


def test_a_process_that_fails_is_a_sentence() -> None:
    with pytest.raises(ProcessError) as caught:
        run_module("no_such_module")
    assert str(caught.value).startswith("no_such_module ended with exit code 1: ")
    assert str(caught.value).endswith("No module named no_such_module")
    assert caught.value.signal_number is None


def test_ctrl_c_ends_a_process_and_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    inner = (
        "import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; "
        f"time.sleep(600)']); open({str(pids)!r}, 'w').write(str(os.getpid()) + ' ' + str(child.pid) + ' '); "
        "time.sleep(600)"
    )
    script = f"from benchmarks.harness import run_module; run_module('timeit', '-n', '1', '-r', '1', {inner!r})"
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: pids.exists() and pids.read_text().endswith(" "))
        os.kill(process.pid, signal.SIGINT)
        process.wait(timeout=60)
    wait_for(lambda: not any(map(is_alive, map(int, pids.read_text().split()))))


def is_alive(pid: int) -> bool:
    """A process that waits for its parent to notice its end isn't alive."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
