"""The way from clips to outcomes: frames are read ahead in other processes while the engine answers what was read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from vllava_cli.batch.clip_jobs import Unit
from vllava_cli.batch.counters import Meter
from vllava_cli.batch.jobs import Job, has_changed
from vllava_cli.batch.rows import Fault, Outcome
from vllava_cli.commands.provenance import Loaded, Making, ShownClip, seeded
from vllava_cli.errors import quoted
from vllava_cli.media.fingerprint import Fingerprint, Hashing
from vllava_cli.nouns import Answer, Frames, Framing, Sampling

if TYPE_CHECKING:
    from vllava_cli.engine.batch import AnswerRequest, AnswerResult
    from vllava_cli.engine.generate import Engine
    from vllava_cli.media.decoder.pool import Read


@dataclass(frozen=True, kw_only=True, eq=False)
class Key:
    """What an answer belongs to: several jobs where the same was asked more than once."""

    jobs: tuple[Job, ...]
    times_s: tuple[float, ...] | None = None
    sampling: Sampling | None = None
    """With the seed that this question is answered with."""
    clip: ShownClip | None = None
    hashed: Future[Fingerprint] | None = None
    """None of them is known of a clip that couldn't be read."""


class Reads(Protocol):
    """Clips with their frames, as `Ahead` gives them."""

    @property
    def waited_s(self) -> float: ...

    @property
    def is_over(self) -> bool: ...

    def take(self, most: int, *, is_waiting: bool, is_interrupted: Callable[[], bool]) -> list[Read[Unit, Frames]]: ...


@dataclass(kw_only=True)
class Line:
    """Answers all jobs about the clips whose frames are read ahead.

    `tell` gets what is to be said of a clip that is damaged but can be used, and of memory that ran out. With `hashing`
    each clip is hashed while it is asked about, and an outcome waits for that.
    """

    engine: Engine
    ahead: Reads
    sampling: Sampling
    framing: Framing
    most_rows: int
    is_stopping: Callable[[], bool]
    tell: Callable[[str], object]
    hashing: Hashing | None = None
    meter: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        self._loaded = Loaded.of(self.engine.plan, self.engine.tokens.checkpoint)

    def outcomes(self) -> Iterator[Outcome]:
        """One for each job, in the order in which they end."""
        with self.hashing or nullcontext():
            yield from self._outcomes()

    def _outcomes(self) -> Iterator[Outcome]:
        from vllava_cli.engine.batch import BatchScheduler, used_bytes
        from vllava_cli.engine.cancel import Cancel

        batching: BatchScheduler[Key] = BatchScheduler(
            engine=self.engine,
            sampling=self.sampling,
            fit=self.framing.fit,
            most_rows=self.most_rows,
            cancel=Cancel(self.is_stopping),
            on_shortage=self._tell_shortage,
        )
        self.meter.rows_at_once = self.most_rows
        for finished in batching.answers(self._queries):
            self.meter.new_tokens += finished.answer.stats.new_tokens if finished.answer else 0
            self.meter.idle_s = self.ahead.waited_s
            self.meter.tower_calls = self.engine.vision.calls
            self.meter.used_bytes = used_bytes(self.engine.model.device)
            yield from self._outcomes_of(finished)

    def _queries(self, most: int, *, is_waiting: bool) -> Sequence[AnswerRequest[Key] | AnswerResult[Key]] | None:
        """Clips until there are `most` queries, or none is ready."""
        given: list[AnswerRequest[Key] | AnswerResult[Key]] = []
        while len(given) < most and not self.ahead.is_over:
            reads = self.ahead.take(1, is_waiting=is_waiting and not given, is_interrupted=self.is_stopping)
            if not reads:
                break
            for read in reads:
                given += self._of(read)
        return given if given or not self.ahead.is_over else None

    def _of(self, read: Read[Unit, Frames]) -> list[AnswerRequest[Key] | AnswerResult[Key]]:
        from vllava_cli.engine.batch import AnswerRequest, AnswerResult

        self.meter.clips += 1
        self.meter.decode_s += read.seconds
        unit, frames, fault = read.key, read.found, _fault(read)
        if frames is None or fault:
            return [AnswerResult(key=Key(jobs=unit.jobs), fault=fault)]
        for text in frames.clip.faults:
            self.tell(text)
        key = Key(
            jobs=unit.jobs,
            times_s=None if frames.kind == "image" else frames.times_s,
            clip=ShownClip(framing=self.framing, bytes=_size(unit, frames)),
            hashed=self.hashing.begin(unit.path) if self.hashing else None,
        )
        queries: list[AnswerRequest[Key] | AnswerResult[Key]] = []
        for question, jobs in unit.questions():
            sampling = seeded(self.sampling)
            own = replace(key, jobs=jobs, sampling=sampling)
            queries.append(AnswerRequest(key=own, medium=frames, question=question, seed=sampling.seed))
        return queries

    def _outcomes_of(self, finished: AnswerResult[Key]) -> Iterator[Outcome]:
        error, key, answer = finished.fault, finished.key, finished.answer
        fault = error.fault if isinstance(error, ClipError) else Fault.of_question(error) if error else None
        making = self._making(key, answer) if answer else None
        for job in key.jobs:
            yield Outcome(
                job=job,
                answer=answer,
                times_s=key.times_s,
                fault=fault,
                seconds=finished.seconds,
                precision=self._loaded.precision,
                making=making,
            )

    def _making(self, key: Key, answer: Answer) -> Making:
        return Making(
            loaded=self._loaded,
            fit=self.framing.fit,
            clips=(key.clip.hashed(key.hashed),) if key.clip else (),
            sampling=key.sampling or self.sampling,
            prompt_sha256=answer.prompt_sha256,
            answer_ids=answer.ids,
        )

    def _tell_shortage(self, rows: int) -> None:
        self.meter.rows_at_once, noun = rows, "question" if rows == 1 else "questions"
        self.tell(f"vllava: memory ran out: going on with {rows} {noun} at once.")


class ClipError(Exception):
    """What is wrong with a clip, and so with all jobs about it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def changed(unit: Unit) -> Fault | None:
    """What is wrong with a file that was another one when the run began."""
    if not has_changed(unit.jobs[0]):
        return None
    name = quoted(unit.path)
    if not os.path.exists(unit.path):
        return Fault(kind="missing", message=f"There is no file {name} any more. Check the path.")
    return Fault(kind="changed", message=f"{name} has changed since the run began. Run the same command again.")


def _fault(read: Read[Unit, Frames]) -> ClipError | None:
    fault = Fault.of_clip(read.fault, read.key.path) if read.fault else changed(read.key)
    return ClipError(fault) if fault else None


def _size(unit: Unit, frames: Frames) -> int | None:
    """None for a URL and for a folder, whose pictures nobody has counted."""
    size = unit.jobs[0].size
    return size if size >= 0 and frames.clip.container != "folder" else None
