"""The executor with several engines: a process for each device, one queue. A process may die, and no job is lost.

The clips that a worker held when it died are suspects: each is tried again alone, so that a clip that kills its worker
takes no other clip with it. The parent sends `ClipJobs`, None when there are no more clips, and STOP when no further
clip may be begun. A worker sends ("ready", rows at once, seconds), ("result", result, its counters), ("notice", text),
("detail", text), and ("failure", error) if it can't load an engine.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from vllava_cli.batch.executors import Counters, RunControl, local
from vllava_cli.batch.jobs import ClipJobs, framed
from vllava_cli.batch.request import BatchRequest
from vllava_cli.batch.rows import JobError, Result
from vllava_cli.errors import MemoryShortError, VllavaError, WishError
from vllava_cli.hardware import cpu_cores, probe
from vllava_cli.nouns import MediaKind

if TYPE_CHECKING:
    from vllava_cli.nouns import Source

STOP = "stop"
AHEAD = 2
"""A worker is given this many clips for each row that it answers at once."""
MOST_TRIES = 3
"""How many processes may die over a clip before it is given up."""
MOST_LOSSES = 6
"""How many processes may die in a row on a device, without an answer, before the device is given up."""
_ROWS_AT_FIRST = 4
_SLICE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """The settings that a worker is started with."""

    batch: BatchRequest
    """The request, with the device and the number of decoders of this worker."""
    source: Source
    kinds: frozenset[MediaKind]
    longest: int
    """The number of characters in the longest question."""


@dataclass(kw_only=True, eq=False)
class WorkerHandle:
    """A worker process, and the jobs that it was given and hasn't answered yet."""

    device: str
    process: BaseProcess
    wire: Connection
    restart: Callable[[], WorkerHandle]
    most_clips: int = AHEAD * _ROWS_AT_FIRST
    """How many clips the worker holds at most."""
    counters: Counters = field(default_factory=Counters)
    is_ready: bool = False
    has_all: bool = False
    """Whether the worker was told that no more clips come."""
    jobs: dict[str, ClipJobs] = field(default_factory=dict)
    """The clip of each job without a result, by the job's id."""
    losses: int = 0
    """How many processes on this device have ended in a row without any answer, before this one."""

    @property
    def clips(self) -> tuple[ClipJobs, ...]:
        """The clips of the jobs in `jobs`, each once, with all their jobs, including those that have a result."""
        return tuple({id(clip): clip for clip in self.jobs.values()}.values())

    def give(self, clip: ClipJobs) -> None:
        self.jobs |= {job.id: clip for job in clip.jobs}
        self.send(clip)

    def send(self, message: ClipJobs | str | None) -> None:
        """Sends a message. For a dead worker no error is raised: the next attempt to receive finds out."""
        with suppress(OSError):
            self.wire.send(message)

    def end(self) -> None:
        self.process.kill()
        self.process.join()

    @property
    def ending(self) -> str:
        """The way in which the process ended, by its exit code: -9 → "SIGKILL", 1 → "status 1"."""
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"status {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"


