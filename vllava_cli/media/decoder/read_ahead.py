"""`Ahead` has files read by several threads ahead of its caller: what one file does never stops the others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from vllava_cli.interrupt import never
from vllava_cli.media.decoder.client import KilledError
from vllava_cli.nouns import Frames

K = TypeVar("K")
T = TypeVar("T")
Files = Iterable[tuple[K, Path]]

_MAX_READY = 1024
_SLICE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Read(Generic[K, T]):
    """What became of one file: `found`, Frames or a Clip, or else the `fault`."""

    key: K
    found: T | None
    fault: Exception | None
    """MediaError, UsageError or DecoderBugError; anything else is our bug."""
    seconds: float
    """Of the worker, the start of its process included."""


class Ahead(Generic[K, T]):
    """Files that are being read ahead, a thread for each reader; `take` belongs to one thread.

    A file is begun only while what lies ready takes less than `max_bytes`, and is no more than 1024 files, or is
    nothing at all. What is read beside that is one file for each reader.
    """

    def __init__(self, files: Files[K], readers: Sequence[Callable[[Path], T]], *, max_bytes: int) -> None:
        self._files = iter(files)
        self._max_bytes = max_bytes
        self._turn = threading.Lock()
        """Held by the one worker that may ask for the next file."""
        self._change = threading.Condition()
        """Held for everything below; `stop` may come from a signal's handler, which its lock allows."""
        self._ready = deque[Read[K, T]]()
        self._ready_bytes = 0
        self._busy = 0
        self._is_ended = False
        self._failure: BaseException | None = None
        self._waited_s = 0.0
        for number, reader in enumerate(readers, 1):
            threading.Thread(target=self._work, args=(reader,), name=f"read ahead {number}", daemon=True).start()

    def take(self, most: int, *, is_waiting: bool, is_interrupted: Callable[[], bool] = never) -> list[Read[K, T]]:
        """What is ready, at most so many, in order of completion; [] where nothing is.

        `is_waiting`: until something is, or all is over, or `is_interrupted` says yes. What `files` raised is raised
        here, once all that was begun before is taken.
        """
        with self._change:
            if is_waiting:
                self._wait(is_interrupted)
            taken = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
            self._ready_bytes -= sum(map(_bytes, taken))
            self._change.notify_all()
            if self._failure and self._is_dry and not taken:
                failure, self._failure = self._failure, None
                raise failure
            return taken

    @property
    def is_over(self) -> bool:
        """Nothing is ready, and nothing will be."""
        with self._change:
            return self._is_dry and not self._failure

    @property
    def waited_s(self) -> float:
        """How long `take` has waited in all."""
        return self._waited_s

    def stop(self) -> None:
        """No further file is begun; those that were can still be taken."""
        self._end()

    @property
    def _is_dry(self) -> bool:
        return self._is_ended and not self._busy and not self._ready

    def _wait(self, is_interrupted: Callable[[], bool]) -> None:
        """In slices: Ctrl-C gets through everywhere, and a handler that only takes a note is heard."""
        started_s = time.perf_counter()
        try:
            while not (self._ready or self._is_dry or is_interrupted()):
                self._change.wait(_SLICE_S)
        finally:
            self._waited_s += time.perf_counter() - started_s

    def _work(self, reader: Callable[[Path], T]) -> None:
        while file := self._next():
            read = _read(reader, *file)
            with self._change:
                self._busy -= 1
                if read:
                    self._ready.append(read)
                    self._ready_bytes += _bytes(read)
                else:
                    self._is_ended = True
                self._change.notify_all()

    def _next(self) -> tuple[K, Path] | None:
        """The next file, when there is room for it; counted before another worker can see the end of the files."""
        with self._turn:
            with self._change:
                self._change.wait_for(lambda: self._is_ended or self._has_room)
                if self._is_ended:
                    return None
            try:
                file = next(self._files)
            except BaseException as exc:  # whatever the caller's own code says: it is told there
                self._end(None if isinstance(exc, StopIteration) else exc)
                return None
            with self._change:
                self._busy += not self._is_ended
                return None if self._is_ended else file

    @property
    def _has_room(self) -> bool:
        return not self._ready or (self._ready_bytes < self._max_bytes and len(self._ready) < _MAX_READY)

    def _end(self, failure: BaseException | None = None) -> None:
        with self._change:
            self._is_ended = True
            self._failure = failure or self._failure
            self._change.notify_all()


def _read(reader: Callable[[Path], T], key: K, path: Path) -> Read[K, T] | None:
    """None where the pool was closed meanwhile."""
    started_s = time.perf_counter()
    found, fault = None, None
    try:
        found = reader(path)
    except KilledError:
        return None
    except Exception as exc:
        fault = exc
    return Read(key=key, found=found, fault=fault, seconds=time.perf_counter() - started_s)


def _bytes(read: Read[Any, Any]) -> int:
    return read.found.pixels.nbytes if isinstance(read.found, Frames) else 0
