"""stdin as a clip: `Reader` decodes clips by the names that the user gave, of which `-` is stdin.

Decoders need a file that they can seek in, so stdin is copied to a private temporary one, which goes away whatever
happens.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO, Self, TypeVar

from vllava_cli.errors import MediaError, UsageError
from vllava_cli.media.decoder.client import Guard
from vllava_cli.nouns import STDIN, Clip, DecodeLimits, Frames, Framing, Tiles
from vllava_cli.storage.files import CHUNK_BYTES

MAX_BYTES = 2 << 30
_SLICE_S = 0.5
_Found = TypeVar("_Found")


class Reader:
    """What `Guard` gives, with `-` for stdin: in messages it is stdin, as a clip's path it stays `-`."""

    def __init__(self, limits: DecodeLimits | None = None, *, stdin: BinaryIO | None = None) -> None:
        self._guard = Guard(limits)
        self._stdin = stdin
        self._spooled: Path | None = None
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        self._ends.callback(self._guard.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ends.close()

    def start(self) -> None:
        """Starts the decoding process ahead of the first clip and returns at once."""
        self._guard.start()

    def check(self, name: Path) -> None:
        """Refuses at once what needs no decoding to be refused. Errors: MediaError."""
        from vllava_cli.media.files import check_file, is_folder

        if name != Path(STDIN) and not is_folder(name):
            check_file(name)

    def sample(self, name: Path, framing: Framing, *, tiles: Tiles | None = None) -> Frames:
        """As `Guard.sample`."""
        frames = self._told(lambda path: self._guard.sample(path, framing, tiles=tiles), name)
        return replace(frames, clip=self._named(frames.clip, name))

    def probe(self, name: Path, *, is_full: bool = False) -> Clip:
        """As `Guard.probe`."""
        return self._named(self._told(lambda path: self._guard.probe(path, is_full=is_full), name), name)

    def file(self, name: Path) -> Path:
        """The file that a name stands for, which for stdin is there until the end of the `with`. Errors: MediaError."""
        if name != Path(STDIN):
            return name
        if self._spooled is None:
            folder = self._ends.enter_context(_PrivateFolder())
            self._spooled = spool(self._stdin or sys.stdin.buffer, folder)
        return self._spooled

    def _told(self, read: Callable[[Path], _Found], name: Path) -> _Found:
        path = self.file(name)
        try:
            return read(path)
        except MediaError as exc:
            raise MediaError(self._without_path(str(exc))) from exc
        except UsageError as exc:
            raise UsageError(self._without_path(str(exc))) from exc

    def _named(self, clip: Clip, name: Path) -> Clip:
        faults = tuple(self._without_path(fault) for fault in clip.faults)
        return replace(clip, path=name, faults=faults, way_reason=self._without_path(clip.way_reason))

    def _without_path(self, text: str) -> str:
        return text.replace(f"'{self._spooled}'", "stdin") if self._spooled else text


def spool(stdin: BinaryIO, folder: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """All of `stdin` in a file of `folder` that only this user may read.

    Errors: MediaError where it is empty, larger than `max_bytes`, or can't be kept.
    """
    path = folder / "stdin"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            copied = _copy(stdin, file, max_bytes)
    except OSError as exc:
        raise MediaError(_unkept(exc, folder)) from exc
    if not copied:
        raise MediaError("stdin is empty (0 bytes): pipe a video to it, cat clip.mp4 | vllava probe -.")
    return path


def _copy(source: BinaryIO, target: BinaryIO, max_bytes: int) -> int:
    copied = 0
    while chunk := _next(source):
        copied += len(chunk)
        if copied > max_bytes:
            limit = f"{max_bytes / (1 << 30):g} GiB"
            raise MediaError(f"stdin has more than {limit}, the most that is taken: save it to a file and name that.")
        target.write(chunk)
    return copied


def _next(source: BinaryIO) -> bytes:
    """Waits in slices: a signal that comes just before a read would otherwise be noticed only after it."""
    while os.name == "posix" and not select.select([source], [], [], _SLICE_S)[0]:
        pass
    return os.read(source.fileno(), CHUNK_BYTES)


def _unkept(exc: OSError, folder: Path) -> str:
    reason = (exc.strerror or str(exc)).lower()
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = str(folder.parent)
        return f"stdin can't be kept in {where}: {reason}. Set TMPDIR to a folder with room, or name a file."
    return f"stdin can't be read: {reason}. Save it to a file and name that."


class _PrivateFolder:
    """A temporary folder of mode 0700 that is deleted also when the process is told to end."""

    _SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

    def __enter__(self) -> Path:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in self._SIGNALS}
        for number, action in self._before.items():
            if action is signal.SIG_DFL:
                signal.signal(number, _exit)
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="vllava-"))
        except OSError as exc:
            raise MediaError(f"stdin can't be kept: {exc}. Set TMPDIR to a folder that you may write to.") from exc
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        for number, action in self._before.items():
            signal.signal(number, action)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
