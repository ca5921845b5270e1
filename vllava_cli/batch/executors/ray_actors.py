"""The stages that run on a cluster, a clip of the manifest → its frames → its results, and the queue of results.

A fault of a clip raises no error in a stage. Only an engine that can't be loaded ends the run: the stage gives the
engine's error instead of results. The queue is on the cluster's head, so that the driver may be a client from outside.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vllava_cli
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
from vllava_cli.nouns import DecodeLimits, Frames, MediaKind, VideoRecipe, Window

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine
    from vllava_cli.nouns import Source

CLIP, RESULT = "clip", "result"
"""The one column that each of the two stages writes."""
MOST_WAITING = 4096
"""The most results that wait in the queue. If it is full, the stages pause one after another."""
TRIES = 5
"""How often a group of clips is tried if its process ends each time. Then Ray leaves the group out."""
MOST_VAIN_STARTS = 5 * TRIES
"""The number of starts without an answer that ends a run; high, because a few groups of clips may end any process."""
LEAST_EACH = 3
"""Each actor must have started this many times: one machine may be too small while others are still loading."""
HOPELESS = (
    "Each engine of the cluster ended again and again before it had answered anything, mostly for lack of memory. "
    "Give --precision 4bit, fewer --actors or a smaller --batch-size, or machines with more memory."
)
_WAIT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class StageSetup:
    """The settings that the driver sends to the processes of a cluster, once."""

    batch: BatchRequest
    source: Source
    longest: int
    """The number of characters in the longest question."""
    folder: str
    """The driver's current folder. Relative paths begin there on each machine that has it."""
    recipe: VideoRecipe
    """The checkpoint's preprocessing: frames are reduced to the model's size where they are decoded."""


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """A clip on its way to an engine, with either its frames or its error."""

    clip: ClipJobs
    frames: Frames | None = None
    error: JobError | None = None
    is_early: bool = False
    """Whether the header showed the error; headers are read before a model is loaded."""
    seconds: float = 0.0
    fingerprint: Fingerprint | None = None
    """The fingerprint of a URL's content; with --hash that of a file, too."""


def manifest_row(clip: ClipJobs) -> dict[str, bytes]:
    """Makes a row of the manifest. The path is stored as bytes, as it may not be UTF-8; the jobs are ASCII JSON."""
    jobs = [
        {
            **{name: getattr(job, name) for name in ("id", "question", "size", "mtime_ns", "choices")},
            "fields": dict(job.fields),
            "window": asdict(job.window) if job.window else None,
        }
        for job in clip.jobs
    ]
    return {"path": os.fsencode(clip.jobs[0].path), "jobs": json.dumps(jobs).encode("ascii")}


def clip_jobs_in(row: Mapping[str, Any]) -> ClipJobs:
    """Restores a clip and its jobs from a row of the manifest."""
    path, jobs = os.fsdecode(row["path"]), json.loads(row["jobs"])
    for job in jobs:
        job["choices"] = tuple(job["choices"])
        job["window"] = Window(**job["window"]) if job["window"] else None
    return ClipJobs(jobs=tuple(Job(path=path, **job) for job in jobs))


def decode(row: Mapping[str, Any], setup: StageSetup) -> dict[str, bytes]:
    """Runs the stage on CPUs for one clip: a row of the manifest → a row with a pickled `DecodedClip`."""
    with suppress(OSError):
        os.chdir(setup.folder)
    return {CLIP: pickle.dumps(decoded(clip_jobs_in(row), setup), protocol=pickle.HIGHEST_PROTOCOL)}


def decoded(clip: ClipJobs, setup: StageSetup) -> DecodedClip:
    """Reads the frames of a clip with the decoder of this process; a URL is fetched first. Raises no error."""
    started_s = time.perf_counter()
    try:
        with _local(clip, setup) as (path, fetched):
            found = _read(clip, path, setup)
            if found.frames:
                with suppress(MediaError):  # a file that can't be read any more gets no fingerprint
                    hashed = fetched or (fingerprint(path) if setup.batch.is_hashing else None)
                    found = replace(found, fingerprint=hashed)
    except Exception as exc:
        found = DecodedClip(clip=clip, error=JobError.of(exc, clip.path), is_early=True)
    return replace(found, seconds=time.perf_counter() - started_s)


