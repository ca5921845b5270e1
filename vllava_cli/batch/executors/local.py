"""The executor of this process: an engine answers clips whose frames are read ahead in other processes."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.answers import Sampling
from vllava_cli.batch.executors import RunControl
from vllava_cli.batch.executors.samples import ClipSamples
from vllava_cli.batch.jobs import ClipJobs, Job, has_changed
from vllava_cli.batch.rows import JobError, Result
from vllava_cli.commands.provenance import Loaded, Making, ShownClip, seeded
from vllava_cli.commands.reach import engine_by, found
from vllava_cli.commands.start import start
from vllava_cli.engine.answering import AnswerEngine, AnswerRequest, AnswerResult, Batching
from vllava_cli.errors import TrimError, UsageError, quoted
from vllava_cli.imports import gc_paused
from vllava_cli.media.fingerprint import Fingerprint, Hashing
from vllava_cli.media.timeline.spoken import Spoken
from vllava_cli.nouns import AUTO, OFF, Frames, Log, MediaKind
from vllava_cli.prompt import heard, lettered, letters
from vllava_cli.times import Stopwatch

if TYPE_CHECKING:
    from vllava_cli.batch.executors.ray_actors import DecodedReads
    from vllava_cli.batch.request import BatchRequest
    from vllava_cli.client.connection import Address
    from vllava_cli.engine.generate import Engine
    from vllava_cli.engine.tokens import Tokens
    from vllava_cli.media.decoder.pool import Read, ReadAhead
    from vllava_cli.nouns import Source

    Query = AnswerRequest["AnswerKey"] | AnswerResult["AnswerKey"]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerKey:
    """The jobs that an answer belongs to, several if they ask the same question, and the facts for their rows."""

    jobs: tuple[Job, ...]
    times_s: tuple[float, ...] | None = None
    sampling: Sampling | None = None
    """The sampling of this question, with its seed."""
    clip: ShownClip | None = None
    hashed: Future[Fingerprint] | None = None
    spoken: Spoken | None = None
    """What is spoken in the clip, if that was asked for."""
    error: JobError | None = None
    """The error of a clip that can't be read; the other facts are None then."""
    sampled_s: tuple[float, ...] = ()
    """The times of the frames, those of an image too."""
    samples: ClipSamples | None = None
    """The samples of the clip, of which this is one; None if their answers are joined, or the clip can't be read."""


