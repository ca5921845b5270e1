"""Before a weight is read: every clip's header is opened, in several processes, while the libraries are imported.

The clips that can be used are read on from there at once; what can't be used is known by the time the model is loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllava_cli.batch.clip_jobs import Unit
from vllava_cli.batch.rows import Fault

if TYPE_CHECKING:
    from vllava_cli.media.decoder.pool import Pool, Read, ReadAhead
    from vllava_cli.nouns import Clip, Frames, Framing, MediaKind

PATIENCE_S = 15.0
"""After so long without any header the rest is not waited for: one slow file doesn't hold up all others."""
MOST_READS = 64


@dataclass(kw_only=True)
class Found:
    """What the headers said so far."""

    good: list[Unit] = field(default_factory=list)
    bad: list[tuple[Unit, Fault]] = field(default_factory=list)
    kinds: set[MediaKind] = field(default_factory=set)
    videos: int = 0
    duration_s: float = 0.0
    """Of all videos whose header tells it."""
    unknown: int = 0
    """Videos whose header doesn't."""
    unopened: int = 0
    """Clips whose header took too long; they count as good."""


class Preflight:
    """Goes through the headers of all units in a thread of its own, then has the good ones' frames read ahead.

    Without a `framing` it is over with the headers.
    """

    def __init__(
        self, pool: Pool, units: Sequence[Unit], framing: Framing | None, *, patience_s: float = PATIENCE_S
    ) -> None:
        self._pool, self._framing, self._patience_s = pool, framing, patience_s
        self.frames: ReadAhead[Unit, Frames] | None = None
        self.total = len(units)
        self._units = units
        self._heard_s = time.perf_counter()
        self.found = Found()
        self._order = {unit.path: number for number, unit in enumerate(units)}
        self._ahead: ReadAhead[Unit, Clip] = pool.headers((unit, unit.path) for unit in units)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="preflight", daemon=True)
        self._thread.start()

    @property
    def done(self) -> int:
        return len(self.found.good) + len(self.found.bad)

    def wait(self, slice_s: float) -> bool:
        """Whether all headers are known, after at most so many seconds. Errors: what stopped the thread."""
        self._thread.join(slice_s)
        if self._thread.is_alive():
            return False
        if self._failure:
            raise self._failure
        return True

    def _run(self) -> None:
        try:
            while reads := self._ahead.take(MOST_READS, is_waiting=True, is_interrupted=self._is_stuck):
                self._heard_s = time.perf_counter()
                for read in reads:
                    self._note(read)
            self._ahead.stop()
            self._trust_rest()
            self.found.good.sort(key=lambda unit: self._order[unit.path])
            self.found.bad.sort(key=lambda pair: self._order[pair[0].path])
            if self._framing:
                self.frames = self._pool.frames(((unit, unit.path) for unit in self.found.good), self._framing)
        except BaseException as exc:
            self._failure = exc

    def _is_stuck(self) -> bool:
        return time.perf_counter() - self._heard_s > self._patience_s

    def _trust_rest(self) -> None:
        """What keeps its reader busy may only be slow: its frames will show."""
        found = self.found
        known = {unit.path for unit in found.good} | {unit.path for unit, _ in found.bad}
        rest = [unit for unit in self._units if unit.path not in known]
        if rest:
            found.good += rest
            found.unopened = len(rest)
            found.kinds |= {"video", "image"}

    def _note(self, read: Read[Unit, Clip]) -> None:
        found, unit = self.found, read.key
        if read.found is None:
            fault = read.fault or RuntimeError("a header was read to nothing")
            found.bad.append((unit, Fault.of_clip(fault, unit.path)))
            return
        found.good.append(unit)
        found.kinds.add(read.found.kind)
        if read.found.kind == "video":
            found.videos += 1
            found.duration_s += read.found.duration_s or 0.0
            found.unknown += read.found.duration_s is None
