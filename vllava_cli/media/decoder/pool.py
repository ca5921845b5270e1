"""`Pool` reads many files ahead of its caller, in several bounded processes; a bad file never stops the others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from vllava_cli.hardware import cpu_cores
from vllava_cli.interrupt import never
from vllava_cli.media.decoder.client import DecoderClient, KilledError
from vllava_cli.media.decoder.subtitle_shelf import SubtitleShelf
from vllava_cli.media.select import spread
from vllava_cli.media.timeline.spoken import Passage
from vllava_cli.nouns import (
    Clip,
    ClipWindows,
    DecodeLimits,
    Frames,
    Framing,
    VideoRecipe,
    Windowing,
)

K = TypeVar("K")
T = TypeVar("T")
Files = Iterable[tuple[K, Path]]
Framed = Iterable[tuple[K, Path, Framing] | tuple[K, Path, Framing, Passage | None]]
"""Files with the framing in which each is shown; those that show the same file should follow each other.

With a passage, the frames come with the lines that are spoken in it."""

Chunks = Iterable[Sequence[tuple[Any, ...]]]
"""Files that one process reads one after another, each as the arguments of its reader, with the key before them."""

MOST_TOGETHER = 16
"""The most windows of a clip in a row that one process reads."""
_MAX_WORKERS = 8
_MAX_READY = 1024
_SLICE_S = 0.1
GATHERED = 8
"""The clips that are shown to a model together, as a pass for one takes it nearly as long as a pass for several."""
GATHERING_S = 0.5
"""A clip that is ready waits no longer for others."""


def default_workers(cores: int) -> int:
    """Returns a number of workers, one for each physical core and at most 8: these keep up with any one model.

    More would take memory, and would slow each other down on a spinning disk or a network drive.
    """
    return max(1, min(cores, _MAX_WORKERS))


class Pool:
    """Decoding processes that work side by side. Each starts with its first file; `close` kills all, even busy ones.

    The workers' threads take from `files` one at a time, and no more than the limits allow, so `files` may be endless.
    It shouldn't wait in `sys.stdin.buffer`, because a thread that waits there keeps this process from ending; it may
    wait in `os.read`.

    Memory: `DecodeLimits` limits each process alone; nothing limits their sum. A process was measured to take 0.07 GB
    for small clips, 0.2 GB for 1080p and 0.5 GB for 4K: the four on a laptop with 8 GB take 2 GB for 4K, unless a file
    is extreme. When RAM runs out, Linux ends a decoding process before any other. The next process reads its file once
    more, and only if that fails too, the file has a fault. In this process, the frames that are ready take `max_bytes`,
    and each worker has those of one more clip (0.05 GB for 1080p, 0.2 GB for 4K, until they are fitted).

    Processes share the cores: two on two cores decode with a thread each, because two threads take a fifth more
    processor time for a clip than one, and the other process would wait for that.
    """

    def __init__(
        self,
        workers: int,
        limits: DecodeLimits | None = None,
        *,
        max_bytes: int = 256 << 20,
        command: Sequence[str] | None = None,
    ) -> None:
        cores = max(1, cpu_cores() // workers)
        self._guards = [DecoderClient(limits, command=command, cores=cores) for _ in range(workers)]
        self._max_bytes = max_bytes
        self._aheads: list[ReadAhead[Any, Any]] = []
        self._recipe: VideoRecipe | None = None
        self._subtitles = SubtitleShelf()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def headers(self, files: Files[K]) -> ReadAhead[K, Clip]:
        """Reads the facts in each file's header, as `sample.header` does."""
        return self._ahead(files, [guard.header for guard in self._guards])

    def probes(self, files: Files[K], *, is_full: bool = False) -> ReadAhead[K, Clip]:
        """Reads the facts about each file, as `sample.probe` does."""
        return self._ahead(files, [partial(guard.probe, is_full=is_full) for guard in self._guards])

    def windows(self, files: Files[K], windowing: Windowing, framing: Framing) -> ReadAhead[K, ClipWindows]:
        """Finds the windows of each file, as `DecoderClient.windows` does."""
        return self._ahead(files, [partial(guard.windows, windowing, framing) for guard in self._guards])

    def frames(self, files: Framed[K]) -> ReadAhead[K, Frames]:
        """Reads as many frames of each file as the model sees; they can be taken once some are gathered."""
        return self._ahead(files, [partial(self._frames, guard) for guard in self._guards], gathered=GATHERED)

    def frames_of_windows(self, files: Framed[K], *, most_together: int = MOST_TOGETHER) -> ReadAhead[K, Frames]:
        """Reads as many frames of each window as the model sees, as `frames` does; clips stay open between windows.

        Up to `most_together` windows of a clip that follow each other are read by the same process. With more than one,
        `files` is asked for windows before they are read, so it shouldn't wait.
        """
        chunks = in_chunks(files, most_together)
        readers = [partial(self._frames_of_window, guard) for guard in self._guards]
        return self._ahead_of(chunks, readers, gathered=GATHERED)

    def sheets(self, files: Iterable[tuple[K, Path, Framing, VideoRecipe]], most_bytes: int) -> ReadAhead[K, bytes]:
        """Draws the squares of each file that a model sees, as `small_sheet` does; Pillow is imported for it."""
        return self._ahead(files, [partial(_small_sheet, guard, most_bytes) for guard in self._guards])

    def fit_to(self, recipe: VideoRecipe) -> None:
        """Reduces all later frames to the size that a model takes, so that the model's thread needn't do it.

        Call this once torch is imported; the threads that read ahead would take too long to import it.
        """
        self._recipe = recipe

    def close(self) -> None:
        """Ends all processes at once; files that aren't ready by then are never read."""
        for ahead in self._aheads:
            ahead.stop()
        for guard in self._guards:
            guard.kill()

    def _ahead(
        self, files: Iterable[tuple[Any, ...]], readers: Sequence[Callable[..., T]], *, gathered: int = 1
    ) -> ReadAhead[Any, T]:
        return self._ahead_of(([file] for file in files), readers, gathered=gathered)

    def _ahead_of(self, chunks: Chunks, readers: Sequence[Callable[..., T]], *, gathered: int = 1) -> ReadAhead[Any, T]:
        ahead: ReadAhead[Any, T] = ReadAhead(chunks, readers, max_bytes=self._max_bytes, gathered=gathered)
        self._aheads.append(ahead)
        return ahead

    def _frames(self, guard: DecoderClient, path: Path, framing: Framing, passage: Passage | None = None) -> Frames:
        return self._for_model(guard, guard.sample(path, framing), framing, path, passage)

    def _frames_of_window(
        self,
        guard: DecoderClient,
        path: Path,
        framing: Framing,
        passage: Passage | None,
        following: tuple[Framing, ...],
    ) -> Frames:
        return self._for_model(guard, guard.window(path, framing, following), framing, path, passage)

    def _for_model(
        self, guard: DecoderClient, sampled: Frames, framing: Framing, path: Path, passage: Passage | None
    ) -> Frames:
        frames = self._subtitles.heard(guard, spread(sampled, framing.fit), path, passage)
        if self._recipe is None:
            return frames
        from vllava_cli.media.pixels import fitted

        return fitted(frames, self._recipe, fit=framing.fit)


