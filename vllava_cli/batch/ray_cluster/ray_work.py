"""The passes over a manifest until every job has its row; what ends each process that touches it becomes an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vllava_cli.batch import progress
from vllava_cli.batch.clip_jobs import each_unit
from vllava_cli.batch.counters import Meter
from vllava_cli.batch.progress import Tally
from vllava_cli.batch.ray_cluster import manifest
from vllava_cli.batch.ray_cluster.actors import failure_of, row_in
from vllava_cli.batch.ray_cluster.connect import connected
from vllava_cli.batch.ray_cluster.queue_client import batches
from vllava_cli.batch.ray_cluster.ray_request import LOCAL, ClusterBatch
from vllava_cli.batch.ray_cluster.resources import Node, Sizes, sizes
from vllava_cli.batch.ray_cluster.result_queue import Taken
from vllava_cli.batch.ray_cluster.setup import Setup, Task
from vllava_cli.batch.rows import Fault, Outcome, row_of
from vllava_cli.errors import ClusterError
from vllava_cli.nouns import DEMO_MODEL, counted
from vllava_cli.screen import Screen

if TYPE_CHECKING:
    from vllava_cli.batch.jobs import Job
    from vllava_cli.batch.ray_cluster.parts import Parts

Rows = Sequence[dict[str, Any]]
MOST_PASSES = 3
"""With a clip at a time, before what is left is blamed and not the machines that it met."""
MOST_SUSPECTS = 50
"""Jobs that an interrupted run may have left because they end what is asked about them."""


@dataclass(kw_only=True)
class Work:
    """What a run on a cluster has in hand."""

    cluster: ClusterBatch
    setup: Setup
    out: Parts
    tally: Tally
    screen: Screen
    is_interrupted: Callable[[], bool]
    connect: Callable[[str, Callable[[str], object]], AbstractContextManager[tuple[Node, ...]]] = connected
    feed: Callable[..., Iterator[Taken]] = batches
    """Both are Ray's; tests have others."""
    meter: Meter = field(default_factory=Meter)
    shares: Sizes | None = None
    _left: dict[str, Job] = field(default_factory=dict)
    """Jobs without a row, by id: a row that comes twice, as after the end of a machine, is written once."""
    _has_answered: bool = False
    _has_told_vain: bool = False

    def do(self, todo: Sequence[Job]) -> None:
        """All of it, or as much as there is time for. Errors: any VllavaError; KeyboardInterrupt."""
        self._left = {job.id: job for job in todo}
        if self._left:
            self._connect()
        if self.cluster.batch.has_stats:
            self._tell_stats()

    def is_stopping(self) -> bool:
        """Whether nothing new is begun."""
        return self.is_interrupted() or (self.cluster.batch.is_failing_fast and bool(self.tally.errors))

    def _connect(self) -> None:
        if self.setup.source.model == DEMO_MODEL:
            self.screen.notice(
                "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality."
            )
        where = "Starting Ray" if self.cluster.address == LOCAL else f"Connecting to {self.cluster.address}"
        started_s = time.perf_counter()
        with (
            self.screen.progress(lambda: self._parts(where), is_shared=False),
            self.connect(self.cluster.address, self.screen.detail) as nodes,
        ):
            self.shares = sizes(nodes, self.cluster.wanted)
            self.meter.load_s = time.perf_counter() - started_s
            self.screen.detail(_told(self.shares, len(nodes)))
            self._passes(self.shares)

    def _passes(self, shares: Sizes) -> None:
        """Until nothing is left: what a pass leaves out is asked for again, a clip at a time."""
        passes_alone = 0
        while self._left and not self.is_stopping():
            before = len(self._left)
            fault = self._pass(shares)
            if fault and len(self._left) == before:
                raise ClusterError(fault)
            if not self._left or self.is_stopping():
                return
            self.screen.detail(f"{counted(len(self._left), 'job')} without a row: another pass.")
            shares = replace(shares, clips=1)
            passes_alone += fault is None
            if passes_alone > MOST_PASSES:
                self._give_up()

    def _pass(self, shares: Sizes) -> str | None:
        """Why the cluster ended before all was handed out, None where it didn't."""
        place = manifest.write(self.cluster.output.name, each_unit(self._left.values()))
        task = Task(setup=self.setup, sizes=shares, manifest=place, may_end_engines=self._may_end_engines())
        for taken in self.feed(task, is_stopping=self.is_stopping):
            if taken.rows:
                self._put([row_in(row) for row in taken.rows])
            self._tell_vain(taken.vain_starts)
            if taken.fault:
                return taken.fault
        return None

    def _may_end_engines(self) -> bool:
        """In a run that has answered some, or goes on with the last few of one that had."""
        earlier = self.tally.skipped > self.tally.skipped_errors
        return self._has_answered or (earlier and len(self._left) <= MOST_SUSPECTS)

    def _tell_vain(self, starts: int) -> None:
        """Once, as it may yet come right."""
        if starts and not self._has_told_vain:
            self._has_told_vain = True
            self.screen.notice(
                "vllava: an engine's process ended before it had answered anything; it is started again. "
                "If that goes on, its machine lacks memory."
            )

    def _put(self, rows: Rows) -> None:
        """Errors: ClusterError where there was no engine; OutputError."""
        self.tally.begin()
        for row in rows:
            if failure := failure_of(row):
                raise ClusterError(failure)
        new = list(self._new(rows))
        self.out.extend(new)
        for row in new:
            self._has_answered |= row["answer"] is not None
            self.tally.note(row["error"] and row["error"]["kind"])
        self.meter.clips += len({row["path"] for row in new})

    def _new(self, rows: Rows) -> Iterator[dict[str, Any]]:
        for row in rows:
            if self._left.pop(row["id"], None):
                yield row

    def _give_up(self) -> None:
        message = (
            "Each process of the cluster that was given this clip ended without a word. Ask about it alone, with ask."
        )
        fault = Fault(kind="bug", message=message)
        self._put([row_of(Outcome(job=job, fault=fault), self.setup.about) for job in self._left.values()])

    def _parts(self, where: str) -> list[str]:
        if not self.tally.has_begun:
            return [where if self.shares is None else "Waiting for the first rows"]
        return progress.standing(self.tally, self.meter, now_s=time.perf_counter())

    def _tell_stats(self) -> None:
        now_s = time.perf_counter()
        shares = self.shares
        stats: dict[str, float] = {
            "wall_s": now_s - self.tally.started_s,
            "connect_s": self.meter.load_s,
            "answering_s": now_s - (self.tally.ready_s or now_s),
            "clips": self.meter.clips,
            "jobs": self.tally.now,
            "actors": shares.actors if shares else 0,
            "decoders": shares.decoders if shares else 0,
        }
        progress.tell_stats(stats, self.screen)


def _told(shares: Sizes, nodes: int) -> str:
    """ "ray: 2 machines; 2 engines with 1 GPU and 1 CPU each, 8 decoders, 16 clips at once." """
    gpus = f"{counted(shares.gpus_per_actor, 'GPU')} and " if shares.gpus_per_actor else ""
    engines = f"{counted(shares.actors, 'engine')} with {gpus}{counted(shares.cpus_per_actor, 'CPU')} each"
    more = f"{counted(shares.decoders, 'decoder')}, {counted(shares.clips, 'clip')} at once"
    return f"ray: {counted(nodes, 'machine')}; {engines}, {more}."
