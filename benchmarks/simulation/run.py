"""Lets the phases of a simulated run follow each other, kills the one that it must, and keeps what they took."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, ProcessError
from benchmarks.simulation.phases import MERGED
from benchmarks.simulation.plan import Plan

PARTS = "parts"
FIRST, REST, MERGE = "first half, killed", "resume, rest", "merge"


@dataclass(kw_only=True)
class Phase:
    """What one process took, and what it told."""

    name: str
    wall_s: float = 0.0
    peak_bytes: int = 0
    rows: int = 0
    steps_s: dict[str, float] = field(default_factory=dict)
    """ "scan": 3.2, in the order in which they came."""
    written: list[tuple[int, int]] = field(default_factory=list)
    """(rows in the parts, bytes of memory then)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The latest of each kind."""

    def note(self, told: Mapping[str, Any]) -> None:
        if "step" in told:
            self.steps_s[told["step"]] = told["seconds"]
        elif "written" in told:
            self.written.append((told["written"], told["rss"]))
        self.facts |= told

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.wall_s


@dataclass(frozen=True, kw_only=True)
class Run:
    """All phases of a plan."""

    plan: Plan
    phases: tuple[Phase, ...]

    def of(self, name: str) -> Phase:
        return next(phase for phase in self.phases if phase.name == name)


def simulate(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Run:
    """`folder` is empty or isn't there. Errors: ProcessError where a process doesn't do what it is there for."""
    place = folder / PARTS
    place.mkdir(parents=True)
    phases: list[Phase] = []

    def done(phase: Phase) -> Phase:
        tell(f"{phase.name}: {phase.wall_s:.1f} s, at most {phase.peak_bytes / (1 << 20):,.0f} MiB")
        phases.append(phase)
        return phase

    done(_run("jobs, clips, manifest", _words("prepare", place, plan, plan.fleet.deaths)))
    half = plan.jobs // 2
    first = _run(FIRST, _words("first", place, plan, plan.fleet.deaths), kill_at=half)
    first.rows = first.facts["written"]
    deaths = plan.fleet.deaths - first.facts["died"]
    done(first)
    done(_run(REST, _words("rest", place, plan, deaths)))
    merge = _run(MERGE, ["vllava_cli", "merge", str(folder / MERGED), str(place)])
    merge.rows = plan.jobs
    done(merge)
    done(_run("check of what was merged", _words("check", place, plan, 0)))
    return Run(plan=plan, phases=tuple(phases))


def _words(name: str, place: Path, plan: Plan, deaths: int) -> list[str]:
    return ["benchmarks.simulation.phases", name, str(place), str(deaths), plan.as_json()]


def _run(name: str, words: Sequence[str], *, kill_at: int | None = None) -> Phase:
    """`python -m WORDS` to its end, or to the row that it is killed at."""
    phase = Phase(name=name)
    stderr_path = Path(words[2] if words[0].startswith("bench") else words[3]).parent / "stderr"
    started_s = time.perf_counter()
    with (
        stderr_path.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        is_killed = False
        for line in process.stdout or ():
            phase.note(json.loads(line))
            if kill_at is not None and not is_killed and phase.facts.get("written", 0) >= kill_at:
                process.send_signal(signal.SIGKILL)
                is_killed = True
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    phase.wall_s = time.perf_counter() - started_s
    phase.peak_bytes = usage.ru_maxrss * 1024
    phase.rows = phase.facts.get("rows", 0)
    expected = 0 if kill_at is None else -signal.SIGKILL
    if process.returncode != expected:
        last = (stderr_path.read_text(encoding="utf-8", errors="replace").splitlines() or ["nothing on stderr"])[-1]
        raise ProcessError(f"{name} ended with exit code {process.returncode} instead of {expected}: {last}")
    return phase
