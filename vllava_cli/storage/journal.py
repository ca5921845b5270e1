"""An append-only file of rows, one JSON object a line, that one process writes and any may read.

A row that `append` returned from is on the disk: it outlives SIGKILL and, as far as the disk keeps its word, a power
loss. A row cut short by either is cut off when the file is opened again; one cut short by a full disk, at once. Other
whole rows stay as they are until `rewrite`, a file that isn't a journal always.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from vllava_cli.storage.files import Part, as_output_error, locked, opened, release, sync_folder, write_all
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, line_of, read_rows, refuse_damaged, refuse_foreign, row_of

_BLOCK_BYTES = 1 << 16


class Journal:
    """An open journal, locked until `close`; for one thread. If its process dies, its forks hold the lock on."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._end = 0
        """The end of the file before the last write, for a cut."""
        self._is_torn = False

    @classmethod
    def open(cls, path: Path, *, is_private: bool = False) -> Self:
        """Opens or makes the file, locks it, and cuts off a torn last row; a private one is made with mode 0600.

        Errors: LockedError; OutputError where it is no journal or can't be written.
        """
        journal = cls(path, locked(path, 0o600 if is_private else 0o666))
        try:
            with as_output_error(path):
                _repair(journal._descriptor, path)
        except BaseException:
            journal.close()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_empty(self) -> bool:
        return os.fstat(self._descriptor).st_size == 0

    def append(self, row: Mapping[str, object]) -> None:
        """Adds one row, all of it or nothing. Errors: OutputError; ValueError for a NaN or an infinity."""
        self.extend((row,))

    def extend(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Adds rows with one write: all or nothing, but for a crash, which may keep the first few. Errors: as above."""
        data = b"".join(map(line_of, rows))
        with as_output_error(self.path):
            self._cut()
            self._end = os.fstat(self._descriptor).st_size
            self._is_torn = True
            try:
                write_all(self._descriptor, data)
                os.fsync(self._descriptor)
                self._is_torn = False
            except BaseException:
                with suppress(OSError):
                    self._cut()
                raise

    def rewrite(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Puts these rows, which may come from `rows`, in place of all: in one step, with the lock never given back.

        Errors: as `append`; the rows of before stay then.
        """
        with as_output_error(self.path):
            self._cut()
        part = Part(self.path)
        try:
            part.fill(map(line_of, rows))
            if sys.platform == "win32":  # where an open file can't be replaced
                self.close()
            part.put()
        finally:
            if (descriptor := part.taken()) is not None:
                self.close()
                self._descriptor = descriptor

    def rows(self) -> Iterator[dict[str, Any]]:
        return read_rows(self.path)

    def close(self) -> None:
        """Gives the lock back; may be called twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            release(descriptor)

    def _cut(self) -> None:
        """Cut a torn write off; also done before a write, as the cut after a failed one may have failed as well."""
        if self._is_torn:
            os.ftruncate(self._descriptor, self._end)
            self._is_torn = False


def check_start(path: Path) -> None:
    """Raises an OutputError for a file that can't be read, or that has something, but doesn't start with a row."""
    with as_output_error(path, "read"), os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        if file.seek(0, os.SEEK_END):
            _check_first(file, path)


def _repair(descriptor: int, path: Path) -> None:
    """Cuts off a torn last row, or ends a whole one that lacks its line break. Errors: OutputError, OSError."""
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            sync_folder(path)
            return
        _check_first(file, path)
        start, last = _last_line(file, size, path)
        if row_of(last) is None:
            if start and row_of(_last_line(file, start, path)[1]) is None:
                refuse_damaged(path, "its last rows are damaged")
            os.ftruncate(descriptor, start)
        elif not last.endswith(b"\n"):
            write_all(descriptor, b"\n")
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


def _last_line(file: BinaryIO, end: int, path: Path) -> tuple[int, bytes]:
    """Finds the line whose last byte, a line break or not, is the one before `end`, and where it starts."""
    start, upper = 0, end - 1
    while upper > 0:
        lower = max(0, upper - _BLOCK_BYTES)
        file.seek(lower)
        found = file.read(upper - lower).rfind(b"\n")
        if found >= 0:
            start = lower + found + 1
            break
        upper = lower
    if end - start > MAX_ROW_BYTES:
        refuse_foreign(path)
    file.seek(start)
    return start, file.read(end - start)
