"""The fake cluster: clips of a manifest → rows, in simulated time. A heap of events; nothing sleeps, nothing decodes.

Decoders work ahead of the engines as far as there is room. An actor that dies gives its batch back; every other one
dies after its rows went out, so that these come twice.
"""

from __future__ import annotations

import heapq
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from random import Random
from typing import Any

from benchmarks.simulation.plan import Plan, comes_twice, fails
from vllava_cli.answers import Answer, Stats
from vllava_cli.batch.jobs import ClipJobs, Job
from vllava_cli.batch.rows import JobError, Result

BATCHES_AHEAD = 2
"""For each actor, of decoded clips."""
LATE_S = 30.0
"""After how long a row comes for the second time."""
_TIMES_S = tuple(1.25 * number for number in range(8))
_STATS = Stats(prompt_tokens=2073, reused_tokens=0, new_tokens=25, first_token_s=0.3, decode_s=0.2)
_ANSWER = Answer(
    text="A person in a red coat walks along a street, stops at a window and looks at the things that are shown there.",
    stop_reason="end",
    stats=_STATS,
)
_FAULT = JobError(kind="unreadable", message="'clip.mp4' can't be decoded: it is cut off. Copy it again.")


@dataclass(kw_only=True)
class Cluster:
    """One run of it. `deaths` is how many of the plan's are still to come."""

    plan: Plan
    units: Iterator[ClipJobs]
    clips: int
    """How many `units` gives."""
    deaths: int
    now_s: float = 0.0
    answering_s: float = 0.0
    """Of all engines together."""
    decoding_s: float = 0.0
    died: int = 0
    _events: list[tuple[float, int, Callable[[], list[bytes]]]] = field(default_factory=list)
    _begun: int = 0
    _batches: int = 0
    _decoding: int = 0
    _idle: int = 0
    _is_read: bool = False
    _ready: deque[ClipJobs] = field(default_factory=deque)
    _again: deque[list[ClipJobs]] = field(default_factory=deque)
    _random: Random = field(default_factory=partial(Random, 7))

    def rows(self) -> Iterator[bytes]:
        """Pickled results, in the order in which they come; each job's at least once."""
        self._idle = self.plan.fleet.actors
        batches = -(-self.clips // self.plan.fleet.batch)
        deadly = set(self._random.sample(range(batches), min(self.deaths, batches)))
        self._begin(deadly)
        while self._events:
            self.now_s, _, happen = heapq.heappop(self._events)
            yield from happen()
            self._begin(deadly)

    def _begin(self, deadly: set[int]) -> None:
        """Whatever can be begun now."""
        fleet = self.plan.fleet
        room = BATCHES_AHEAD * fleet.actors * fleet.batch
        while not self._is_read and self._decoding < fleet.decoders and self._decoding + len(self._ready) < room:
            unit = next(self.units, None)
            if unit is None:
                self._is_read = True
            else:
                self._decode(unit)
        while self._idle and (batch := self._next()):
            self._answer(batch, is_deadly=self._batches in deadly)

    def _next(self) -> list[ClipJobs] | None:
        """What an engine is given: what was given back, a full batch, or the last clips."""
        if self._again:
            return self._again.popleft()
        is_last = self._is_read and not self._decoding and self._ready
        if len(self._ready) < self.plan.fleet.batch and not is_last:
            return None
        return [self._ready.popleft() for _ in range(min(self.plan.fleet.batch, len(self._ready)))]

    def _decode(self, unit: ClipJobs) -> None:
        took_s = self._around(self.plan.service.decode_s)
        self._decoding += 1
        self.decoding_s += took_s
        self._at(took_s, partial(self._decoded, unit))

    def _decoded(self, unit: ClipJobs) -> list[bytes]:
        self._decoding -= 1
        self._ready.append(unit)
        return []

    def _answer(self, batch: list[ClipJobs], *, is_deadly: bool) -> None:
        questions = sum(len(unit.jobs) for unit in batch)
        took_s = self._around(self.plan.service.answer_s) * questions
        self._idle -= 1
        self._batches += 1
        self.answering_s += took_s
        self._at(took_s, partial(self._died if is_deadly else self._answered, batch))

    def _answered(self, batch: list[ClipJobs]) -> list[bytes]:
        self._idle += 1
        rows = {job.id: pickle.dumps(_result(job)) for unit in batch for job in unit.jobs}
        if late := [row for id, row in rows.items() if comes_twice(id)]:
            self._at(LATE_S, lambda: late)
        return list(rows.values())

    def _died(self, batch: list[ClipJobs]) -> list[bytes]:
        self.died += 1
        rows = self._answered(batch) if self.died % 2 == 0 else []
        self._idle -= len(rows) > 0
        self._again.append(batch)
        self._at(self.plan.fleet.restart_s, self._restarted)
        return rows

    def _restarted(self) -> list[bytes]:
        self._idle += 1
        return []

    def _at(self, after_s: float, happen: Callable[[], list[bytes]]) -> None:
        self._begun += 1
        heapq.heappush(self._events, (self.now_s + after_s, self._begun, happen))

    def _around(self, mean_s: float) -> float:
        return mean_s * self._random.uniform(0.5, 1.5)


def batches(rows: Iterator[bytes], most: int) -> Iterator[list[bytes]]:
    """As the driver takes them from the cluster."""
    while taken := list(islice(rows, most)):
        yield taken


def units_in(manifest: str) -> Iterator[ClipJobs]:
    """As the cluster reads it: some rows at once."""
    import pyarrow.parquet as pq

    from vllava_cli.batch.executors.ray_actors import clip_jobs_in

    with pq.ParquetFile(manifest) as file:
        for batch in file.iter_batches(256):
            rows: list[dict[str, Any]] = batch.to_pylist()
            yield from map(clip_jobs_in, rows)


def _result(job: Job) -> Result:
    if fails(job.id):
        return Result(job=job, error=_FAULT)
    return Result(job=job, answer=_ANSWER, times_s=_TIMES_S, seconds=0.5)
