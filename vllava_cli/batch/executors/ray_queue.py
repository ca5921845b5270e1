"""The actor on the cluster's head that runs the stages and hands out results, so that a client may be the driver."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import vllava_cli
from vllava_cli.batch.executors.ray_actors import RESULT, EngineActor, StageSetup, decode

MOST_WAITING = 4096
"""Results that may lie here: when nobody takes them, the stages come to rest one after another."""
TRIES = 5
"""Of one group of clips, each ended by the end of a process. Then it is left out, and the driver sees that."""
MOST_VAIN_STARTS = 5 * TRIES
"""A few groups of clips that end any process are no reason to give up; memory that is too small for any engine is."""
LEAST_EACH = 3
"""One machine may be too small while others are still loading."""
HOPELESS = (
    "Each engine of the cluster ended, time and again, before it had answered anything, mostly for want of memory. "
    "Give --precision 4bit, fewer --actors or a smaller --batch-size, or machines with more memory."
)
_WAIT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The share of a cluster that a run takes; each actor holds one engine."""

    actors: int
    cpus_per_actor: int
    gpus_per_actor: float
    decoders: int
    """Most clips that are decoded at once, a CPU each."""
    clips: int
    """How many an engine is given at once."""


@dataclass(frozen=True, kw_only=True)
class RayPass:
    """One pass over a manifest."""

    setup: StageSetup
    allocation: Allocation
    manifest: str
    """A path or URL that all machines can read."""
    may_end_engines: bool = False
    """Whether engines that end without a word are the clips' doing, as this cluster has answered others."""


@dataclass(frozen=True, kw_only=True)
class QueueItems:
    """The items that came since the last call; results are pickled."""

    results: tuple[bytes, ...]
    is_over: bool = False
    fault: str | None = None
    """Why it is over before its time."""
    vain_starts: int = 0
    """Engines that ended so far before anything was answered."""


class CrashLoopDetector:
    """Detects engines that crash in a loop before their first answer, for example for lack of memory.

    Counts by actor, whose id stays the same when it is started again. Safe to use from any thread.
    """

    def __init__(self, most_vain: int | None) -> None:
        """None: however many end, nothing is hopeless."""
        self._most_vain = most_vain
        self._counts = Counter[str]()
        self._has_settled = False
        self._lock = threading.Lock()

    def begun(self, actor: str) -> None:
        """A process was started for an actor, for the first time or again."""
        with self._lock:
            self._counts[actor] += 1

    def settled(self) -> None:
        """An engine has answered something: from now on nothing is in vain."""
        with self._lock:
            self._has_settled = True

    @property
    def vain(self) -> int:
        """How many ended before anything was answered, as far as their next start shows."""
        with self._lock:
            return 0 if self._has_settled else sum(self._counts.values()) - len(self._counts)

    @property
    def is_hopeless(self) -> bool:
        """True if too many engines ended, and each actor that ever began has had its chances."""
        return self._most_vain is not None and self.vain >= self._most_vain and min(self._counts.values()) >= LEAST_EACH


class ResultQueue:
    """An actor that does several things at once. The stages run in a thread of it."""

    def __init__(self, task: RayPass) -> None:
        self._results: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._fault: str | None = None
        self._is_over = False
        self._starts = CrashLoopDetector(None if task.may_end_engines else MOST_VAIN_STARTS)
        threading.Thread(target=self._run, args=(task,), name="stages", daemon=True).start()

    def version(self) -> str:
        return vllava_cli.__version__

    def begun(self, actor: str) -> None:
        """A process for an engine was started for this actor, for the first time or again."""
        self._starts.begun(actor)

    def settled(self) -> None:
        """An engine has answered something."""
        self._starts.settled()

    def take(self, most: int) -> QueueItems:
        """Waits a second for a first result, not for others."""
        results: list[bytes] = []
        with suppress(queue.Empty):
            while len(results) < most and not self._is_over:
                result = self._results.get(timeout=0 if results else _WAIT_S)
                if result is None:
                    self._is_over = True
                else:
                    results.append(result)
        if not results and self._starts.is_hopeless:
            return QueueItems(results=(), is_over=True, fault=HOPELESS)
        fault = self._fault if self._is_over else None
        return QueueItems(results=tuple(results), is_over=self._is_over, fault=fault, vain_starts=self._starts.vain)

    def _run(self, task: RayPass) -> None:
        try:
            for result in _results(task):
                self._results.put(result)
        except BaseException as exc:
            self._fault = f"{type(exc).__name__}: {exc}".splitlines()[0]
        self._results.put(None)


@dataclass(frozen=True)
class QueueReporter:
    """The reports of an actor to the queue. It can't report what ends its process."""

    queue: Any

    def begun(self) -> None:
        """Waits until it is known there, as what follows may end the process."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.get(self.queue.begun.remote(ray.get_runtime_context().get_actor_id()))

    def settled(self) -> None:
        self.queue.settled.remote()


def _results(task: RayPass) -> Iterator[bytes]:
    for batch in _stages(task).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.column(RESULT).to_pylist()


def _stages(task: RayPass) -> Any:
    """Manifest → a clip a block → frames → results."""
    import ray
    from ray import data

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    # A group that is given up is missed by the driver, which knows all ids; here it must not end the others.
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