class WorkerPool:
    """Answers clips' jobs in worker processes; each function in `starts` starts one worker."""

    def __init__(self, starts: Sequence[Callable[[], WorkerHandle]], control: RunControl) -> None:
        self._starts, self._control = starts, control
        control.engines = len(starts)
        self._queue = deque[ClipJobs]()
        self._suspects = deque[ClipJobs]()
        self._tries: Counter[str] = Counter()
        """How many processes have died over a clip, by its path."""
        self._workers: list[WorkerHandle] = []
        self._gone = Counters()
        """The counts of the workers that have ended."""

    def outcomes(self, clip_jobs: Sequence[ClipJobs], /) -> Generator[Result, None, None]:
        """Answers as `Executor.outcomes` does.

        Errors: the error that kept a worker from loading its engine; VllavaError if all workers die.
        """
        self._queue.extend(clip_jobs)
        try:
            for start in self._starts:
                self._workers.append(start())
            while self._workers:
                self._hand_out()
                wires = {worker.wire: worker for worker in self._workers}
                for wire in wait(list(wires), timeout=_SLICE_S):
                    yield from self._receive(wires[wire])  # type: ignore[index]
        finally:
            for worker in self._workers:
                worker.end()

    @property
    def _has_work(self) -> bool:
        return bool(self._queue or self._suspects)

    def _hand_out(self) -> None:
        """Gives each worker as many clips as it takes, and tells the workers when no more clips will come."""
        is_stopping = self._control.is_stopping()
        for worker in self._workers:
            while not is_stopping and (clip := self._next(worker)):
                worker.give(clip)
            is_over = not self._has_work and not any(each.jobs for each in self._workers)
            if not worker.has_all and (is_stopping or is_over):
                worker.has_all = True
                worker.send(STOP if is_stopping else None)

    def _next(self, worker: WorkerHandle) -> ClipJobs | None:
        """Returns the next clip for a worker; None if no clip waits, or if the worker has enough or holds a suspect.

        A suspect is given only to a worker that holds no other clip.
        """
        clips = worker.clips
        if self._suspects and not clips:
            return self._suspects.popleft()
        has_suspect = any(self._tries[str(clip.path)] for clip in clips)
        return self._queue.popleft() if self._queue and len(clips) < worker.most_clips and not has_suspect else None

    def _receive(self, worker: WorkerHandle) -> Iterator[Result]:
        try:
            message = worker.wire.recv()
        except (EOFError, OSError):
            yield from self._lose(worker)
            return
        match message:
            case "ready", rows_at_once, load_s:
                worker.is_ready, worker.most_clips = True, AHEAD * rows_at_once
                self._control.on_ready()
                loaded = f"loaded in {load_s:.2f} s, rows at once: {rows_at_once}."
                self._control.detail(f"{worker.device}: {loaded}")
            case "result", result, counters:
                worker.counters, worker.losses = counters, 0
                self._count()
                if worker.jobs.pop(result.job.id, None):
                    yield result
            case "detail", text:
                self._control.detail(f"{worker.device}: {text}")
            case "notice", text:
                self._control.notice(text)
            case "failure", error:
                raise error

    def _lose(self, worker: WorkerHandle) -> Iterator[Result]:
        """Replaces a worker whose process ended, and queues its clips again; yields errors for those given up."""
        self._workers.remove(worker)
        worker.process.join()
        self._gone.add(replace(worker.counters, used_bytes=None))
        self._count()
        if self._control.is_stopping() or not (worker.jobs or self._has_work):
            return
        if worker.jobs:
            self._control.notice(
                f"vllava: the process on {worker.device} ended ({worker.ending}): its clips are started again."
            )
        for clip in worker.clips:
            rest = tuple(job for job in clip.jobs if job.id in worker.jobs)
            yield from self._try_again(replace(clip, jobs=rest), worker)
        if self._has_work:
            self._replace(worker)

    def _try_again(self, clip: ClipJobs, worker: WorkerHandle) -> Iterator[Result]:
        """Queues a clip of a dead worker again, as a suspect if the worker had loaded its engine.

        If `MOST_TRIES` workers have died with this clip, yields an error for each of its jobs instead.
        """
        if not worker.is_ready:
            self._queue.append(clip)
            return
        self._tries[str(clip.path)] += 1
        if self._tries[str(clip.path)] < MOST_TRIES:
            self._suspects.append(clip)
            return
        message = f"The process that answered it ended {MOST_TRIES} times, last with {worker.ending}."
        for job in clip.jobs:
            yield Result(job=job, error=JobError(kind="bug", message=message))

    def _replace(self, worker: WorkerHandle) -> None:
        """Replaces a dead worker on its device, or gives the device up. Errors: VllavaError if no worker is left."""
        losses = worker.losses + 1
        if worker.is_ready and losses < MOST_LOSSES:
            successor = worker.restart()
            successor.losses = losses
            self._gone.rows_at_once -= worker.counters.rows_at_once
            self._workers.append(successor)
        elif self._workers:
            self._control.notice(f"vllava: {worker.device} is given up: the other processes go on.")
        elif not worker.is_ready:
            raise MemoryShortError(
                f"The process on {worker.device} ended ({worker.ending}) while it loaded the model, perhaps for lack "
                "of memory: close other programs, or try --precision 4bit."
            )
        else:
            raise VllavaError(
                f"{losses} processes on {worker.device} ended in a row, the last one with {worker.ending}, without an "
                "answer: try --batch-size 1, or leave --gpus out."
            )

    def _count(self) -> None:
        """Sets the counters of the run to the sums over all workers, dead ones included."""
        total = Counters()
        for counters in (self._gone, *(worker.counters for worker in self._workers)):
            total.add(counters)
        vars(self._control.counters).update(vars(total))


