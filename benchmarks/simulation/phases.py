"""The phases of a run, each a process: `python -m benchmarks.simulation.phases NAME FOLDER DEATHS PLAN`.

Each begins like `vllava batch` does, with the making of all jobs, and tells what it finds as JSON lines on stdout.
"""

from __future__ import annotations

import json
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.simulation.cluster import Cluster, batches, units_in
from benchmarks.simulation.plan import ABOUT, Plan, fails
from vllava_cli.batch import output
from vllava_cli.batch.executors.ray_driver import write_manifest
from vllava_cli.batch.jobs import Job, group_by_clip
from vllava_cli.batch.merge import mismatches
from vllava_cli.batch.output import Output
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import row_of
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import read_rows

MERGED = "all.jsonl"
"""Beside the folder of the parts."""
_KILLED_BEFORE = 0.75
"""The first half's process goes no further than this, however late the kill comes."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """What the process of a phase was told."""

    plan: Plan
    folder: Path
    """Of the parts and the manifest."""
    deaths: int

    def prepare(self) -> None:
        """Jobs, clips, manifest; nothing else."""
        with timed("jobs"):
            jobs = self.plan.made()
        with timed("clips, manifest"):
            write_manifest(str(self.folder), group_by_clip(jobs))
        tell(rows=len(jobs))

    def first(self) -> None:
        """Until somebody kills it."""
        with timed("jobs"):
            jobs = self.plan.made()
        with self._opened(jobs) as out:
            self._answer(out, jobs, most=int(_KILLED_BEFORE * len(jobs)))
            signal.pause()

    def rest(self) -> None:
        """Begun again: what is there is learned, what lacks is answered, and the whole is held against the jobs."""
        with timed("jobs"):
            jobs = self.plan.made()
        with self._opened(jobs) as out:
            tell(found=len(out.before))
            self._answer(out, jobs)
            with timed("finish"):
                out.finish(jobs)
            with timed("reconcile"):
                found = mismatches(jobs, out.ids(), out.before)
        tell(rows=len(jobs) - len(out.before), mismatch=found)

    def check(self) -> None:
        """What merge wrote, read by code that knows nothing of batches: rows, ids, errors."""
        ids, rows, errors, wrong = set(), 0, 0, 0
        with timed("read"):
            for row in read_rows(self.folder.parent / MERGED):
                rows += 1
                ids.add(bytes.fromhex(row["id"]))
                errors += row["error"] is not None
                wrong += (row["error"] is not None) != fails(row["id"])
        tell(rows=rows, ids=len(ids), errors=errors, wrong=wrong)

    @contextmanager
    def _opened(self, jobs: Sequence[Job]) -> Iterator[Output]:
        opening = output.opened(Destination(parts=str(self.folder)), jobs, ABOUT, Screen())
        with timed("scan"):
            out = opening.__enter__()
        try:
            yield out
        finally:
            opening.__exit__(None, None, None)

    def _answer(self, out: Output, jobs: Sequence[Job], most: int | None = None) -> None:
        """As a run does it, until the cluster has no more, or `most` rows are written in all."""
        todo = [job for job in jobs if not out.is_done(job)]
        left = {job.id: job for job in todo}
        done = len(jobs) - len(todo)
        with timed("clips, manifest"):
            place = write_manifest(str(self.folder), group_by_clip(left.values()))
        clips = len({job.path for job in todo})
        cluster = Cluster(plan=self.plan, units=units_in(place), clips=clips, deaths=self.deaths)
        again = 0
        tell(written=done, rss=rss_bytes())
        with timed("answer"):
            for taken in batches(cluster.rows(), self.plan.rows_at_once):
                rows = [row_of(result, ABOUT) for result in map(pickle.loads, taken) if left.pop(result.job.id, None)]
                for row in rows:
                    out.put(row)
                out.flush()
                done += len(rows)
                again += len(taken) - len(rows)
                tell(written=done, rss=rss_bytes(), again=again, **_standing(cluster))
                if most is not None and done >= most:
                    break


def _standing(cluster: Cluster) -> dict[str, object]:
    return {
        "simulated_s": cluster.now_s,
        "answering_s": cluster.answering_s,
        "decoding_s": cluster.decoding_s,
        "died": cluster.died,
    }


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Tells how long a step took, and the memory at its end."""
    started_s = time.perf_counter()
    yield
    tell(step=step, seconds=time.perf_counter() - started_s, rss=rss_bytes())


def tell(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def rss_bytes() -> int:
    """Of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def main(words: Sequence[str]) -> None:
    name, folder, deaths, plan = words
    driver = Driver(plan=Plan.of_json(plan), folder=Path(folder), deaths=int(deaths))
    phases: dict[str, Callable[[], None]] = {
        "prepare": driver.prepare,
        "first": driver.first,
        "rest": driver.rest,
        "check": driver.check,
    }
    phases[name]()
    tell(peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main(sys.argv[1:])