@dataclass(frozen=True, kw_only=True)
class Read(Generic[K, T]):
    """The result of reading one file: `found`, which is Frames or a Clip, or else the `fault`."""

    key: K
    found: T | None
    fault: Exception | None
    """MediaError, UsageError or DecoderBugError; anything else is our bug."""
    seconds: float
    """The time that the worker took, including the start of its process."""


class ReadAhead(Generic[K, T]):
    """Reads files ahead, in a thread for each reader. Only one thread may call `take`.

    The files of a chunk are read one after another by the same reader; each result can be taken as soon as it is ready.
    A file is begun only if the results that are ready take less than `max_bytes` and are fewer than 1024, or if none is
    ready. Besides those, each reader may be reading one file.

    Results can be taken once `gathered` of them are ready, or the first has been for GATHERING_S, or no other can come
    before; from then on, until none is ready.
    """

    def __init__(
        self, chunks: Chunks, readers: Sequence[Callable[..., T]], *, max_bytes: int, gathered: int = 1
    ) -> None:
        self._chunks = iter(chunks)
        self._max_bytes, self._gathered = max_bytes, gathered
        self._turn = threading.Lock()
        """Held by the one worker that may ask for the next chunk."""
        self._change = threading.Condition()
        """Guards all attributes below. Its lock is reentrant, because a signal's handler may call `stop`."""
        self._ready = deque[Read[K, T]]()
        self._ready_bytes = 0
        self._ready_since_s = 0.0
        """Since when some result has been ready, if one is."""
        self._is_open = False
        """True if the results that are ready can be taken."""
        self._busy = 0
        self._is_ended = False
        """True if no chunk will be begun any more."""
        self._is_stopped = False
        """True if no file will be begun any more, not even the rest of a chunk."""
        self._failure: BaseException | None = None
        self.waited_s = 0.0
        """The time that `take` has waited in all while nothing was ready."""
        for number, reader in enumerate(readers, 1):
            threading.Thread(target=self._work, args=(reader,), name=f"read ahead {number}", daemon=True).start()

    def take(self, most: int, *, is_waiting: bool, is_interrupted: Callable[[], bool] = never) -> list[Read[K, T]]:
        """Takes the results that are ready, at most `most`, in the order of their completion; [] if none is ready.

        With `is_waiting`, waits until one is ready, all is over, or `is_interrupted` is True. An error that `files`
        raised is raised here, after the results of all files begun before it were taken.
        """
        with self._change:
            if is_waiting:
                self._wait(is_interrupted)
            taken = [self._ready.popleft() for _ in range(min(most, len(self._ready)) if self._may_take() else 0)]
            self._is_open = bool(self._ready) and self._is_open
            self._ready_bytes -= sum(map(_bytes, taken))
            self._change.notify_all()
            if self._failure and self._is_dry and not taken:
                failure, self._failure = self._failure, None
                raise failure
            return taken

    @property
    def is_over(self) -> bool:
        """True if nothing is ready and nothing will be."""
        with self._change:
            return self._is_dry and not self._failure

    def stop(self, failure: BaseException | None = None) -> None:
        """Begins no further file. The results of files already begun can be taken; then `take` raises the failure."""
        with self._change:
            self._is_ended = self._is_stopped = True
            self._failure = failure or self._failure
            self._change.notify_all()

    @property
    def _is_dry(self) -> bool:
        return self._is_ended and not self._busy and not self._ready

    def _wait(self, is_interrupted: Callable[[], bool]) -> None:
        """Waits in slices, so that Ctrl-C works on every system and the flag of a signal's handler is noticed."""
        while not (self._may_take() or self._is_dry or is_interrupted()):
            began_s, had_none = time.perf_counter(), not self._ready
            try:
                self._change.wait(_SLICE_S)
            finally:
                self.waited_s += (time.perf_counter() - began_s) * had_none

    def _may_take(self) -> bool:
        """Returns True if results are ready and gathered."""
        if self._ready and not self._is_open:
            is_last = (self._is_ended and not self._busy) or not self._has_capacity
            waited_s = time.perf_counter() - self._ready_since_s
            self._is_open = len(self._ready) >= self._gathered or is_last or waited_s >= GATHERING_S
        return self._is_open

    def _work(self, reader: Callable[..., T]) -> None:
        chunk = deque[tuple[Any, ...]]()
        while file := self._next(chunk):
            read = _read(reader, *file)
            with self._change:
                self._busy -= 1
                if read:
                    self._ready_since_s = self._ready_since_s if self._ready else time.perf_counter()
                    self._ready.append(read)
                    self._ready_bytes += _bytes(read)
                else:
                    self._is_ended = self._is_stopped = True
                self._change.notify_all()

    def _next(self, chunk: deque[tuple[Any, ...]]) -> tuple[Any, ...] | None:
        """Returns the next file of the chunk, or of a new one, once the limits allow it; None if all is over."""
        if not chunk:
            chunk.extend(self._next_chunk())
        if not chunk:
            return None
        with self._change:
            self._change.wait_for(lambda: self._is_stopped or self._has_capacity)
            if not self._is_stopped:
                return chunk.popleft()
            self._busy -= len(chunk)
            chunk.clear()
            self._change.notify_all()
            return None

    def _next_chunk(self) -> Sequence[tuple[Any, ...]]:
        """Takes a chunk once the limits allow it; () if there is none.

        Its files are counted as busy before another worker can see the end of the chunks.
        """
        with self._turn:
            with self._change:
                self._change.wait_for(lambda: self._is_ended or self._has_capacity)
                if self._is_ended:
                    return ()
            try:
                chunk = next(self._chunks)
            except StopIteration:
                with self._change:
                    self._is_ended = True
                    self._change.notify_all()
                return ()
            except BaseException as exc:  # the caller's own code may raise anything: `take` raises it in the caller
                self.stop(exc)
                return ()
            with self._change:
                self._busy += 0 if self._is_stopped else len(chunk)
                return () if self._is_stopped else chunk

    @property
    def _has_capacity(self) -> bool:
        return not self._ready or (self._ready_bytes < self._max_bytes and len(self._ready) < _MAX_READY)