def _read(clip: ClipJobs, path: Path, setup: StageSetup) -> DecodedClip:
    """Reads the header, then the frames. A fault in the header is marked as early: no engine is loaded for it."""
    from vllava_cli.media.pixels import fitted

    framing, is_early = clip.framing(setup.batch.framing), True
    try:
        decoder = _decoder(setup.batch.limits)
        decoder.header(path)
        is_early = False
        frames = fitted(spread(decoder.sample(path, framing), framing.fit), setup.recipe, fit=framing.fit)
        error = local.change_of(clip) or local.lack_of_time(clip, frames)
    except Exception as exc:
        error = local.fault_of(clip, exc, path)
        if path != clip.path:  # messages about a fetched file show its URL instead
            name = without_secrets(clip.jobs[0].path)
            error = replace(error, message=error.message.replace(quoted(path), name))
    return DecodedClip(clip=clip, error=error, is_early=is_early) if error else DecodedClip(clip=clip, frames=frames)


@contextmanager
def _local(clip: ClipJobs, setup: StageSetup) -> Iterator[tuple[Path, Fingerprint | None]]:
    """Gives the file of a clip. A URL is fetched into a temporary file, which has a fingerprint."""
    name = clip.jobs[0].path
    if scheme_of(name) is None:
        yield clip.path, None
        return
    with _fetcher(setup.batch.ray.allowed if setup.batch.ray else ()).fetched(name) as fetched:
        yield fetched.path, fetched.fingerprint


@cache
def _decoder(limits: DecodeLimits) -> DecoderClient:
    """Returns the one decoder of this process. A process decodes many clips, and a new decoder costs time."""
    return DecoderClient(limits)


@cache
def _fetcher(words: tuple[str, ...]) -> Fetcher:
    return Fetcher(allowed=allowed(words))


class EngineActor:
    """The stage on GPUs. Each actor loads an engine when the first clips come, with the towers that they need."""

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
        """Answers clips: a column of pickled `DecodedClip` → a column of pickled `Result`, or of an error's text."""
        clips: list[DecodedClip] = [pickle.loads(clip) for clip in batch[CLIP]]
        try:
            return {RESULT: [pickle.dumps(result) for result in self.results(clips)]}
        except VllavaError as exc:
            return {RESULT: [pickle.dumps(str(exc))]}

    def results(self, clips: Sequence[DecodedClip]) -> Iterator[Result]:
        """Yields one result for each job. Errors: VllavaError if the engine can't be loaded."""
        good = [clip for clip in clips if clip.frames]
        if not self._engine and (good or not all(clip.is_early for clip in clips)):
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
        """Yields the engine's results. After an exception the jobs left get errors; later clips use a new engine."""
        if not clips or not self._engine:
            return
        left = {job.id: job for clip in clips for job in clip.clip.jobs}
        prints = {clip.clip.jobs[0].path: clip.fingerprint for clip in clips}
        batch = replace(self._setup.batch, is_hashing=False)  # clips were hashed where they were decoded
        try:
            executor = local.LocalExecutor(
                engine=self._engine,
                batch=batch,
                reads=DecodedReads(clips),
                control=RunControl(),
                longest=self._setup.longest,
            )
            for result in executor.outcomes(()):
                del left[result.job.id]
                making, known = result.making, prints[result.job.path]
                if making and known:  # size and hash are of the file that was decoded
                    shown = tuple(replace(each, bytes=known.bytes, sha256=known.sha256) for each in making.clips)
                    result = replace(result, making=replace(making, clips=shown))
                yield result
        except Exception as exc:
            self._engine = None
            for job in left.values():
                yield Result(job=job, error=JobError.of(exc))

    def _load(self, kinds: set[MediaKind]) -> None:
        """Loads the engine. The checkpoint may be in another folder than on the driver. Errors: any VllavaError."""
        from vllava_cli.engine.adapter import locate

        source, batch = self._setup.source, self._setup.batch
        is_here = source.folder.exists() and (source.adapter is None or source.adapter.folder.exists())
        if not is_here:
            source = locate(replace(batch.wishes, revision=source.revision))
        self._engine = local.load_engine(batch, local.read_tokens(source), kinds or {"video"}, RunControl())


