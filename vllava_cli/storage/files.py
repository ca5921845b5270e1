"""Regular files: opened, locked against a second writer, and replaced in one step.

New content is written to .NAME.part, which then replaces NAME in one step. Until then NAME keeps its old content, even
if the process dies or the disk runs full. A killed process may leave .NAME.part behind; the next writer of NAME reuses
it. On Windows nothing keeps a second writer out.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from vllava_cli.errors import LockedError, OutputError, UsageError, VllavaError, os_reason, quoted

if sys.platform != "win32":
    import fcntl

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Opening never blocks, as it would if a named pipe took the file's place after the check."""
CHUNK_BYTES = 1 << 20
"""The bytes of a file that are read or written at once."""
_TRIES, _PAUSE_S = 5, 0.02


@contextmanager
def as_output_error(
    path: Path | str, verb: str = "written", *, error: type[VllavaError] = OutputError
) -> Iterator[None]:
    """Turns errors of the system into one sentence that names the file; a `path` that is text is used as it is."""
    try:
        yield
    except (OSError, ValueError) as exc:
        name = path if isinstance(path, str) else quoted(path)
        remedy = "Free some disk space" if getattr(exc, "errno", None) in _NO_SPACE else "Check the path"
        raise error(f"{name} can't be {verb}: {os_reason(exc)}. {remedy}, or name another file.") from exc


def check_regular(path: Path) -> None:
    """Raises an OutputError if the path is a folder, a pipe or anything else but a regular file; it may be missing."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise OutputError(f"{quoted(path)} is a folder. Name a file.")
        if not stat.S_ISREG(mode):
            raise OutputError(f"{quoted(path)} is not a regular file. Name another one.")


def opened(path: Path, flags: int, mode: int = 0o666) -> int:
    """Opens a regular file and returns its descriptor. Errors: OutputError for anything else; OSError."""
    check_regular(path)
    return os.open(path, flags | _FLAGS, mode)


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Writes the data with one call. Errors: OSError, also if there was room for only a part of the data."""
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, f"only {written:,} of {len(data):,} bytes could be written")


def size_bytes(text: str, *, least: int = 1) -> int:
    """Reads a size in bytes: "512M" → 536870912, "4G" → 4294967296. Errors: UsageError."""
    digits = text.strip().upper().removesuffix("B").removesuffix("I")
    power = "KMGT".find(digits[-1:]) + 1 if digits else 0
    number = digits[:-1] if power else digits
    try:
        size = int(float(number) * 1024**power)
    except (ValueError, OverflowError):
        size = -1
    if size < least or size >= 1 << 62:
        raise UsageError(f"{text!r} is not a size: give bytes with K, M or G (512M, 4G).")
    return size


def sync_folder(path: Path) -> None:
    """Syncs the folder of a new file, where that is possible, so that the file's name survives a power loss."""
    with suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def private_fault(path: Path) -> str | None:
    """Returns a clause that says why other users could have written to a file or folder; None if they couldn't."""
    facts = path.stat()
    if sys.platform == "win32":
        return None
    if facts.st_uid != os.geteuid():
        return "it belongs to another user"
    return "others may write to it" if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


def make_private(folder: Path) -> None:
    """Makes a folder that only this user may use. Errors: OutputError if others could have written to it; OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if fault := private_fault(folder):
        raise OutputError(f"{fault}; run chmod 700, or set VLLAVA_CACHE to a folder of your own")
    folder.chmod(0o700)


def locked(path: Path, mode: int = 0o666, *, reported_as: Path | None = None, is_shared: bool = False) -> int:
    """Opens the file that has this name, locks it and returns its descriptor; messages call it `reported_as`.

    The file is opened for appending, and created if it is missing. For a shared lock it is opened for reading, which is
    enough, also on a network drive. Errors: LockedError, OutputError.
    """
    flags = os.O_RDONLY if is_shared else os.O_RDWR | os.O_APPEND | os.O_CREAT
    while True:
        with as_output_error(reported_as or path):
            descriptor = opened(path, flags, mode)
            try:
                _lock(descriptor, reported_as or path, is_shared=is_shared)
                if is_same(descriptor, path):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # another file got the name in between: try that one


def release(descriptor: int) -> None:
    """Unlocks and closes a descriptor: closing alone doesn't unlock while a forked process has the file open, too."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_locked(path: Path) -> bool:
    """True if this process or another one is writing to the file; False if that can't be known."""
    try:
        os.close(locked(path, is_shared=True))
    except LockedError:
        return True
    except OutputError:
        return False
    return False


