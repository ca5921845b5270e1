"""Runs the stages inside the cluster and hands out rows, so that the driver may also be a client from outside of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import vllava_cli
from vllava_cli.cluster.answering import ROW, Answering
from vllava_cli.cluster.decoding import decode
from vllava_cli.cluster.setup import Task

MOST_WAITING = 4096
"""Rows that may lie here: when nobody takes them, the stages come to rest one after another."""
TRIES = 5
"""Of one group of clips, each ended by the end of a process. Then it is left out, and the driver sees that."""
_WAIT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What came since the last time: rows as JSON."""

    rows: tuple[bytes, ...]
    is_over: bool = False
    fault: str | None = None
    """Why it is over before its time."""


class Feed:
    """An actor. The stages run in a thread of it."""

    def __init__(self, task: Task) -> None:
        self._rows: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._fault: str | None = None
        self._is_over = False
        threading.Thread(target=self._run, args=(task,), name="stages", daemon=True).start()

    def version(self) -> str:
        return vllava_cli.__version__

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
        return Taken(rows=tuple(rows), is_over=self._is_over, fault=self._fault if self._is_over else None)

    def _run(self, task: Task) -> None:
        try:
            for row in _rows(task):
                self._rows.put(row)
        except BaseException as exc:
            self._fault = f"{type(exc).__name__}: {exc}".splitlines()[0]
        self._rows.put(None)


def _rows(task: Task) -> Iterator[bytes]:
    for batch in _stages(task).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.column(ROW).to_pylist()


def _stages(task: Task) -> Any:
    """Manifest → a clip a block → frames → rows."""
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
        fn_constructor_kwargs={"setup": setup},
        batch_size=sizes.clips,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(size=sizes.actors),
        num_cpus=sizes.cpus_per_actor,
        num_gpus=sizes.gpus_per_actor,
        max_restarts=-1,
        max_task_retries=TRIES - 1,
    )