@dataclass(kw_only=True)
class LocalExecutor:
    """Answers all jobs about the clips whose frames `reads` gives.

    Notices report clips that are damaged but usable, and that memory ran out.
    """

    engine: AnswerEngine
    batch: BatchRequest
    reads: ReadAhead[ClipJobs, Frames] | DecodedReads
    control: RunControl
    longest: int = 0
    """The number of characters in the longest question."""

    def __post_init__(self) -> None:
        sampling = self.batch.sampling
        longest = self.engine.tokens.context_tokens if self.batch.subs else self.longest
        self.most_rows = self.batch.most_rows or self.engine.rows_that_fit(sampling, question_characters=longest)
        self._loaded = Loaded.by(self.engine)
        self._hashing = Hashing() if self.batch.is_hashing else None
        self._samples: dict[str, ClipSamples] = {}
        """The samples of each clip of which some haven't been read, by the id of the clip's first job."""

    def outcomes(self, clip_jobs: Sequence[ClipJobs], /) -> Generator[Result, None, None]:  # noqa: ARG002  (their frames are read)
        """Answers as `Executor.outcomes` does; with --hash a result waits for the hash of its clip."""
        from vllava_cli.interrupt import Cancel

        batching = Batching(
            sampling=self.batch.sampling,
            fit=self.batch.framing.fit,
            most_rows=self.most_rows,
            cancel=Cancel(self.control.is_stopping),
            on_shortage=self._report_shortage,
        )
        counters = self.control.counters
        counters.rows_at_once = self.most_rows
        with self._hashing or nullcontext():
            for finished in self.engine.answers(self._queries, batching):
                counters.idle_s = self.reads.waited_s
                counters.tower_calls = self.engine.tower_calls
                counters.used_bytes = self.engine.used_bytes
                if samples := finished.key.samples:
                    counters.new_tokens += finished.answer.stats.new_tokens if finished.answer else 0
                    samples.add(finished)
                for result in self._joined(samples) if samples else [finished]:
                    yield from self._results(result)

    def _queries(self, most: int, *, is_waiting: bool) -> Sequence[Query] | None:
        """Returns about `most` queries, those of the clips that are ready; None when all clips are taken."""
        given: list[Query] = []
        while len(given) < most and not self.reads.is_over:
            is_idle = is_waiting and not given
            reads = self.reads.take(1, is_waiting=is_idle, is_interrupted=self.control.is_stopping)
            if not reads:
                break
            given += self._queries_of(reads[0])
        return given if given or not self.reads.is_over else None

    def _queries_of(self, read: Read[ClipJobs, Frames]) -> list[Query]:
        from vllava_cli.engine.spoken_room import spoken_that_fits

        self.control.counters.decode_s += read.seconds
        clip, frames = read.key, read.found
        if not self.control.is_wanted(clip):
            return []
        samples = self._sample_of(clip)
        error = fault_of(clip, read.fault, clip.path) if read.fault else change_of(clip) or lack_of_time(clip, frames)
        if samples.has_failed:
            return []
        if frames is None or error:
            samples.has_failed = True
            return [AnswerResult(key=AnswerKey(jobs=clip.jobs, error=error))]
        for text in (*samples.new_remarks(frames), *(frames.subtitles.faults if frames.subtitles else ())):
            self.control.notice(text)
        if not samples.take(frames, clip.shift):
            return list(self._joined(samples))
        if self._hashing and not samples.hashed:
            samples.hashed = self._hashing.begin(clip.path)
        size = clip.jobs[0].size
        # The size of a URL or of a folder's pictures is unknown.
        is_counted = size >= 0 and frames.clip.container != "folder"
        key = AnswerKey(
            jobs=clip.jobs,
            times_s=None if frames.kind == "image" else frames.times_s,
            clip=ShownClip(
                framing=clip.framing(self.batch.framing), bytes=size if is_counted else None, reasons=frames.reasons
            ),
            hashed=samples.hashed,
            sampled_s=frames.times_s,
            samples=samples,
        )
        queries: list[Query] = []
        for jobs in clip.questions():
            question, choices = asked_of(jobs[0], self.batch)
            sampling = seeded(replace(self.batch.sampling, choices=choices))
            spoken = spoken_that_fits(self.engine.tokens, frames, question, sampling)
            own = replace(key, jobs=jobs, sampling=sampling, spoken=spoken)
            asked = heard(spoken.text, question) if spoken else question
            queries.append(AnswerRequest(key=own, medium=frames, question=asked, seed=sampling.seed, choices=choices))
        return queries

    def _sample_of(self, clip: ClipJobs) -> ClipSamples:
        """Returns the samples of the clip of which one was read."""
        id, wanted, framing = clip.jobs[0].id, self.batch.agreeing, clip.framing(self.batch.framing)
        samples = self._samples.pop(id, None)
        if samples is None:
            self.control.counters.clips += 1
            samples = ClipSamples(unread=len(wanted.shifts(framing)) if wanted else 1)
        samples.unread -= 1
        if samples.unread:
            self._samples[id] = samples
        return samples

    def _joined(self, samples: ClipSamples) -> Iterator[AnswerResult[AnswerKey]]:
        return samples.joined(self.batch.agreeing)

    def _results(self, finished: AnswerResult[AnswerKey]) -> Iterator[Result]:
        key, answer, making = finished.key, finished.answer, None
        if answer:
            making = Making(
                loaded=self._loaded,
                fit=self.batch.framing.fit,
                clips=(key.clip.hashed(key.hashed),) if key.clip else (),
                sampling=key.sampling or self.batch.sampling,
                prompt_sha256=answer.prompt_sha256,
                answer_ids=answer.ids,
                agreeing=self.batch.agreeing,
                spoken=key.spoken,
                has_letters=bool(answer.probabilities) and self.batch.has_letters,
            )
        for job in key.jobs:
            yield Result(
                job=job,
                answer=answer,
                times_s=key.times_s,
                error=JobError.of(finished.fault) if finished.fault else key.error,
                seconds=finished.seconds,
                precision=self._loaded.precision,
                making=making,
            )

    def _report_shortage(self, rows: int) -> None:
        self.control.counters.rows_at_once, noun = rows, "question" if rows == 1 else "questions"
        self.control.notice(f"vllava: memory ran out: continuing with {rows} {noun} at once.")