class DecodedReads:
    """Has the methods of `ReadAhead`, but gives clips that were decoded by other processes."""

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


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The share of a cluster that a run takes; each actor holds one engine."""

    actors: int
    cpus_per_actor: int
    gpus_per_actor: float
    decoders: int
    """How many clips are decoded at once at most; each takes a CPU."""
    clips: int
    """How many clips an engine is given at once."""


@dataclass(frozen=True, kw_only=True)
class RayPass:
    """The settings of one pass over a manifest."""

    setup: StageSetup
    allocation: Allocation
    manifest: str
    """A path or URL that all machines can read."""
    may_end_engines: bool = False
    """Whether the clips are to blame for engines that end, because this cluster has answered other clips."""


@dataclass(frozen=True, kw_only=True)
class QueueItems:
    """The answer to one call of `ResultQueue.take`; results are pickled."""

    results: tuple[bytes, ...]
    is_over: bool = False
    fault: str | None = None
    """The reason why the pass ended early."""
    vain_starts: int = 0
    """How many engines have ended before anything was answered."""


class ResultQueue:
    """An actor that runs the stages in a thread and hands their results to the driver; it takes several calls at once.

    The queue gives up if engines crash in a loop before their first answer, for example for lack of memory. It counts
    starts for each actor, because an actor keeps its id when it is started again.
    """

    def __init__(self, task: RayPass) -> None:
        self._results: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._fault: str | None = None
        self._is_over = False
        self._may_be_hopeless = not task.may_end_engines
        self._starts = Counter[str]()
        self._has_settled = False
        self._lock = threading.Lock()
        threading.Thread(target=self._run, args=(task,), name="stages", daemon=True).start()

    def version(self) -> str:
        return vllava_cli.__version__

    def begun(self, actor: str) -> None:
        """Notes that a process was started for this engine's actor, for the first time or again."""
        with self._lock:
            self._starts[actor] += 1

    def settled(self) -> None:
        """Notes that an engine has answered something; from then on restarts don't make the queue give up."""
        self._has_settled = True

    def take(self, most: int) -> QueueItems:
        """Returns at most `most` results. Waits up to a second for the first of them, not for others."""
        results: list[bytes] = []
        with suppress(queue.Empty):
            while len(results) < most and not self._is_over:
                result = self._results.get(timeout=0 if results else _WAIT_S)
                if result is None:
                    self._is_over = True
                else:
                    results.append(result)
        with self._lock:  # engines that ended before any answer; an end shows at the actor's next start
            vain = 0 if self._has_settled else self._starts.total() - len(self._starts)
            has_each_tried = min(self._starts.values(), default=0) >= LEAST_EACH
        if not results and self._may_be_hopeless and vain >= MOST_VAIN_STARTS and has_each_tried:
            return QueueItems(results=(), is_over=True, fault=HOPELESS)
        fault = self._fault if self._is_over else None
        return QueueItems(results=tuple(results), is_over=self._is_over, fault=fault, vain_starts=vain)

    def _run(self, task: RayPass) -> None:
        try:
            for result in _results(task):
                self._results.put(result)
        except BaseException as exc:
            self._fault = f"{type(exc).__name__}: {exc}".splitlines()[0]
        self._results.put(None)


@dataclass(frozen=True)
class QueueReporter:
    """Sends the reports of an engine's actor to the queue. An actor can't report the end of its own process."""

    queue: Any

    def begun(self) -> None:
        """Reports a start and waits until the queue has noted it, as loading an engine may end the process."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.get(self.queue.begun.remote(ray.get_runtime_context().get_actor_id()))

    def settled(self) -> None:
        self.queue.settled.remote()


def _results(task: RayPass) -> Iterator[bytes]:
    for batch in _stages(task).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.column(RESULT).to_pylist()


def _stages(task: RayPass) -> Any:
    """Makes the Ray dataset that runs the stages: manifest → one clip in each block → frames → results."""
    import ray
    from ray import data

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    # A group of clips that Ray gives up must not end the others; the driver knows all ids and sees which are missing.
    context.max_errored_blocks = -1
    share, setup = task.allocation, task.setup
    clips = data.read_parquet(task.manifest).repartition(target_num_rows_per_block=1)
    frames = clips.map(partial(decode, setup=setup), num_cpus=1, compute=data.TaskPoolStrategy(size=share.decoders))
    return frames.map_batches(
        EngineActor,
        fn_constructor_kwargs={"setup": setup, "reports": QueueReporter(ray.get_runtime_context().current_actor)},
        batch_size=share.clips,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(size=share.actors),
        num_cpus=share.cpus_per_actor,
        num_gpus=share.gpus_per_actor,
        max_restarts=-1,
        max_task_retries=TRIES - 1,
    )
