"""Frames of clips that were asked about, kept while there is room: a clip is decoded once, however often it is named.

The frames are those that the model takes (`fitted`), so that hundreds of clips fit in memory. The digest of a clip's
content, or the facts of its file, tell it from others. The same pixels are the same `Frames`, wherever they come from.
"""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakValueDictionary

from vllava_cli.errors import BusyError, MediaError, ServerError, UsageError, VllavaError, quoted
from vllava_cli.hardware import cpu_cores
from vllava_cli.media.decoder.client import DecoderClient, KilledError, NoAnswerError
from vllava_cli.media.decoder.pool import default_workers
from vllava_cli.media.select import spread
from vllava_cli.nouns import Checkpoint, DecodeLimits, Frames, Framing

NAMELESS = Path("the clip")
"""The path of a clip whose frames are shared by all who send the same content."""
MOST_BYTES = 256 << 20
MOST_WAITING = 256
MOST_NAMES = 4
"""The names of one clip under which its frames stay the same object."""
_KILLED = "SIGKILL"
_LEAST_DECODERS = 2
"""With one, a file that takes long would stop all others."""
_SETTLED_NS = 100_000_000
"""A file that was written less than 0.1 s ago may change again without a new date, as the system's clock ticks."""


@dataclass(frozen=True, kw_only=True)
class ClipContent:
    """Holds a key that tells the content of a clip from others, and the way to its file while it is read."""

    key: tuple[object, ...]
    opened: Callable[[], AbstractContextManager[Path]]
    """Makes the file available until the end of a `with`. Errors: MediaError, OutputError."""
    is_settled: Callable[[], bool] = lambda: True
    """Tells after the reading whether the key still stands for what was read."""


@dataclass(frozen=True, kw_only=True)
class ShelfFigures:
    """The counts of a shelf since its start, and what it holds now."""

    decoded: int
    faults: int
    waiting: int
    """Clips that are being decoded, or wait for it."""
    clips: int
    bytes: int


@dataclass(kw_only=True)
class _Shelved:
    frames: Frames
    named: OrderedDict[Path, Frames] = field(default_factory=OrderedDict)


@dataclass(kw_only=True)
class MediaShelf:
    """Reads clips in bounded processes that stay, and returns the same `Frames` for the same pixels."""

    limits: DecodeLimits = field(default_factory=DecodeLimits)
    decoders: int | None = None
    """The most clips that are decoded at once; None for as many as batch decodes, and at least two."""
    most_bytes: int = MOST_BYTES
    """The most memory for frames that nobody uses."""
    most_waiting: int = MOST_WAITING

    def __post_init__(self) -> None:
        count = self.decoders or max(_LEAST_DECODERS, default_workers(cpu_cores()))
        self._clients = [DecoderClient(self.limits) for _ in range(count)]
        self._free: queue.LifoQueue[DecoderClient] = queue.LifoQueue()
        for client in self._clients:
            self._free.put(client)
        self._workers = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._lock = threading.Lock()
        """Guards all attributes below."""
        self._reading: dict[tuple[object, ...], Future[_Shelved]] = {}
        self._kept: OrderedDict[tuple[object, ...], _Shelved] = OrderedDict()
        self._by_pixels: WeakValueDictionary[str, Frames] = WeakValueDictionary()
        self._bytes = self._decoded = self._faults = 0
        self._checkpoint: Checkpoint | None = None
        self._is_closed = False

    @property
    def figures(self) -> ShelfFigures:
        with self._lock:
            return ShelfFigures(
                decoded=self._decoded, faults=self._faults, waiting=len(self._reading), clips=len(self._kept),
                bytes=self._bytes,
            )  # fmt: skip

    def fit_to(self, checkpoint: Checkpoint) -> None:
        """Reduces all later frames to the squares that a checkpoint takes; its model sees the same pixels."""
        self._checkpoint = checkpoint

    def frames(self, path: Path, framing: Framing, *, name: Path | None = None) -> Frames:
        """Returns the eight frames of a file, whose messages and whose clip call it `name`.

        Waits, so call it in a thread. Errors: MediaError, UsageError; BusyError; DecoderBugError; ServerError once the
        shelf is closed.
        """
        name = name or path
        try:
            return self._named(self._begun(content_of(path), framing).result(), name)
        except VllavaError as exc:
            raise named_error(exc, quoted(name)) from exc

    def begin(self, content: ClipContent, framing: Framing) -> Future[Frames]:
        """Begins to read a clip; the future has its frames or the error, in which the clip is called NAMELESS.

        The future is of this caller alone: cancelling it stops nothing. Errors: BusyError if too many clips wait;
        ServerError; the future's are those of `frames`.
        """
        own: Future[Frames] = Future()

        def pass_on(read: Future[_Shelved]) -> None:
            if not own.set_running_or_notify_cancel():
                return
            if fault := read.exception():
                own.set_exception(fault)
            else:
                own.set_result(read.result().frames)

        self._begun(content, framing).add_done_callback(pass_on)
        return own

    def same(self, frames: Frames) -> Frames:
        """Returns the frames that are in use and tell the same as these, from the same pixels; else these."""
        digest = _digest(frames)
        with self._lock:
            return self._by_pixels.setdefault(digest, frames)

    def close(self) -> None:
        """Ends all decoding processes; what waits for them gets a ServerError."""
        with self._lock:
            self._is_closed = True
        for client in self._clients:
            client.kill()
        self._workers.shutdown()

    def _begun(self, content: ClipContent, framing: Framing) -> Future[_Shelved]:
        key = (*content.key, framing)
        with self._lock:
            if self._is_closed:
                raise _ended()
            if key in self._kept:
                self._kept.move_to_end(key)
                done: Future[_Shelved] = Future()
                done.set_result(self._kept[key])
                return done
            if key in self._reading:
                return self._reading[key]
            if len(self._reading) >= self.most_waiting:
                raise BusyError(f"{self.most_waiting} clips wait to be decoded already. Try again in a moment.")
            reading = self._reading[key] = Future[_Shelved]()
            self._workers.submit(self._read, key, content, framing, reading)
            return reading

    def _read(self, key: tuple[object, ...], content: ClipContent, framing: Framing, reading: Future[_Shelved]) -> None:
        try:
            with content.opened() as path:
                shelved = _Shelved(frames=self.same(self._decode(path, framing)))
            is_settled = content.is_settled()
        except BaseException as exc:
            with self._lock:
                del self._reading[key]
                self._faults += 1
            reading.set_exception(_ended() if isinstance(exc, KilledError) else exc)
            return
        with self._lock:
            del self._reading[key]
            self._decoded += 1
            if is_settled:
                self._keep(key, shelved)
        reading.set_result(shelved)

    def _decode(self, path: Path, framing: Framing) -> Frames:
        client = self._free.get()
        try:
            frames = spread(_sampled(client, path, framing), framing.fit)
        except (MediaError, UsageError) as exc:
            raise type(exc)(_nameless(str(exc), path)) from exc
        finally:
            self._free.put(client)
        return _without_name(self._fitted(frames, framing), path)

    def _fitted(self, frames: Frames, framing: Framing) -> Frames:
        if self._checkpoint is None:
            return frames
        from vllava_cli.media.pixels import fitted, fitted_image

        if frames.kind == "image":
            return fitted_image(frames, self._checkpoint.folder, fit=framing.fit)
        return fitted(frames, self._checkpoint.video_recipe, fit=framing.fit)

    def _keep(self, key: tuple[object, ...], shelved: _Shelved) -> None:
        self._kept[key] = shelved
        self._bytes += shelved.frames.pixels.nbytes
        while self._bytes > self.most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.frames.pixels.nbytes

    def _named(self, shelved: _Shelved, name: Path) -> Frames:
        """Returns the frames under a name: the same object each time, as long as the clip has few names."""
        with self._lock:
            known = shelved.named.get(name)
        frames = known or self.same(renamed(shelved.frames, name))
        with self._lock:
            shelved.named[name] = frames
            shelved.named.move_to_end(name)
            if len(shelved.named) > MOST_NAMES:
                shelved.named.popitem(last=False)
        return frames