@gc_paused()
def import_engine() -> None:
    """Imports torch and transformers, which takes seconds, at a time when the caller has nothing else to do.

    OpenMP's threads are told to sleep while they wait for each other. If they spin, they take cores from the decoders,
    and a pass takes twenty times as long. The variable must be set before the library is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import vllava_cli.engine.batch
    import vllava_cli.engine.load  # noqa: F401


@gc_paused()
def read_tokens(source: Source) -> Tokens:
    """Reads the description and the tokenizer of a checkpoint. Errors: CheckpointError."""
    from vllava_cli.engine import tokens
    from vllava_cli.engine.checkpoint import describe

    return tokens.read_tokens(describe(source))


def asked_of(job: Job, batch: BatchRequest) -> tuple[str, tuple[str, ...]]:
    """Returns the question as the model reads it, and the texts whose likelihoods are compared, if any.

    With letters: ("Why?", ("fun", "rain")) → ("Why?\\nA. fun\\nB. rain\\n…", ("A", "B")).
    """
    choices = job.choices or batch.sampling.choices
    if not (choices and batch.has_letters):
        return job.question, choices
    return lettered(job.question, choices), letters(len(choices))


def longest_question(jobs: Iterable[Job], batch: BatchRequest) -> int:
    """Returns the number of characters in the longest question, with the choices that are written into it."""
    return max(len(asked_of(job, batch)[0]) for job in jobs)


def server_of(batch: BatchRequest) -> Address | None:
    """Returns the address of the server that answers; None if the model is loaded here, on several GPUs, or by Ray.

    Errors: UsageError if a server is named beside --gpus or --ray.
    """
    elsewhere = "--ray" if batch.ray else "--gpus" if batch.devices else ""
    if elsewhere and batch.server not in (AUTO, OFF):
        raise UsageError(f"--server {batch.server} answers alone: leave it out, or leave out {elsewhere}.")
    return None if elsewhere or batch.is_dry else found(batch.server, batch.wishes)


def find_engine(
    batch: BatchRequest,
    address: Address | None,
    tokens: Tokens,
    kinds: Iterable[MediaKind],
    control: RunControl,
    *,
    is_quiet: bool = True,
    watch: Stopwatch,
) -> AnswerEngine:
    """Returns the engine of the server at an address, or loads one in this process. Errors: any VllavaError."""

    def load() -> AnswerEngine:
        import_engine()
        return load_engine(batch, tokens, kinds, control, is_quiet=is_quiet, watch=watch)

    log = Log(notice=control.notice, detail=control.detail)
    return engine_by(batch.server, address, tokens, log, load)


def load_engine(
    batch: BatchRequest,
    tokens: Tokens,
    kinds: Iterable[MediaKind],
    control: RunControl,
    *,
    is_quiet: bool = True,
    watch: Stopwatch | None = None,
) -> Engine:
    """Loads the engine, and sets `load_s` of the counters. Errors: any VllavaError.

    A context that is shorter than the checkpoint's for lack of memory is accepted: a question that doesn't fit becomes
    a row with an error.
    """
    log = Log(notice=control.notice, detail=control.detail, has_bars=not is_quiet)
    watch = watch or Stopwatch()
    engine, control.counters.load_s = start(
        batch.wishes, tokens, kinds, log, watch, check=lambda _: None, has_clip_cache=batch.has_clip_cache
    )
    return engine


def fault_of(clip: ClipJobs, error: Exception, path: Path) -> JobError:
    """Makes the error of a clip that can't be read from a path; "trim" if it has no frame in the part of its jobs."""
    found = JobError.of(error, path)
    if not (clip.jobs[0].window and isinstance(error, TrimError)):
        return found
    return replace(found, kind="trim", message=found.message.removeprefix("--"))


def lack_of_time(clip: ClipJobs, frames: Frames | None) -> JobError | None:
    """Returns the error of jobs that ask about a part of an image; None if they don't."""
    if frames is None or frames.kind == "video" or not clip.jobs[0].window:
        return None
    message = f"{quoted(clip.path)} is an image, which has no parts. Leave the times of its jobs out."
    return JobError(kind="trim", message=message)


def change_of(clip: ClipJobs) -> JobError | None:
    """Returns the error of a clip whose file has changed or vanished since the run began; None if it hasn't."""
    if not has_changed(clip.jobs[0]):
        return None
    name = quoted(clip.path)
    if not os.path.exists(clip.path):
        return JobError(kind="missing", message=f"There is no file {name} any more. Check the path.")
    return JobError(kind="changed", message=f"{name} has changed since the run began. Run the same command again.")
