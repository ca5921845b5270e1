"""A cluster's run without a model: jobs, manifest, parts, resume, reconciling and merge are the real ones, the engines
are service times in simulated time.

Each phase is a process of its own, so that its peak memory is its own. Half-way the one that writes is killed.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vllava_cli.cluster import manifest
from vllava_cli.cluster.parts import opened
from vllava_cli.cluster.reconcile import mismatch
from vllava_cli.cluster.request import Place
from vllava_cli.commands import merge
from vllava_cli.commands.batch.rows import About, Fault, Outcome, row_of
from vllava_cli.commands.batch.units import Unit, units_of
from vllava_cli.jobs import Job, Wanted, made
from vllava_cli.nouns import Answer, Stats
from vllava_cli.screen import Screen

ABOUT = About(model="simulated", revision=None, precision="fp16")
MOST_TAKEN = 1000
_SAID = (
    "A person in a red jacket pours water into a glass, looks up, and laughs at something that is not in the picture."
)
_STATS = Stats(prompt_tokens=0, reused_tokens=0, new_tokens=0, first_token_s=0.0, decode_s=0.0)
_ANSWER = Answer(text=_SAID, stop_reason="end", stats=_STATS, probabilities=())
_TIMES_S = tuple(1.25 * number for number in range(8))
_FAULT = Fault(kind="unreadable", message="The clip is damaged.")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is simulated; times in seconds."""

    jobs: int = 1_000_000
    actors: int = 64
    clips: int = 16
    """Given to an engine at once."""
    clip_s: float = 0.25
    """Of an engine's time for each clip, in such a group."""
    spread: float = 0.3
    deaths: int = 32
    """Of actors, in the whole run: what they had comes again."""
    doubles: float = 0.001
    """Of rows that come twice."""
    errors: float = 0.01
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What a phase took."""

    name: str
    wall_s: float
    peak_bytes: int
    rows: int = 0
    quarters_bytes: tuple[int, ...] = ()
    """What was resident when 25, 50, 75 and 100% of its rows were written."""
    facts: dict[str, float] | None = None


def jobs_of(scene: Scene) -> list[Job]:
    """One question about each of so many clips, which need not be there."""
    wanted = (
        Wanted(path=f"/data/clips/{number % 997:03}/clip-{number:07}.mp4", question="What happens in this video?")
        for number in range(scene.jobs)
    )
    return made(wanted, "simulated")


def groups(scene: Scene, units: Sequence[Unit]) -> Iterator[tuple[float, list[Job]]]:
    """(simulated second, jobs) in the order in which actors are done; a group whose actor dies is given to another."""
    chance = random.Random(scene.seed)
    waiting = [list(units[start : start + scene.clips]) for start in range(0, len(units), scene.clips)][::-1]
    deaths = {chance.randrange(max(1, len(waiting))) for _ in range(scene.deaths)}
    busy: list[tuple[float, int, list[Unit]]] = []
    now_s, number = 0.0, 0
    while waiting or busy:
        while waiting and len(busy) < scene.actors:
            group, number = waiting.pop(), number + 1
            takes_s = sum(max(0.0, chance.gauss(1, scene.spread)) for _ in group) * scene.clip_s
            heapq.heappush(busy, (now_s + takes_s, number, group))
        now_s, done, group = heapq.heappop(busy)
        if done in deaths:
            deaths.discard(done)
            waiting.append(group)
        else:
            yield now_s, [job for unit in group for job in unit.jobs]


def rows_in(scene: Scene, units: Sequence[Unit], clock: Callable[[float], object]) -> Iterator[dict[str, Any]]:
    """As they come to the driver: errors among them, some twice."""
    chance = random.Random(scene.seed + 1)
    for now_s, jobs in groups(scene, units):
        clock(now_s)
        for job in jobs:
            is_bad = chance.random() < scene.errors
            answered = Outcome(job=job, answer=_ANSWER, times_s=_TIMES_S, seconds=scene.clip_s)
            row = row_of(Outcome(job=job, fault=_FAULT) if is_bad else answered, ABOUT)
            yield row
            if chance.random() < scene.doubles:
                yield row


def list_jobs(scene: Scene, folder: Path) -> Phase:
    """The jobs, their clips, the manifest."""
    started_s = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    units = units_of(jobs_of(scene))
    manifest.write(str(folder), units)
    size = (folder / manifest.NAME).stat().st_size
    return _phase("jobs and manifest", started_s, rows=len(units), facts={"manifest_bytes": size})


def answer(scene: Scene, folder: Path, *, most: int | None) -> Phase:
    """Opens the output, which is the resume scan, and writes what isn't there; kills itself after `most` rows."""
    jobs = jobs_of(scene)
    started_s = time.perf_counter()
    with opened(Place(name=str(folder)), jobs, ABOUT) as parts:
        scan_s = time.perf_counter() - started_s
        left = {job.id: job for job in jobs if not parts.is_done(job)}
        todo, written, quarters = len(left), 0, list[int]()
        latest_s = [0.0]
        rows = rows_in(scene, units_of(left.values()), lambda now_s: latest_s.__setitem__(0, now_s))
        while taken := list(islice(rows, MOST_TAKEN)):
            new = [row for row in taken if left.pop(row["id"], None)]
            parts.extend(new)
            written += len(new)
            quarters += [_resident_bytes()] * (len(quarters) < 4 * written // todo)
            if most is not None and written >= most:
                _tell(_phase("until it is killed", started_s, rows=written, quarters=quarters))
                os.kill(os.getpid(), signal.SIGKILL)
        parts.finish(jobs)
    busy_s = todo * scene.clip_s
    facts = {
        "resume_s": scan_s,
        "done_before": len(jobs) - todo,
        "simulated_hours": latest_s[0] / 3600,
        "busy_share": busy_s / (latest_s[0] * scene.actors) if latest_s[0] else 0.0,
    }
    return _phase("resumed, to the end", started_s, rows=written, quarters=quarters, facts=facts)


def reconcile(scene: Scene, folder: Path) -> Phase:
    """What is there, read again, held against the jobs. Errors: SystemExit where it differs."""
    jobs = jobs_of(scene)
    started_s = time.perf_counter()
    with opened(Place(name=str(folder)), jobs, ABOUT) as parts:
        facts = {"resume_s": time.perf_counter() - started_s, "done_before": sum(map(parts.is_done, jobs))}
        found = mismatch(jobs, parts.ids(), parts.before)
    if found:
        sys.exit("\n".join(found.told()))
    return _phase("reconciled", started_s, rows=len(jobs), facts=facts)


def merged(scene: Scene, folder: Path) -> Phase:
    """The parts as one file, by the command. Errors: SystemExit where rows are lost."""
    started_s = time.perf_counter()
    out = folder.parent / "all.jsonl"
    request = merge.Merge(out=out, shards=(str(folder),), is_overwriting=True)
    code = merge.run(request, Screen(is_quiet=True))
    with out.open("rb") as file:
        rows = sum(1 for _ in file)
    if code or rows != scene.jobs:
        sys.exit(f"merge ended with {code} and wrote {rows:,} rows of {scene.jobs:,}")
    return _phase("merged", started_s, rows=rows, facts={"bytes": out.stat().st_size})


def run(name: str, scene: Scene, folder: Path) -> None:
    """One phase, in this process; its figures are printed as JSON."""
    phases: dict[str, Callable[[], Phase]] = {
        "jobs": lambda: list_jobs(scene, folder),
        "first": lambda: answer(scene, folder, most=scene.jobs // 2),
        "rest": lambda: answer(scene, folder, most=None),
        "reconcile": lambda: reconcile(scene, folder),
        "merge": lambda: merged(scene, folder),
    }
    _tell(phases[name]())


def _phase(
    name: str,
    started_s: float,
    *,
    rows: int = 0,
    quarters: Sequence[int] = (),
    facts: dict[str, float] | None = None,
) -> Phase:
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    wall_s = time.perf_counter() - started_s
    return Phase(
        name=name, wall_s=wall_s, peak_bytes=peak_bytes, rows=rows, quarters_bytes=tuple(quarters), facts=facts
    )


def _tell(phase: Phase) -> None:
    print(json.dumps(asdict(phase)), flush=True)  # noqa: T201  (the other end of a pipe reads it)


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
