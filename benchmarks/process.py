"""Runs a module as a process of its own, with its output in files, and says what it took from start to end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path(__file__).parents[1]


class TurnError(Exception):
    """A process that didn't do its jobs."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """What one process took."""

    wall_s: float
    cpu_s: float
    """User and system, with all processes that it started and waited for."""
    others_share: float
    """Of all cores, while it ran: what other processes took. Figures are worth less for it."""

    def __str__(self) -> str:
        return f"{self.wall_s:.2f} s, CPU {self.cpu_s:.2f} s, others {self.others_share:.0%}"


def timed(command: Sequence[str], place: Path) -> Times:
    """`python -m COMMAND`, whose output goes to files in `place`."""
    with (place / "stdout").open("wb") as stdout, (place / "stderr").open("wb") as stderr:
        started_s, busy_s = time.perf_counter(), _busy_s()
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = (contents(place / "stderr").splitlines() or ["nothing on stderr"])[-1]
        raise TurnError(f"{command[0]} ended with exit code {process.returncode}: {last}")
    cpu_s = usage.ru_utime + usage.ru_stime
    others_s = max(0.0, _busy_s() - busy_s - cpu_s)
    return Times(wall_s=wall_s, cpu_s=cpu_s, others_share=others_s / (wall_s * (os.cpu_count() or 1)))


def _busy_s() -> float:
    """What all cores of the machine have worked since it was started, and what its host kept from it."""
    times = psutil.cpu_times()._asdict()
    return float(sum(times.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def contents(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
