"""What runs in each process of a crew: an engine on one device that answers the units it is sent."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.batch.clip_jobs import Unit
from vllava_cli.batch.counters import Meter
from vllava_cli.batch.executors import local
from vllava_cli.batch.request import Batch
from vllava_cli.batch.rows import Outcome
from vllava_cli.errors import VllavaError
from vllava_cli.nouns import MediaKind

if TYPE_CHECKING:
    from vllava_cli.nouns import Source


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker is started with."""

    batch: Batch
    source: Source
    device: str
    kinds: frozenset[MediaKind]
    longest: int
    """Characters of the longest question."""
    decoders: int


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The model is loaded."""

    rows_at_once: int
    load_s: float


@dataclass(frozen=True, kw_only=True)
class Done:
    outcome: Outcome
    meter: Meter


@dataclass(frozen=True, kw_only=True)
class Told:
    text: str
    is_detail: bool = False


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The engine can't be had: the error, and no outcome will come."""

    error: VllavaError


Message = Ready | Done | Told | Failed
"""What a worker says. It is sent units, None when there are no more, and STOP when no other is to be begun."""
STOP = "stop"


def main(wire: Connection, setup: Setup) -> None:
    """Answers until told otherwise, or until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, but the parent decides
    try:
        Worker(wire, setup).run()
    except VllavaError as exc:
        wire.send(Failed(error=exc))
    except (BrokenPipeError, EOFError):
        pass


class Worker:
    def __init__(self, wire: Connection, setup: Setup) -> None:
        self._wire, self._setup = wire, setup
        self._units: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        self._is_stopped = threading.Event()

    def run(self) -> None:
        """Errors: VllavaError where the engine can't be had; BrokenPipeError where nobody listens any more."""
        from vllava_cli.media.decoder.pool import Pool

        setup, batch = self._setup, self._setup.batch
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        with Pool(setup.decoders, batch.limits) as pool:
            ahead = pool.frames(self._files(), batch.framing)
            local.import_engine()
            tokens = local.read_tokens(setup.source)
            pool.fit_to(tokens.checkpoint.video_recipe)
            engine, load_s = local.load(
                replace(batch.wishes, device=setup.device),
                tokens,
                setup.kinds,
                tell=lambda text: self._tell(text, is_detail=True),
                notice=self._tell,
                is_quiet=True,
            )
            line = local.line(
                engine,
                ahead,
                batch,
                longest=setup.longest,
                is_stopping=self._is_stopped.is_set,
                tell=self._tell,
            )
            line.meter.load_s = load_s
            self._wire.send(Ready(rows_at_once=line.most_rows, load_s=load_s))
            for outcome in line.outcomes():
                self._wire.send(Done(outcome=outcome, meter=line.meter))

    def _listen(self) -> None:
        """Takes what comes in, so that `_files` needs only its own queue."""
        try:
            while True:
                said = self._wire.recv()
                if said == STOP:
                    self._is_stopped.set()
                    said = None
                self._units.put(said)
                if said is None and self._is_stopped.is_set():
                    return
        except (EOFError, OSError):
            self._is_stopped.set()
            self._units.put(None)

    def _files(self) -> Iterator[tuple[Unit, Path]]:
        while unit := self._units.get():
            yield unit, unit.path

    def _tell(self, text: str, *, is_detail: bool = False) -> None:
        self._wire.send(Told(text=text, is_detail=is_detail))
