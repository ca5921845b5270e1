"""stdin as a clip: `Reader` decodes clips by the names that the user gave, of which `-` is stdin.

Decoders need a file that they can seek in, so stdin is copied to a private temporary one, which goes away whatever
happens.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from vllava_cli.errors import MediaError, UsageError
from vllava_cli.interrupt import GracefulExit
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.file_check import check_file, is_folder
from vllava_cli.nouns import STDIN, Clip, DecodeLimits, Frames, Framing, Tiles
from vllava_cli.storage.files import CHUNK_BYTES

MAX_BYTES = 2 << 30
_SLICE_S = 0.5
_Found = TypeVar("_Found")


class Reader:
    """Gives what `DecoderClient` gives, with `-` for stdin: in messages it is stdin, as a clip's path it stays `-`."""

    def __init__(self, limits: DecodeLimits | None = None, *, stdin: BinaryIO | None = None) -> None:
        self._client = DecoderClient(limits)
        self._stdin = stdin
        self._spooled: Path | None = None
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        self._ends.callback(self._client.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def start(self) -> None:
        """Starts the decoding process ahead of the first clip and returns at once."""
        self._client.start()

    def check(self, name: Path) -> None:
        """Refuses at once what needs no decoding to be refused. Errors: MediaError."""
        if name != Path(STDIN) and not is_folder(name):
            check_file(name)

    def sample(self, name: Path, framing: Framing, *, tiles: Tiles | None = None) -> Frames:
        """Like `DecoderClient.sample`."""
        frames = self._read(lambda path: self._client.sample(path, framing, tiles=tiles), name)
        return replace(frames, clip=self._named(frames.clip, name))

    def probe(self, name: Path, *, is_full: bool = False) -> Clip:
        """Like `DecoderClient.probe`."""
        return self._named(self._read(lambda path: self._client.probe(path, is_full=is_full), name), name)

    def file(self, name: Path) -> Path:
        """The file that a name stands for, which for stdin is there until the end of the `with`. Errors: MediaError."""
        if name != Path(STDIN):
            return name
        if self._spooled is None:
            if _dies_of_signals():
                self._ends.enter_context(GracefulExit.watched())
            self._spooled = self._ends.enter_context(spooled(self._stdin or sys.stdin.buffer))
        return self._spooled

    def _read(self, read: Callable[[Path], _Found], name: Path) -> _Found:
        path = self.file(name)
        try:
            return read(path)
        except (MediaError, UsageError) as exc:
            raise type(exc)(self._without_path(str(exc))) from exc

    def _named(self, clip: Clip, name: Path) -> Clip:
        faults = tuple(self._without_path(fault) for fault in clip.faults)
        return replace(clip, path=name, faults=faults, way_reason=self._without_path(clip.way_reason))

    def _without_path(self, text: str) -> str:
        return text.replace(f"'{self._spooled}'", "stdin") if self._spooled else text


@contextmanager
def spooled(stdin: BinaryIO, *, max_bytes: int = MAX_BYTES) -> Iterator[Path]:
    """A temporary file with all of `stdin`, which only this user may read; it goes away at the end of the `with`.

    Errors: MediaError where stdin is empty, larger than `max_bytes`, or can't be kept.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix="vllava-")
    except OSError as exc:
        raise MediaError(f"stdin can't be kept: {exc}. Set TMPDIR to a folder that you may write to.") from exc
    try:
        _copy(stdin, descriptor, max_bytes)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _copy(stdin: BinaryIO, descriptor: int, max_bytes: int) -> None:
    copied = 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            while chunk := _next(stdin):
                copied += len(chunk)
                if copied > max_bytes:
                    most = f"more than {max_bytes / (1 << 30):g} GiB, the most that is taken"
                    raise MediaError(f"stdin has {most}: save it to a file and name that.")
                file.write(chunk)
    except OSError as exc:
        raise MediaError(_unkept(exc)) from exc
    if not copied:
        raise MediaError("stdin is empty (0 bytes): pipe a video to it, cat clip.mp4 | vllava probe -.")


def _next(source: BinaryIO) -> bytes:
    """Waits in slices: a signal that comes just before a read would otherwise be noticed only after it."""
    while os.name == "posix" and not select.select([source], [], [], _SLICE_S)[0]:
        pass
    return os.read(source.fileno(), CHUNK_BYTES)


def _unkept(exc: OSError) -> str:
    reason = (exc.strerror or str(exc)).lower()
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = tempfile.gettempdir()
        return f"stdin can't be kept in {where}: {reason}. Set TMPDIR to a folder with room, or name a file."
    return f"stdin can't be read: {reason}. Save it to a file and name that."


def _dies_of_signals() -> bool:
    """Say whether SIGTERM would end this process without a chance to delete the file."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
