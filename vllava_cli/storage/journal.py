"""An append-only file of rows, one JSON object a line, that one process writes and any may read.

A row that `append` returned from is on the disk: it outlives SIGKILL and, as far as the disk keeps its word, a power
loss. A row cut short by either is cut off when the file is opened again; one cut short by a full disk, at once. Other
whole rows stay as they are until `rewrite`, a file that isn't a journal always. On Windows nothing keeps a second
writer out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from vllava_cli.storage.files import Part
from vllava_cli.storage.journal_repair import mend
from vllava_cli.storage.jsonl import line_of, read_rows, told, write_all
from vllava_cli.storage.lock import is_locked, locked, release

__all__ = ["Journal", "is_locked", "read_rows"]


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
        journal = cls(path, locked(path, 0o600 if is_private else 0o666))
        try:
            with told(path):
                mend(journal._descriptor, path)
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
        with told(self._path):
            self._cut()
        part = Part.begin(self._path)
        try:
            part.fill(map(line_of, rows))
            if sys.platform == "win32":  # where an open file can't be replaced
                self.close()
            part.put()
        finally:
            if part.is_put:
                self.close()
                self._descriptor = part.descriptor
            else:
                part.end()

    def rows(self) -> Iterator[dict[str, Any]]:
        """As `read_rows`."""
        return read_rows(self._path)

    def close(self) -> None:
        """Gives the lock back; may be called twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            release(descriptor)

    def _cut(self) -> None:
        """Also done before a write: the cut after a failed one may have failed as well."""
        if self._is_torn:
            os.ftruncate(self._descriptor, self._end)
            self._is_torn = False