def is_same(descriptor: int, path: Path) -> bool:
    """True if `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, name: Path, *, is_shared: bool) -> None:
    """Locks an open file. Errors: LockedError, OutputError.

    It tries for a moment, because another process holds a shared lock for an instant in `is_locked`.
    """
    if sys.platform == "win32":
        return
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as exc:
            if not left:
                raise LockedError(
                    f"{quoted(name)} is being written by another vllava. Wait until it ends, or name another file."
                ) from exc
            time.sleep(_PAUSE_S)
        except OSError as exc:
            raise OutputError(
                f"{quoted(name)} can't be locked: {os_reason(exc)}. Choose a file on a local disk."
            ) from exc


def atomic_write(path: Path, pieces: Iterable[bytes], *, mode: int | None = None) -> None:
    """Writes a file, in bounded memory, that replaces `path` once it is whole. Errors: OutputError, LockedError."""
    with Part(path, mode=mode) as part:
        part.fill(pieces)


class Part:
    """A new file that replaces `path` when its `with` block ends without an error; locked, with `mode` or the old mode.

    Errors: OutputError; LockedError where another vllava is writing the same file.
    """

    def __init__(self, path: Path, *, mode: int | None = None) -> None:
        self._name = path
        self._descriptor = -1
        with as_output_error(path):
            check_regular(path)
            self._target = Path(os.path.realpath(path))
            self.path = self._target.with_name(f".{self._target.name}.part")
            self._descriptor = locked(self.path, mode or 0o666, reported_as=path)
            try:
                os.ftruncate(self._descriptor, 0)
                with suppress(FileNotFoundError):
                    self.path.chmod(mode or stat.S_IMODE(self._target.stat().st_mode))
            except BaseException:
                self.end()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.put()
        finally:
            self.end()

    def fill(self, pieces: Iterable[bytes]) -> None:
        """Appends the pieces; an error that `pieces` raises is passed on unchanged."""
        pending = bytearray()
        for piece in pieces:
            pending += piece
            if len(pending) >= CHUNK_BYTES:
                self._append(pending)
                pending.clear()
        self._append(pending)

    def put(self) -> None:
        """Syncs the content to the disk, then moves the file to its place."""
        with as_output_error(self._name):
            os.fsync(self._descriptor)
            if sys.platform == "win32":  # where an open file can't be moved
                self._release()
            self.path.replace(self._target)
            if sys.platform == "win32":
                self._descriptor = locked(self._target, reported_as=self._name)
            sync_folder(self._target)

    def taken(self) -> int | None:
        """Returns the new file's locked descriptor if it has replaced `path`; else deletes it and returns None."""
        if self._is_put:
            descriptor, self._descriptor = self._descriptor, -1
            return descriptor
        self.end()
        return None

    def end(self) -> None:
        """Releases the lock, and deletes the temporary file if it hasn't replaced the target."""
        if not self._is_put:
            with suppress(OSError):
                self.path.unlink()
        self._release()

    @property
    def _is_put(self) -> bool:
        return self._descriptor >= 0 and is_same(self._descriptor, self._target)

    def _release(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            release(descriptor)

    def _append(self, data: bytearray) -> None:
        with as_output_error(self._name):
            write_all(self._descriptor, data)
