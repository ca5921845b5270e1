"""Workers and a cluster that aren't there: the executors' other ends, which do at once what they would do in time."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch

from tests.batch.parts import bad, batch_of, good
from vllava_cli.batch.executors import Counters, RunControl
from vllava_cli.batch.executors.processes import WorkerHandle, WorkerPool
from vllava_cli.batch.executors.ray_actors import QueueItems, RayPass, clip_jobs_in
from vllava_cli.batch.executors.ray_driver import Node, RayExecutor
from vllava_cli.batch.jobs import ClipJobs, Job
from vllava_cli.batch.request import Destination, RayOptions
from vllava_cli.batch.rows import Result
from vllava_cli.demo import CHECKPOINT
from vllava_cli.engine.generate import Engine
from vllava_cli.media.decoder.pool import Read
from vllava_cli.nouns import Frames, Source

Said = ClipJobs | str | None


@dataclass(eq=False)
class Wire:
    """The pool's end of a wire; `hear` is called with what is sent, at once."""

    ours: Connection
    hear: Callable[[Said], None]

    def fileno(self) -> int:
        return self.ours.fileno()

    def recv(self) -> object:
        return self.ours.recv()

    def send(self, said: Said) -> None:
        self.hear(said)


@dataclass(eq=False, kw_only=True)
class Process:
    """A process that isn't one: it does at once what it would do in time."""

    device: str = "cpu"
    deadly: Collection[str] = ()
    """Clips that kill whoever is given one."""
    bad: Collection[str] = ()
    """Clips whose result is an error."""
    last_words: int = 0
    """How many jobs of a deadly clip are answered before."""
    is_stillborn: bool = False
    """Dies of its first clip before it is ready."""
    is_lazy: bool = False
    """Takes clips and answers none."""
    rows_at_once: int = 1
    used_bytes: int | None = None
    first: Sequence[object] = ()
    """What it says in the place of being ready."""
    given: list[Said] = field(default_factory=list)
    exitcode: int | None = None
    is_killed: bool = False
    answered: int = 0

    def __post_init__(self) -> None:
        self.ours, self.theirs = multiprocessing.Pipe()
        for message in self.first or ([] if self.is_stillborn else [("ready", self.rows_at_once, 1.5)]):
            self.say(message)

    def say(self, message: object) -> None:
        self.theirs.send(message)

    def hear(self, said: Said) -> None:
        if self.exitcode is not None:
            raise BrokenPipeError
        self.given.append(said)
        if not isinstance(said, ClipJobs):
            self.die(0)
        elif self.is_stillborn or str(said.path) in self.deadly:
            self.answer(said.jobs[: self.last_words])
            self.die(-9)
        elif self.is_lazy:
            self.say(("detail", "later"))
        else:
            self.answer(said.jobs)

    def answer(self, jobs: Sequence[Job]) -> None:
        for each in jobs:
            self.answered += 1
            counters = Counters(clips=self.answered, rows_at_once=self.rows_at_once, used_bytes=self.used_bytes)
            self.say(("result", bad(each) if each.path in self.bad else good(each), counters))

    def die(self, code: int) -> None:
        self.exitcode = code
        self.theirs.close()

    def kill(self) -> None:
        self.is_killed = True

    def join(self) -> None:
        pass


Script = Sequence[Mapping[str, Any]]
"""How the first process on a device behaves, the one that takes its place, …; all further ones like the last."""


