"""A folder for the clips that requests bring; only this user can open it, and it is removed when the server ends."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vllava_cli.errors import LockedError, OutputError, os_reason
from vllava_cli.storage.files import locked, release


class PrivateFolder:
    """A folder that exists from its first use until `close`, or until this process ends.

    A lock beside it says that its server lives. What a killed server left is removed when the next one makes its folder
    or calls `sweep`.
    """

    def __init__(self, within: Path | None = None) -> None:
        self._within = within or Path(tempfile.gettempdir()) / f"vllava-clips-{_user()}"
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._remove: Callable[[], object] = lambda: None

    @property
    def path(self) -> Path:
        """The folder, which is made now if it isn't there yet. Errors: OutputError."""
        with self._lock:
            if self._folder is None or not self._folder.is_dir():  # a cleaner of old files may have removed it
                self._remove()
                try:
                    self._folder = self._made()
                except OSError as exc:
                    remedy = "Set TMPDIR to a folder that you may write to"
                    raise OutputError(f"'{self._within}' can't keep clips: {os_reason(exc)}. {remedy}.") from exc
            return self._folder

    @contextmanager
    def file(self, content: bytes) -> Iterator[Path]:
        """Keeps some content in a file of mode 0600 until the end of the `with`. Errors: OutputError."""
        path = self.new_path()
        try:
            with as_unkept(), open_new(path) as file:
                file.write(content)
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def link(self, target: Path, suffix: str) -> Iterator[Path]:
        """Makes a symbolic link with a suffix; it is removed at the end of the `with`. Errors: OutputError."""
        path = self.new_path().with_suffix(suffix)
        try:
            with as_unkept():
                path.symlink_to(target)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def new_path(self) -> Path:
        """Returns a path in the folder that nothing has yet."""
        return self.path / secrets.token_hex(12)

    def sweep(self) -> None:
        """Removes the folders of servers that were killed. On Windows nothing tells these from others."""
        if sys.platform == "win32" or not _is_ours(self._within):
            return
        for lock in self._within.glob("*.lock"):
            with suppress(OSError, LockedError, OutputError):
                descriptor = locked(lock)
                try:
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.unlink()
                finally:
                    release(descriptor)

    def close(self) -> None:
        """Removes the folder with all that is in it; a later use makes another one."""
        with self._lock:
            self._remove()
            self._folder = None

    def _made(self) -> Path:
        with suppress(FileExistsError):
            self._within.mkdir(mode=0o700, parents=True)
        is_shared = _is_ours(self._within)  # by all servers of this user
        within = self._within if is_shared else Path(tempfile.mkdtemp(prefix="vllava-clips-"))
        self.sweep()
        folder = within / secrets.token_hex(8)
        lock = folder.with_suffix(".lock")
        descriptor = locked(lock, 0o600)
        folder.mkdir(mode=0o700)
        self._remove = weakref.finalize(self, _remove, folder if is_shared else within, lock, descriptor, os.getpid())
        return folder


def open_new(path: Path) -> BinaryIO:
    """Opens a file for writing that must not exist yet; only this user may read it. Errors: OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o600), "wb")


@contextmanager
def as_unkept() -> Iterator[None]:
    """Turns errors of the disk into an OutputError."""
    try:
        yield
    except OSError as exc:
        text = f"The clip can't be kept on the server's disk: {os_reason(exc)}. Free some space there."
        raise OutputError(text) from exc


def _is_ours(folder: Path) -> bool:
    """True if a folder is a real one, not a link, and nobody else could have written to it."""
    try:
        facts = folder.lstat()
    except OSError:
        return False
    if sys.platform == "win32":
        return stat.S_ISDIR(facts.st_mode)
    is_own = facts.st_uid == os.geteuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(facts.st_mode) and is_own


def _remove(folder: Path, lock: Path, descriptor: int, owner: int) -> None:
    if os.getpid() != owner:  # a forked process must not remove what its parent uses
        return
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        lock.unlink()
    release(descriptor)


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"
