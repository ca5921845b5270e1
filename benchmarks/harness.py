"""The harness of all benchmarks: workers alternate, each repeat is a process of its own, and its cost is recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import psutil

ROOT = Path(__file__).parents[1]
_Repeat = TypeVar("_Repeat")


class ProcessError(Exception):
    """A process didn't do its work; `signal_number` says which signal ended it, if one did."""

    def __init__(self, sentence: str, *, signal_number: int | None = None) -> None:
        super().__init__(sentence)
        self.signal_number = signal_number


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target with what was found, as a sentence."""

    text: str
    is_met: bool

    def __str__(self) -> str:
        """ "- identical frames: 21 of 21 files: met" """
        return f"- {self.text}: {'met' if self.is_met else 'MISSED'}"


@dataclass(frozen=True, kw_only=True)
class Times:
    """The cost of one process."""

    wall_s: float
    cpu_s: float
    """User and system time, with all processes that it started and waited for."""
    others_share: float
    """The share of all cores that other processes took meanwhile. Figures are worth less for it."""

    def __str__(self) -> str:
        return f"{self.wall_s:.2f} s, CPU {self.cpu_s:.2f} s, others {self.others_share:.0%}"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A process that succeeded: its cost and its output."""

    times: Times
    stdout: str
    stderr: str


def alternate(
    workers: Mapping[str, Callable[[], _Repeat]],
    repeat: int,
    *,
    is_last: Callable[[_Repeat], bool] = lambda _: False,
) -> dict[str, list[_Repeat]]:
    """Runs A B C A B C …, so that a change of the machine's speed meets all of them.

    A worker whose repeat `is_last` says to be too slow or a failure isn't run again.
    """
    found: dict[str, list[_Repeat]] = {name: [] for name in workers}
    for _ in range(repeat):
        for name, run in workers.items():
            if not any(map(is_last, found[name])):
                found[name].append(run())
    return found


def run_module(module: str, *words: str, environment: Mapping[str, str] | None = None) -> Finished:
    """Runs `python -m MODULE WORDS` to its end; Ctrl-C ends it with all that it started. Errors: ProcessError.

    Without an environment, the process has that of this one.
    """
    with TemporaryFile() as stdout, TemporaryFile() as stderr:
        started_s, busy_s = time.perf_counter(), _busy_s()
        command = [sys.executable, "-m", module, *words]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            start_new_session=True,
        )  # fmt: skip
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            with suppress(ProcessLookupError, PermissionError):  # its whole group has ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        wall_s = time.perf_counter() - started_s
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if process.returncode:
        last = (texts[1].splitlines() or ["nothing on stderr"])[-1]
        number = -process.returncode if process.returncode < 0 else None
        raise ProcessError(f"{module} ended with exit code {process.returncode}: {last}", signal_number=number)
    cpu_s = usage.ru_utime + usage.ru_stime
    others_s = max(0.0, _busy_s() - busy_s - cpu_s)
    times = Times(wall_s=wall_s, cpu_s=cpu_s, others_share=others_s / (wall_s * (os.cpu_count() or 1)))
    return Finished(times=times, stdout=texts[0], stderr=texts[1])


def _busy_s() -> float:
    """Seconds for which the cores of the machine have worked since its start, and which its host kept from it."""
    times = psutil.cpu_times()._asdict()
    return float(sum(times.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))
