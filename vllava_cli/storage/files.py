"""Files that are there whole or not at all: they grow under another name, then take their place in one step.

What stood there stays as it was until then, whatever dies or runs full. A kill may leave the other name, .NAME.part,
behind; the next writer of the file takes it over.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

from vllava_cli.storage.jsonl import check_regular, sync_folder, told, write_all
from vllava_cli.storage.lock import is_same, locked, release

_CHUNK_BYTES = 1 << 20


def write(path: Path, pieces: Iterable[bytes]) -> None:
    """Writes a file in bounded memory and replaces one that is there. Errors: OutputError, LockedError."""
    part = Part.begin(path)
    try:
        part.fill(pieces)
        part.put()
    finally:
        part.end()


class Part:
    """A file that is to take another one's place: locked, and with that one's mode."""

    def __init__(self, path: Path, target: Path, descriptor: int) -> None:
        self._path = path
        self._target = target
        """Where a symbolic link leads."""
        self.descriptor = descriptor

    @classmethod
    def begin(cls, path: Path) -> Self:
        """An empty one. Errors: LockedError where another vllava is writing the same file, OutputError."""
        with told(path):
            check_regular(path)
            target = Path(os.path.realpath(path))
            part = cls(path, target, locked(_name(target), told_as=path))
            try:
                os.ftruncate(part.descriptor, 0)
                with suppress(FileNotFoundError):
                    _name(target).chmod(stat.S_IMODE(target.stat().st_mode))
            except BaseException:
                part.end()
                raise
        return part

    @property
    def is_put(self) -> bool:
        """Whether it has taken its place."""
        return self.descriptor >= 0 and is_same(self.descriptor, self._target)

    def fill(self, pieces: Iterable[bytes]) -> None:
        """Adds to it; what `pieces` raises is not touched. Errors: OutputError."""
        pending = bytearray()
        for piece in pieces:
            pending += piece
            if len(pending) >= _CHUNK_BYTES:
                self._add(pending)
                pending.clear()
        self._add(pending)

    def put(self) -> None:
        """Brings it to the disk, then to its place. Errors: OutputError."""
        with told(self._path):
            os.fsync(self.descriptor)
            if sys.platform == "win32":  # where an open file can't be moved
                self._release()
            _name(self._target).replace(self._target)
            if sys.platform == "win32":
                self.descriptor = locked(self._target, told_as=self._path)
            sync_folder(self._target)

    def end(self) -> None:
        """Gives the lock back; leaves nothing behind if it hasn't taken its place."""
        if not self.is_put:
            with suppress(OSError):
                _name(self._target).unlink()
        self._release()

    def _release(self) -> None:
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            release(descriptor)

    def _add(self, data: bytearray) -> None:
        with told(self._path):
            write_all(self.descriptor, data)


def _name(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def private_fault(path: Path) -> str | None:
    """Why others than this user could have written to a file or folder, a clause; None where they couldn't."""
    facts = path.stat()
    if sys.platform == "win32":
        return None
    if facts.st_uid != os.geteuid():
        return "it belongs to another user"
    return "others may write to it" if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None
