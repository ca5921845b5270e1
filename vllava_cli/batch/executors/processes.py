"""Several engines, a process for each device, that answer from one queue; one of them may die, and no job is lost.

What a process had when it died is suspect: it is tried again clip by clip, so that one clip takes no other with it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Protocol

from vllava_cli.batch.clip_jobs import Unit
from vllava_cli.batch.counters import Meter
from vllava_cli.batch.executors.worker import STOP, Done, Failed, Message, Ready, Told
from vllava_cli.batch.executors.worker_handle import AHEAD, Member
from vllava_cli.batch.rows import Fault, Outcome
from vllava_cli.errors import MemoryShortError, VllavaError

_SLICE_S = 0.5
MOST_TRIES = 3
"""How many processes may die over a clip before it is given up."""
MOST_LOSSES = 6
"""How many may die in a row on a device, without an answer, before it is given up."""


class Listener(Protocol):
    """Who is told of what isn't an outcome."""

    def notice(self, text: str, /) -> None: ...

    def detail(self, text: str, /) -> None: ...

    def ready(self) -> None:
        """The first process can answer."""
        ...


class Crew:
    """Answers units in the processes that `starts` start, one each. Errors: what keeps one from loading its model."""

    def __init__(
        self,
        units: Sequence[Unit],
        starts: Sequence[Callable[[], Member]],
        *,
        is_stopping: Callable[[], bool],
        listener: Listener,
        meter: Meter,
    ) -> None:
        self._queue = deque(units)
        self._suspects = deque[Unit]()
        self._tries: Counter[str] = Counter()
        """How many processes have died over a clip, by its path."""
        self._starts = starts
        self._is_stopping, self._listener, self._meter = is_stopping, listener, meter
        self._members: list[Member] = []
        self._gone = Meter()
        """What those counted that have ended."""

    def outcomes(self) -> Generator[Outcome, None, None]:
        """One for each job, in the order in which they end; fewer once `is_stopping`."""
        try:
            for start in self._starts:
                self._members.append(start())
            while self._members:
                self._feed()
                wires = {member.wire: member for member in self._members}
                for wire in wait(list(wires), timeout=_SLICE_S):
                    yield from self._heard(wires[wire])  # type: ignore[index]
        finally:
            for member in self._members:
                member.end()

    @property
    def _has_work(self) -> bool:
        return bool(self._queue or self._suspects)

    def _feed(self) -> None:
        """Gives each process what it has room for, and says when there is no more."""
        is_stopping = self._is_stopping()
        for member in self._members:
            while not is_stopping and (unit := self._next(member)):
                member.jobs |= {job.id: unit for job in unit.jobs}
                member.send(unit)
            if not member.is_told and (is_stopping or self._is_over):
                member.is_told = True
                member.send(STOP if is_stopping else None)

    @property
    def _is_over(self) -> bool:
        """No unit waits, and none can come back from a process that dies."""
        return not self._has_work and not any(member.jobs for member in self._members)

    def _next(self, member: Member) -> Unit | None:
        """A suspect for one that has nothing else to lose; else the next clip, unless it has a suspect or no room."""
        units = member.units
        if self._suspects and not units:
            return self._suspects.popleft()
        is_alone = any(self._tries[str(unit.path)] for unit in units)
        return self._queue.popleft() if self._queue and len(units) < member.room and not is_alone else None

    def _heard(self, member: Member) -> Iterator[Outcome]:
        try:
            said: Message = member.wire.recv()
        except (EOFError, OSError):
            yield from self._lost(member)
            return
        match said:
            case Ready():
                member.is_ready = True
                member.room = AHEAD * said.rows_at_once
                self._listener.ready()
                loaded = f"loaded in {said.load_s:.2f} s, rows at once: {said.rows_at_once}."
                self._listener.detail(f"{member.device}: {loaded}")
            case Done():
                member.meter, member.losses = said.meter, 0
                self._count()
                if member.jobs.pop(said.outcome.job.id, None):
                    yield said.outcome
            case Told(is_detail=True):
                self._listener.detail(f"{member.device}: {said.text}")
            case Told():
                self._listener.notice(said.text)
            case Failed():
                raise said.error

    def _lost(self, member: Member) -> Iterator[Outcome]:
        """A process that ended: what it owed waits to be tried again, and another one takes its place."""
        self._members.remove(member)
        member.process.join()
        self._gone.add(replace(member.meter, used_bytes=None))
        self._count()
        if self._is_stopping() or not (member.jobs or self._has_work):
            return
        if member.jobs:
            self._listener.notice(
                f"vllava: the process on {member.device} ended ({member.ending}): its clips are begun anew."
            )
        for unit in member.units:
            rest = tuple(job for job in unit.jobs if job.id in member.jobs)
            yield from self._again(replace(unit, jobs=rest), member)
        if self._has_work:
            self._replace(member)

    def _again(self, unit: Unit, member: Member) -> Iterator[Outcome]:
        """One that died while it loaded the model says nothing about its clips."""
        if not member.is_ready:
            self._queue.append(unit)
            return
        self._tries[str(unit.path)] += 1
        if self._tries[str(unit.path)] < MOST_TRIES:
            self._suspects.append(unit)
            return
        message = f"The process that answered it ended {MOST_TRIES} times, last with {member.ending}."
        for job in unit.jobs:
            yield Outcome(job=job, fault=Fault(kind="bug", message=message))

    def _replace(self, member: Member) -> None:
        """Errors: VllavaError where nobody is left."""
        losses = member.losses + 1
        if member.is_ready and losses < MOST_LOSSES:
            successor = member.restart()
            successor.losses = losses
            self._gone.rows_at_once -= member.meter.rows_at_once
            self._members.append(successor)
        elif not self._members and not member.is_ready:
            raise MemoryShortError(
                f"The process on {member.device} ended ({member.ending}) while it loaded the model, perhaps for lack "
                "of memory: close other programs, or try --precision 4bit."
            )
        elif not self._members:
            raise VllavaError(
                f"{losses} processes on {member.device} ended in a row, the last one with {member.ending}, without an "
                "answer: try --batch-size 1, or leave --gpus out."
            )
        else:
            self._listener.notice(f"vllava: {member.device} is given up: the other processes go on.")

    def _count(self) -> None:
        """Brings the sum up to date."""
        total = Meter()
        for meter in (self._gone, *(member.meter for member in self._members)):
            total.add(meter)
        vars(self._meter).update(vars(total))