def in_chunks(files: Framed[K], most: int) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Puts windows of a clip that follow each other into chunks of at most `most`; each window knows the next ones."""
    if most == 1:
        yield from ([(*_with_passage(file), ())] for file in files)
        return
    for _, group in groupby(map(_with_passage, files), key=lambda file: file[1]):
        yield from _chunks_of(group, most)


def _chunks_of(same: Iterator[tuple[Any, ...]], most: int) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Takes no more windows of a clip than it must: whether a later one is wanted may depend on the answers."""
    waiting = list(islice(same, most))
    while waiting:
        chunk, waiting = waiting, list(islice(same, most))
        framings = [file[2] for file in (*chunk, *waiting)]
        yield [(*file, tuple(framings[place : place + most])) for place, file in enumerate(chunk, 1)]


def _with_passage(file: tuple[Any, ...]) -> tuple[Any, ...]:
    return file if len(file) == 4 else (*file, None)


def in_order(ahead: ReadAhead[int, T]) -> Iterator[Read[int, T]]:
    """Yields the results for the keys 0, 1, 2, … in this order, each as soon as it and those before it are ready."""
    ready = dict[int, Read[int, T]]()
    for number in count():
        while number not in ready:
            taken = ahead.take(_MAX_READY, is_waiting=True)
            if not taken and ahead.is_over:
                return
            ready |= {read.key: read for read in taken}
        yield ready.pop(number)


def _read(reader: Callable[..., T], key: K, *file: Any) -> Read[K, T] | None:
    """Reads a file; returns None if the pool was closed meanwhile."""
    started_s = time.perf_counter()
    found, fault = None, None
    try:
        found = reader(*file)
    except KilledError:
        return None
    except Exception as exc:
        fault = exc
    return Read(key=key, found=found, fault=fault, seconds=time.perf_counter() - started_s)


def _small_sheet(guard: DecoderClient, most_bytes: int, path: Path, framing: Framing, recipe: VideoRecipe) -> bytes:
    from vllava_cli.media.contact_sheet import small_sheet

    return small_sheet(guard.sample(path, framing, tiles=recipe), most_bytes)


def _bytes(read: Read[Any, Any]) -> int:
    return read.found.pixels.nbytes if isinstance(read.found, Frames) else 0
