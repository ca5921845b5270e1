"""The stages that run in the processes of a cluster: a clip of the manifest → its frames → its results.

Neither stage raises for a clip. Only an engine that can't be had ends the run: then its error comes instead of
results.
"""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.batch.executors import RunControl, local
from vllava_cli.batch.jobs import ClipJobs, Job
from vllava_cli.batch.request import BatchRequest
from vllava_cli.batch.rows import JobError, Result
from vllava_cli.errors import MediaError, VllavaError, quoted
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.decoder.pool import Read
from vllava_cli.media.fingerprint import Fingerprint, fingerprint
from vllava_cli.media.remote.fetch import Fetcher
from vllava_cli.media.remote.policy import allowed, scheme_of, without_secrets
from vllava_cli.media.select import spread
from vllava_cli.nouns import DecodeLimits, Frames, MediaKind, VideoRecipe

if TYPE_CHECKING:
    from vllava_cli.batch.executors.ray_queue import QueueReporter
    from vllava_cli.engine.generate import Engine
    from vllava_cli.nouns import Source

CLIP, RESULT = "clip", "result"
"""The one column behind each stage."""


@dataclass(frozen=True, kw_only=True)
class StageSetup:
    """The settings that the driver sends to the processes of a cluster, once."""

    batch: BatchRequest
    source: Source
    longest: int
    """Characters of the longest question."""
    folder: str
    """The driver's own: relative paths begin there on each machine that has it."""
    recipe: VideoRecipe
    """The checkpoint's: frames are made as small as the model takes them where they are decoded."""

    @property
    def allowed(self) -> tuple[str, ...]:
        return self.batch.ray.allowed if self.batch.ray else ()


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """A clip on its way to an engine, with either its frames or its error."""

    clip: ClipJobs
    frames: Frames | None = None
    error: JobError | None = None
    is_early: bool = False
    """Whether the header showed the error, which is read before any model is loaded."""
    seconds: float = 0.0
    fingerprint: Fingerprint | None = None
    """Of a URL, and with --hash of a file."""


def manifest_row(clip: ClipJobs) -> dict[str, bytes]:
    """The path in the system's bytes, as names need not be UTF-8; the jobs as JSON in ASCII, for the same reason."""
    jobs = [
        {"id": job.id, "question": job.question, "size": job.size, "mtime_ns": job.mtime_ns, "fields": dict(job.fields)}
        for job in clip.jobs
    ]
    return {"path": os.fsencode(clip.jobs[0].path), "jobs": json.dumps(jobs).encode("ascii")}


def clip_jobs_in(row: Mapping[str, Any]) -> ClipJobs:
    """The clip that a row of the manifest was written from."""
    path = os.fsdecode(row["path"])
    return ClipJobs(jobs=tuple(Job(path=path, **job) for job in json.loads(row["jobs"])))


def decode(row: Mapping[str, Any], setup: StageSetup) -> dict[str, bytes]:
    """The stage on CPUs: a row of the manifest → a row with a pickled `DecodedClip`."""
    with suppress(OSError):
        os.chdir(setup.folder)
    return {CLIP: pickle.dumps(decoded(clip_jobs_in(row), setup), protocol=pickle.HIGHEST_PROTOCOL)}


def decoded(clip: ClipJobs, setup: StageSetup) -> DecodedClip:
    """Fetches the clip where it is a URL; the bounded process that this process keeps reads it."""
    started_s = time.perf_counter()
    try:
        with _local(clip, setup) as (path, fetched):
            found = _read(clip, path, setup)
            if found.frames:
                found = replace(found, fingerprint=fetched or _fingerprint(path, setup))
    except Exception as exc:
        found = DecodedClip(clip=clip, error=JobError.of_clip(exc, clip.path), is_early=True)
    return replace(found, seconds=time.perf_counter() - started_s)


def _read(clip: ClipJobs, path: Path, setup: StageSetup) -> DecodedClip:
    """The header is read first, as it is on one machine before any model is loaded."""
    from vllava_cli.media.pixels import fitted

    framing, is_early = setup.batch.framing, True
    try:
        decoder = _decoder(setup.batch.limits)
        decoder.header(path)
        is_early = False
        frames = fitted(spread(decoder.sample(path, framing), framing.fit), setup.recipe, fit=framing.fit)
        error = local.change_of(clip)
    except Exception as exc:
        error = JobError.of_clip(exc, path)
        if path != clip.path:  # messages about a fetched file name its URL
            name = without_secrets(clip.jobs[0].path)
            error = replace(error, message=error.message.replace(quoted(path), name))
    return DecodedClip(clip=clip, error=error, is_early=is_early) if error else DecodedClip(clip=clip, frames=frames)


def _fingerprint(path: Path, setup: StageSetup) -> Fingerprint | None:
    """None for a file that need not be hashed, or that can't be read any more."""
    with suppress(MediaError):
        return fingerprint(path) if setup.batch.is_hashing else None
    return None


