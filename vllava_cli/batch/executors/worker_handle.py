"""One process of a crew: how it is started, what it was given, and how it ended."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from vllava_cli.batch.clip_jobs import Unit
from vllava_cli.batch.counters import Meter
from vllava_cli.batch.executors.worker import Setup, main
from vllava_cli.errors import WishError

AHEAD = 2
"""How many times as many clips as rows a process is given ahead."""
_ROWS_AT_FIRST = 4


@dataclass(kw_only=True, eq=False)
class Member:
    """A process, and what it was given and hasn't answered yet."""

    device: str
    process: BaseProcess
    wire: Connection
    restart: Callable[[], Member]
    room: int = AHEAD * _ROWS_AT_FIRST
    """In clips."""
    meter: Meter = field(default_factory=Meter)
    is_ready: bool = False
    is_told: bool = False
    """That there will be nothing more."""
    jobs: dict[str, Unit] = field(default_factory=dict)
    """By the ids of the jobs without an outcome."""
    losses: int = 0
    """How many processes on this device have ended in a row without any answer, before this one."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """Those of `jobs`, with all their jobs."""
        return tuple({id(unit): unit for unit in self.jobs.values()}.values())

    def send(self, what: Unit | str | None) -> None:
        """A process that is gone shows when its end of the wire is read."""
        with suppress(OSError):
            self.wire.send(what)

    def end(self) -> None:
        self.process.kill()
        self.process.join()

    @property
    def ending(self) -> str:
        """Of a process that has ended: -9 → "SIGKILL", 1 → "status 1"."""
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"status {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"


def started(setup: Setup) -> Member:
    context = multiprocessing.get_context("spawn")
    wire, theirs = context.Pipe()
    process = context.Process(target=main, args=(theirs, setup), name=f"vllava {setup.device}", daemon=True)
    process.start()
    theirs.close()
    return Member(device=setup.device, process=process, wire=wire, restart=lambda: started(setup))


def devices(names: tuple[str, ...]) -> tuple[str, ...]:
    """("all",) → each GPU that torch can use; other names as they are. Errors: WishError where there is no GPU."""
    if names != ("all",):
        return names
    from vllava_cli.hardware import probe

    found = tuple(gpu.device for gpu in probe().accelerators)
    if not found:
        raise WishError("--gpus all finds no GPU that torch can use: vllava doctor says why. Leave --gpus out.")
    return found
