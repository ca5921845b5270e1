"""Locks of the cache: held as long as a descriptor is open, by processes and by threads alike, gone with who held them.

A name may come to another file while one waits for its lock; what is returned holds the file that has the name now.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllava_cli.errors import FetchError
from vllava_cli.storage.files import is_same, release

if sys.platform != "win32":
    import fcntl

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def shared(path: Path) -> int | None:
    """Keeps the file from going away; None if it isn't there. Waits for who has it alone."""
    return _locked(path, os.O_RDONLY, is_sole=False)


def sole(path: Path) -> int:
    """The file for this caller alone, made where it lacks, as soon as nobody else has it. Errors: OSError."""
    descriptor = _locked(path, os.O_RDWR | os.O_CREAT, is_sole=True)
    assert descriptor is not None  # it is made
    return descriptor


def sole_now(path: Path) -> int | None:
    """The same for a file that is there; None at once where somebody has it."""
    try:
        return _locked(path, os.O_RDWR, is_sole=True, waits=False)
    except BlockingIOError:
        return None


def give_up(descriptor: int) -> None:
    """Lets others have the file, which stays open."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else is between the same lines, on this machine."""
    descriptor = sole(path)
    try:
        yield
    finally:
        release(descriptor)


def _locked(path: Path, flags: int, *, is_sole: bool, waits: bool = True) -> int | None:
    while True:
        try:
            descriptor = os.open(path, flags | _FLAGS, 0o600)
        except FileNotFoundError:
            return None
        try:
            _lock(descriptor, is_sole=is_sole, waits=waits)
            if is_same(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        release(descriptor)


def _lock(descriptor: int, *, is_sole: bool, waits: bool) -> None:
    if sys.platform == "win32":
        raise FetchError("URLs can't be fetched on Windows, which lacks the locks for it: download the clips first.")
    kind = fcntl.LOCK_EX if is_sole else fcntl.LOCK_SH
    fcntl.flock(descriptor, kind if waits else kind | fcntl.LOCK_NB)
