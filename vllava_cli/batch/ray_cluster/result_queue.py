"""Runs the stages inside the cluster and hands out rows, so that the driver may also be a client from outside of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import vllava_cli
from vllava_cli.batch.ray_cluster.actors import ROW, Answering
from vllava_cli.batch.ray_cluster.crash_loop import Starts
from vllava_cli.batch.ray_cluster.decode_task import decode
from vllava_cli.batch.ray_cluster.setup import Task

MOST_WAITING = 4096
"""Rows that may lie here: when nobody takes them, the stages come to rest one after another."""
TRIES = 5
"""Of one group of clips, each ended by the end of a process. Then it is left out, and the driver sees that."""
MOST_VAIN_STARTS = 5 * TRIES
"""A few groups of clips that end any process are no reason to give up; memory that is too small for any engine is."""
HOPELESS = (
    "Each engine of the cluster ended, time and again, before it had answered anything, mostly for want of memory. "
    "Give --precision 4bit, fewer --actors or a smaller --batch-size, or machines with more memory."
)
_WAIT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What came since the last time: rows as JSON."""

    rows: tuple[bytes, ...]
    is_over: bool = False
    fault: str | None = None
    """Why it is over before its time."""
    vain_starts: int = 0
    """Engines that ended so far before anything was answered."""


class Feed:
    """An actor that does several things at once. The stages run in a thread of it."""

    def __init__(self, task: Task) -> None:
        self._rows: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._fault: str | None = None
        self._is_over = False
        self._starts = Starts(None if task.may_end_engines else MOST_VAIN_STARTS)
        threading.Thread(target=self._run, args=(task,), name="stages", daemon=True).start()

    def version(self) -> str:
        return vllava_cli.__version__

    def begun(self, actor: str) -> None:
        """A process for an engine was started for this actor, for the first time or again."""
        self._starts.begun(actor)

    def settled(self) -> None:
        """An engine has answered something."""
        self._starts.settled()

    def take(self, most: int) -> Taken:
        """Waits a second for a first row, not for others."""
        rows: list[bytes] = []
        try:
            while len(rows) < most and not self._is_over:
                row = self._rows.get(timeout=0 if rows else _WAIT_S)
                if row is None:
                    self._is_over = True
                else:
                    rows.append(row)
        except queue.Empty:
            pass
        if not rows and self._starts.is_hopeless:
            return Taken(rows=(), is_over=True, fault=HOPELESS)
        fault = self._fault if self._is_over else None
        return Taken(rows=tuple(rows), is_over=self._is_over, fault=fault, vain_starts=self._starts.vain)

    def _run(self, task: Task) -> None:
        try:
            for row in _rows(task):
                self._rows.put(row)
        except BaseException as exc:
            self._fault = f"{type(exc).__name__}: {exc}".splitlines()[0]
        self._rows.put(None)


@dataclass(frozen=True)
class ToFeed:
    """Reports of an actor."""

    feed: Any

    def begun(self) -> None:
        """Waits until it is known there, as what follows may end the process."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.get(self.feed.begun.remote(ray.get_runtime_context().get_actor_id()))

    def settled(self) -> None:
        self.feed.settled.remote()


def _rows(task: Task) -> Iterator[bytes]:
    for batch in _stages(task).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.column(ROW).to_pylist()


def _stages(task: Task) -> Any:
    """Manifest → a clip a block → frames → rows."""
    import ray
    from ray import data

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    # A group that is given up is missed by the driver, which knows all ids; here it must not end the others.
    context.max_errored_blocks = -1
    sizes, setup = task.sizes, task.setup
    clips = data.read_parquet(task.manifest).repartition(target_num_rows_per_block=1)
    frames = clips.map(partial(decode, setup=setup), num_cpus=1, compute=data.TaskPoolStrategy(size=sizes.decoders))
    return frames.map_batches(
        Answering,
        fn_constructor_kwargs={"setup": setup, "reports": ToFeed(ray.get_runtime_context().current_actor)},
        batch_size=sizes.clips,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(size=sizes.actors),
        num_cpus=sizes.cpus_per_actor,
        num_gpus=sizes.gpus_per_actor,
        max_restarts=-1,
        max_task_retries=TRIES - 1,
    )
