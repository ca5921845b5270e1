"""What was typed in earlier runs: a file that nobody else may read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

MAX_BYTES = 16 << 20
"""All of it is held in memory."""


def private_history(path: Path | None) -> tuple[History, str | None]:
    """The history in the file, made if needed; else one in memory and, if a file was wanted, why it isn't used."""
    if path is None:
        return InMemoryHistory(), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(_opened(path))
        if path.stat().st_size > MAX_BYTES:
            raise OSError(f"it is larger than {MAX_BYTES >> 20} MiB: delete it, or cut it")
    except (OSError, ValueError) as exc:
        place = getattr(exc, "filename", None) or path
        return InMemoryHistory(), f"What you type isn't kept: {place}: {getattr(exc, 'strerror', None) or exc}."
    return _PrivateHistory(path), None


def _opened(path: Path) -> int:
    """A descriptor that appends to the file, which only its owner may then read. Errors: OSError."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a file")
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
    return descriptor


class _PrivateHistory(FileHistory):
    """Appends each entry in one write; an entry that can't be written is only remembered until the end."""

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        lines = "".join(f"+{line}\n" for line in string.split("\n"))
        try:
            descriptor = _opened(Path(os.fsdecode(self.filename)))
        except OSError:
            return
        try:
            os.write(descriptor, f"\n# {datetime.now()}\n{lines}".encode("utf-8", "replace"))
        except OSError:
            pass  # a full disk: asking goes on
        finally:
            os.close(descriptor)