def worker_pool(
    batch: BatchRequest, source: Source, kinds: set[MediaKind], longest: int, control: RunControl
) -> WorkerPool:
    """Makes a pool with a worker for each device of the batch. Errors: WishError if there is no device."""
    from vllava_cli.media.decoder.pool import default_workers

    names = batch.devices
    if names == ("all",):
        names = tuple(gpu.device for gpu in probe().accelerators)
    if not names:
        raise WishError("--gpus all finds no GPU that torch can use: vllava doctor says why. Leave --gpus out.")
    decoders = batch.decoders or max(1, default_workers(cpu_cores()) // len(names))
    starts = []
    for name in names:
        its = replace(batch, wishes=replace(batch.wishes, device=name), decoders=decoders)
        setup = WorkerSetup(batch=its, source=source, kinds=frozenset(kinds), longest=longest)
        starts.append(partial(start_worker, setup))
    return WorkerPool(starts, control)


def start_worker(setup: WorkerSetup) -> WorkerHandle:
    context, device = multiprocessing.get_context("spawn"), setup.batch.wishes.device or ""
    wire, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, setup), name=f"vllava {device}", daemon=True)
    process.start()
    theirs.close()
    return WorkerHandle(device=device, process=process, wire=wire, restart=partial(start_worker, setup))


def work(wire: Connection, setup: WorkerSetup) -> None:
    """Runs in a worker process until there are no more clips, or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, but the parent decides
    try:
        answer(wire, setup)
    except VllavaError as exc:
        wire.send(("failure", exc))
    except (BrokenPipeError, EOFError):
        pass


def answer(wire: Connection, setup: WorkerSetup) -> None:
    """Loads an engine in this process and answers the clips that arrive on the wire.

    Errors: VllavaError if no engine can be loaded; BrokenPipeError if the parent is gone.
    """
    from vllava_cli.media.decoder.pool import Pool

    clips: queue.SimpleQueue[ClipJobs | None] = queue.SimpleQueue()
    is_stopped = threading.Event()
    threading.Thread(target=_listen, args=(wire, clips, is_stopped), name="listen", daemon=True).start()
    control = RunControl(
        is_stopping=is_stopped.is_set,
        notice=lambda text: wire.send(("notice", text)),
        detail=lambda text: wire.send(("detail", text)),
    )
    batch = setup.batch
    with Pool(batch.decoders or 1, batch.limits) as pool:
        arriving = framed(iter(clips.get, None), batch.framing, batch.agreeing)
        reads = pool.frames_of_windows(arriving, most_together=1) if batch.windowing else pool.frames(arriving)
        local.import_engine()
        tokens = local.read_tokens(setup.source)
        pool.fit_to(tokens.checkpoint.video_recipe)
        engine = local.load_engine(batch, tokens, setup.kinds, control)
        executor = local.LocalExecutor(engine=engine, batch=batch, reads=reads, control=control, longest=setup.longest)
        wire.send(("ready", executor.most_rows, control.counters.load_s))
        for result in executor.outcomes(()):
            wire.send(("result", result, control.counters))


def _listen(wire: Connection, clips: queue.SimpleQueue[ClipJobs | None], is_stopped: threading.Event) -> None:
    """Moves messages from the wire to the queue `clips`; STOP and a closed wire set `is_stopped`."""
    try:
        while not is_stopped.is_set():
            message = wire.recv()
            if message == STOP:
                is_stopped.set()
            clips.put(None if message == STOP else message)
    except (EOFError, OSError):
        is_stopped.set()
        clips.put(None)
