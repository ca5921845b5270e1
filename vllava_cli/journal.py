"""An append-only file of rows, one JSON object a line, that one process writes and any may read.

A row that `append` returned from is on the disk: it outlives SIGKILL and, as far as the disk keeps its word, a power
loss. A row cut short by either is cut off when the file is opened again; one cut short by a full disk, at once. Other
whole rows are never touched, nor is a file that isn't a journal. On Windows nothing keeps a second writer out.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from vllava_cli.errors import LockedError, OutputError
from vllava_cli.jsonl import (
    MAX_ROW_BYTES,
    line_of,
    opened,
    read_rows,
    reason_of,
    refuse_damaged,
    refuse_foreign,
    row_of,
    shown,
    told,
)

if sys.platform != "win32":
    import fcntl

__all__ = ["Journal", "is_locked", "read_rows"]
_CHUNK_BYTES = 1 << 16


class Journal:
    """An open journal, locked until `close`; for one thread. If its process dies, its forks hold the lock on."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._end = 0
        """Where the last write began, for a cut."""
        self._is_torn = False

    @classmethod
    def open(cls, path: Path, *, is_private: bool = False) -> Self:
        """Opens or makes the file, locks it, and cuts off a torn last row; a private one is made with mode 0600.

        Errors: LockedError; OutputError where it is no journal or can't be written.
        """
        journal = cls(path, _locked(path, 0o600 if is_private else 0o666))
        try:
            with told(path):
                _mend(journal._descriptor, path)
        except BaseException:
            journal.close()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        return self._path

    @property
    def is_empty(self) -> bool:
        """Whether it has no row yet."""
        return os.fstat(self._descriptor).st_size == 0

    def append(self, row: Mapping[str, object]) -> None:
        """Adds one row, all of it or nothing. Errors: OutputError; ValueError for a NaN or an infinity."""
        self.extend((row,))

    def extend(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Adds rows with one write: all or nothing, but for a crash, which may keep the first few. Errors: as above."""
        data = b"".join(map(line_of, rows))
        with told(self._path):
            self._cut()
            self._end = os.fstat(self._descriptor).st_size
            self._is_torn = True
            try:
                _write(self._descriptor, data)
                os.fsync(self._descriptor)
                self._is_torn = False
            except BaseException:
                with suppress(OSError):
                    self._cut()
                raise

    def rows(self) -> Iterator[dict[str, Any]]:
        """As `read_rows`."""
        return read_rows(self._path)

    def close(self) -> None:
        """Gives the lock back; may be called twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            _unlock(descriptor)
            os.close(descriptor)

    def _cut(self) -> None:
        """Also done before a write: the cut after a failed one may have failed as well."""
        if self._is_torn:
            os.ftruncate(self._descriptor, self._end)
            self._is_torn = False


def is_locked(path: Path) -> bool:
    """Whether a journal of this process or another one is open on that file; False where it can't be told."""
    try:
        with told(path), os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
            _lock(file.fileno(), path)
    except LockedError:
        return True
    except OutputError:
        return False
    return False


def _locked(path: Path, mode: int) -> int:
    """A locked descriptor of the file that has this name, also if the name came to another file in between."""
    while True:
        with told(path):
            descriptor = opened(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, mode)
            try:
                _lock(descriptor, path)
                if _is_same(descriptor, path):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise LockedError(
            f"{shown(path)} is being written by another vllava. Wait for its end, or name another file."
        ) from exc
    except OSError as exc:
        raise OutputError(
            f"{shown(path)} can't be locked: {reason_of(exc)}. Choose a file on a disk of this machine."
        ) from exc


def _unlock(descriptor: int) -> None:
    """Closing alone would not do while a process made by fork, or one about to be another program, has it open, too."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _mend(descriptor: int, path: Path) -> None:
    """Cuts off a torn last row, or ends a whole one that lacks its line break."""
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            _sync_folder(path)
            return
        _check_first(file, path)
        start = _start_of_line(file, size)
        last = _line_at(file, start, size, path)
        if row_of(last) is None:
            if start and row_of(_line_at(file, _start_of_line(file, start), start, path)) is None:
                refuse_damaged(path, "its last rows are damaged")
            os.ftruncate(descriptor, start)
        elif not last.endswith(b"\n"):
            _write(descriptor, b"\n")
        else:
            return
        os.fsync(descriptor)


def _check_first(file: BinaryIO, path: Path) -> None:
    """Raises an OutputError unless the file starts with a row, or with what may have become one."""
    file.seek(0)
    line = file.readline(MAX_ROW_BYTES)
    is_torn_row = not line.endswith(b"\n") and line.isascii()
    if row_of(line) is None and not (is_torn_row and (line == b"{" or line.startswith(b'{"'))):
        refuse_foreign(path)


def _start_of_line(file: BinaryIO, end: int) -> int:
    """Where the line starts whose last byte, a line break or not, is the one before `end`."""
    upper = end - 1
    while upper > 0:
        lower = max(0, upper - _CHUNK_BYTES)
        file.seek(lower)
        place = file.read(upper - lower).rfind(b"\n")
        if place >= 0:
            return lower + place + 1
        upper = lower
    return 0


def _line_at(file: BinaryIO, start: int, end: int, path: Path) -> bytes:
    if end - start > MAX_ROW_BYTES:
        refuse_foreign(path)
    file.seek(start)
    return file.read(end - start)


def _write(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, f"only {written:,} of {len(data):,} bytes found room")


def _sync_folder(path: Path) -> None:
    """Keeps a new file's name over a power loss, where folders can be synced."""
    with suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
