"""One writer of a file at a time, as long as it has its descriptor. On Windows nothing keeps a second one out."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from vllava_cli.errors import LockedError, OutputError
from vllava_cli.storage.jsonl import opened, reason_of, shown, told

if sys.platform != "win32":
    import fcntl

_TRIES, _PAUSE_S = 5, 0.02


def locked(path: Path, mode: int = 0o666, *, told_as: Path | None = None) -> int:
    """Opens or makes the file that has this name, to append to it, and locks it; errors name it `told_as`.

    Errors: LockedError, OutputError.
    """
    return _held(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, mode, told_as or path)


def release(descriptor: int) -> None:
    """Closing alone would not do while a process made by fork, or one about to be another program, has it open, too."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether this process or another one is writing to that file; False where it can't be told."""
    try:
        os.close(_held(path, os.O_RDONLY, 0, path))
    except LockedError:
        return True
    except OutputError:
        return False
    return False


def is_same(descriptor: int, path: Path) -> bool:
    """Whether that name is still the open file's."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _held(path: Path, flags: int, mode: int, name: Path) -> int:
    """A locked descriptor of the file that has this name, also if the name came to another file in between."""
    while True:
        with told(name):
            descriptor = opened(path, flags, mode)
            try:
                _lock(descriptor, name, is_shared=not flags & os.O_RDWR)
                if is_same(descriptor, path):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _flock(descriptor: int, kind: int) -> None:
    """Tries for a moment: who only asks whether a file is locked has a shared lock on it for an instant."""
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _lock(descriptor: int, path: Path, *, is_shared: bool) -> None:
    """A shared one is all that a network's disk gives to who may only read."""
    if sys.platform == "win32":
        return
    try:
        _flock(descriptor, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
    except BlockingIOError as exc:
        raise LockedError(
            f"{shown(path)} is being written by another vllava. Wait for its end, or name another file."
        ) from exc
    except OSError as exc:
        raise OutputError(
            f"{shown(path)} can't be locked: {reason_of(exc)}. Choose a file on a disk of this machine."
        ) from exc