def content_of(path: Path) -> ClipContent:
    """Returns the content of a file by its facts: once it changes, it is another content. A folder is always read."""
    try:
        facts = path.stat()
        key, is_old = (file_key(facts), is_older(facts)) if stat.S_ISREG(facts.st_mode) else ((object(),), False)
    except (OSError, ValueError):  # reading it gives the reason
        key, is_old = ("missing", path), False

    def is_settled() -> bool:
        with suppress(OSError):
            return is_old and file_key(path.stat()) == key
        return False

    return ClipContent(key=key, opened=lambda: nullcontext(path), is_settled=is_settled)


def file_key(facts: os.stat_result) -> tuple[object, ...]:
    """Returns the facts that tell a file from others, and from itself before a change."""
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def is_older(facts: os.stat_result) -> bool:
    """True if a file was written so long ago that a further change of it would change its date."""
    return max(facts.st_mtime_ns, facts.st_ctime_ns) + _SETTLED_NS < time.time_ns()


def renamed(frames: Frames, name: Path) -> Frames:
    """Returns the frames of a nameless clip under a name."""
    return _renamed(frames, NAMELESS, name)


def named_error(error: VllavaError, name: str) -> VllavaError:
    """Makes an error of a nameless clip name it, as in "'a.mp4'"; each caller gets an error of its own."""
    return type(error)(str(error).replace(quoted(NAMELESS), name))


def _without_name(frames: Frames, path: Path) -> Frames:
    return _renamed(frames, path, NAMELESS)


def _renamed(frames: Frames, before: Path, name: Path) -> Frames:
    def told(text: str) -> str:
        return text.replace(quoted(before), quoted(name))

    clip = frames.clip
    faults, notes = tuple(map(told, clip.faults)), tuple(map(told, clip.notes))
    clip = replace(clip, path=name, faults=faults, notes=notes, way_reason=told(clip.way_reason))
    return replace(frames, clip=clip)


def _nameless(text: str, path: Path) -> str:
    return text.replace(quoted(path), quoted(NAMELESS))


def _sampled(client: DecoderClient, path: Path, framing: Framing) -> Frames:
    """Samples a clip; if a process crashed on its first clip, or was killed before it, another one tries once more."""
    try:
        return client.sample(path, framing)
    except MediaError as exc:
        cause = exc.__cause__
        if not isinstance(cause, NoAnswerError) or (cause.is_certain and _KILLED not in str(cause)):
            raise
        return client.sample(path, framing)


def _digest(frames: Frames) -> str:
    """Hashes the pixels, their times, and the facts of the clip that answers tell; its container isn't one."""
    clip = frames.clip
    facts = (clip.path, clip.kind, clip.width, clip.height, clip.duration_s, clip.remarks)
    rest = (facts, frames.times_s, frames.sizes, frames.reasons, frames.pixels.shape)
    whole = hashlib.sha256(repr(rest).encode(errors="surrogateescape"))
    for pixels in frames.pixels:
        whole.update(pixels.data if pixels.flags.c_contiguous else pixels.tobytes())
    return whole.hexdigest()


def _ended() -> ServerError:
    return ServerError("The server ends, and reads no more clips. Start it again.")