@dataclass(kw_only=True)
class Pooled:
    """A pool of such processes, and what was said and done."""

    scripts: Mapping[str, Script]
    units: Sequence[ClipJobs]
    stop_at: int = 1000
    """At which question whether to stop the answer is yes; it is asked each time before clips are given out."""
    processes: list[Process] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    asked: int = 0

    def __post_init__(self) -> None:
        self.control = RunControl(
            is_stopping=self.is_stopping,
            notice=self.heard.append,
            detail=lambda text: self.heard.append(f"detail: {text}"),
            on_ready=lambda: self.heard.append("ready"),
        )
        self.pool = WorkerPool([self.start(device, 0) for device in self.scripts], self.control)

    def start(self, device: str, number: int) -> Callable[[], WorkerHandle]:
        def start() -> WorkerHandle:
            script = self.scripts[device]
            process = Process(device=device, **script[min(number, len(script) - 1)])
            self.processes.append(process)
            return WorkerHandle(
                device=device,
                process=cast(BaseProcess, process),
                wire=cast(Connection, Wire(process.ours, process.hear)),
                restart=self.start(device, number + 1),
            )

        return start

    def is_stopping(self) -> bool:
        self.asked += 1
        return self.asked >= self.stop_at

    def run(self) -> list[Result]:
        return list(self.pool.outcomes(self.units))

    @property
    def given(self) -> list[tuple[str, list[str | None]]]:
        """What each process was sent, clips by their names."""
        names = [
            [str(said.path) if isinstance(said, ClipJobs) else said for said in each.given] for each in self.processes
        ]
        return list(zip([process.device for process in self.processes], names, strict=True))

    @property
    def notices(self) -> list[str]:
        return [text for text in self.heard if text.startswith("vllava: ")]


@dataclass
class Listed:
    """Reads in the place of those of a pool; None is a moment in which nothing is ready."""

    reads: list[Read[ClipJobs, Frames] | None]
    waited_s: float = 0.0
    waits: list[bool] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return not self.reads

    def take(self, most: int, *, is_waiting: bool, is_interrupted: Callable[[], bool]) -> list[Read[ClipJobs, Frames]]:
        self.waits.append(is_waiting)
        if is_waiting:
            self.waited_s += 0.5
        taken: list[Read[ClipJobs, Frames]] = []
        while self.reads and len(taken) < most:
            first = self.reads.pop(0)
            if first is None and not (is_waiting and not is_interrupted()):
                break
            taken += [first] if first else []
        return taken


@contextmanager
def memory_for(engine: Engine, rows: int) -> Iterator[None]:
    """More rows than so many run out of memory, as torch tells it."""

    def refuse(_: torch.nn.Module, given: tuple[torch.Tensor, object]) -> None:
        if len(given[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = engine.llama.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


@dataclass
class Cluster:
    """Answers what the manifest asks for, but for what it loses; each pass may lose something else."""

    losses: Sequence[Collection[str]] = ()
    bad: Collection[str] = ()
    doubles: int = 1
    ends_with: str | None = None
    failure: str | None = None
    """Why no engine can be had."""
    vain_starts: int = 0
    node: Node = field(default_factory=lambda: Node(cpus=8))
    asked: list[list[str]] = field(default_factory=list)
    passes: list[RayPass] = field(default_factory=list)
    is_left: bool = False
    """Whether it was connected to and is no longer."""

    def executor(self, folder: Path, control: RunControl, *, has_earlier_answers: bool = False) -> RayExecutor:
        return RayExecutor(
            batch=batch_of(destination=Destination(parts=str(folder)), ray=RayOptions()),
            source=Source(model="demo", folder=CHECKPOINT),
            control=control,
            has_earlier_answers=has_earlier_answers,
            connect=self.connect,
            take=self.take,
        )

    @contextmanager
    def connect(self, _address: str, _detail: Callable[[str], object]) -> Iterator[tuple[Node, ...]]:
        try:
            yield (self.node,)
        finally:
            self.is_left = True

    def take(self, task: RayPass, *, is_stopping: Callable[[], bool]) -> Iterator[QueueItems]:
        import pyarrow.parquet as pq

        if self.failure:
            yield QueueItems(results=(pickle.dumps(self.failure),))
        clips = [clip_jobs_in(row) for row in pq.read_table(task.manifest).to_pylist()]
        lost = self.losses[len(self.asked)] if len(self.asked) < len(self.losses) else ()
        self.asked.append([clip.jobs[0].path for clip in clips])
        self.passes.append(task)
        for clip in clips:
            if clip.jobs[0].path not in lost and not is_stopping():
                results = [bad(job) if job.path in self.bad else good(job) for job in clip.jobs]
                yield QueueItems(results=tuple(map(pickle.dumps, results)) * self.doubles, vain_starts=self.vain_starts)
        yield QueueItems(results=(), is_over=True, fault=self.ends_with)