@contextmanager
def _local(clip: ClipJobs, setup: StageSetup) -> Iterator[tuple[Path, Fingerprint | None]]:
    """The clip's file, and the fingerprint of one that was fetched."""
    name = clip.jobs[0].path
    if scheme_of(name) is None:
        yield clip.path, None
        return
    with _fetcher(setup.allowed).fetched(name) as fetched:
        yield fetched.path, fetched.fingerprint


@cache
def _decoder(limits: DecodeLimits) -> DecoderClient:
    """One for each process, which Ray uses for many clips: a new one would cost more than most clips take."""
    return DecoderClient(limits)


@cache
def _fetcher(words: tuple[str, ...]) -> Fetcher:
    return Fetcher(allowed=allowed(words))


class EngineActor:
    """The stage on GPUs: an engine in each actor, loaded with the first clips and the towers that they need."""

    def __init__(self, setup: StageSetup, reports: QueueReporter) -> None:
        reports.begun()
        with suppress(OSError):
            os.chdir(setup.folder)
        local.import_engine()
        self._setup = setup
        self._reports = reports
        self._is_settled = False
        self._engine: Engine | None = None

    def __call__(self, batch: Mapping[str, Sequence[bytes]]) -> dict[str, list[bytes]]:
        """A column of pickled `DecodedClip` → one of pickled `Result`, or of a sentence where there is no engine."""
        clips: list[DecodedClip] = [pickle.loads(clip) for clip in batch[CLIP]]
        try:
            return {RESULT: [pickle.dumps(result) for result in self.results(clips)]}
        except VllavaError as exc:
            return {RESULT: [pickle.dumps(str(exc))]}

    def results(self, clips: Sequence[DecodedClip]) -> Iterator[Result]:
        """One for each job. Errors: VllavaError where the engine can't be had."""
        good = [clip for clip in clips if clip.frames]
        if good or not all(clip.is_early for clip in clips):
            self._load({clip.frames.kind for clip in good if clip.frames})
        precision = self._engine.plan.precision if self._engine else None
        for clip in clips:
            for job in clip.clip.jobs if clip.error else ():
                yield Result(job=job, error=clip.error, precision=None if clip.is_early else precision)
        for result in self._answered(good):
            yield replace(result, precision=precision)
        if good and not self._is_settled:
            self._is_settled = True
            self._reports.settled()

    def _answered(self, clips: Sequence[DecodedClip]) -> Iterator[Result]:
        """Whatever breaks is an error of the clips that it broke, and the next clips get a new engine."""
        left = {job.id: job for clip in clips for job in clip.clip.jobs}
        prints = {clip.clip.jobs[0].path: clip.fingerprint for clip in clips}
        try:
            for result in self._executor(self._engine, clips).outcomes(()) if clips and self._engine else ():
                del left[result.job.id]
                yield _with_print(result, prints[result.job.path])
        except Exception as exc:
            self._engine = None
            for job in left.values():
                yield Result(job=job, error=JobError.of_question(exc))

    def _executor(self, engine: Engine, clips: Sequence[DecodedClip]) -> local.LocalExecutor:
        batch = replace(self._setup.batch, is_hashing=False)  # that was done where the clips are
        return local.LocalExecutor(
            engine=engine,
            batch=batch,
            reads=DecodedReads(clips),
            control=RunControl(),
            longest=self._setup.longest,
        )

    def _load(self, kinds: set[MediaKind]) -> None:
        """Errors: any VllavaError."""
        if not self._engine:
            tokens = local.read_tokens(_found(self._setup))
            self._engine = local.load_engine(self._setup.batch, tokens, kinds or {"video"}, RunControl())


class DecodedReads:
    """Clips that are all decoded, given as `ReadAhead` gives them."""

    waited_s = 0.0

    def __init__(self, clips: Sequence[DecodedClip]) -> None:
        self._clips = list(clips)

    @property
    def is_over(self) -> bool:
        return not self._clips

    def take(
        self,
        most: int,
        *,
        is_waiting: bool,  # noqa: ARG002
        is_interrupted: Callable[[], bool],  # noqa: ARG002
    ) -> list[Read[ClipJobs, Frames]]:
        taken, self._clips = self._clips[:most], self._clips[most:]
        return [Read(key=each.clip, found=each.frames, fault=None, seconds=each.seconds) for each in taken]


def _with_print(result: Result, found: Fingerprint | None) -> Result:
    """The result with the size and the hash of its clip, where they are known."""
    making = result.making
    if making is None or found is None:
        return result
    clips = tuple(replace(clip, bytes=found.bytes, sha256=found.sha256) for clip in making.clips)
    return replace(result, making=replace(making, clips=clips))


def _found(setup: StageSetup) -> Source:
    """The checkpoint on this machine, which need not be where the driver has it."""
    from vllava_cli.engine.adapter import locate

    source, wishes = setup.source, setup.batch.wishes
    is_here = source.folder.exists() and (source.adapter is None or source.adapter.folder.exists())
    if is_here:
        return source
    return locate(replace(wishes, revision=source.revision))
