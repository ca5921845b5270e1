"""The file of a chat: a journal whose first row is the header, then a row for each turn and each undo.

A turn that was appended is kept whatever dies; a file that can't be a session is refused in one sentence, untouched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Self

from vllava_cli.errors import LockedError, OutputError, SessionError, quoted
from vllava_cli.interrupt import never
from vllava_cli.media.fingerprint import Fingerprint, StoppedError, differs, fingerprint
from vllava_cli.session.session_rows import (
    MediumRecord,
    SessionRecord,
    TurnRecord,
    folded,
    rows_of,
    turn_row,
    undo_row,
)
from vllava_cli.storage.files import as_output_error, atomic_write, is_locked
from vllava_cli.storage.journal import Journal
from vllava_cli.storage.jsonl import line_of, read_rows

__all__ = [
    "Fingerprint",
    "MediumRecord",
    "SessionFile",
    "SessionRecord",
    "StoppedError",
    "TurnRecord",
    "difference",
    "fingerprint",
    "new_path",
    "read",
    "sessions",
    "sessions_folder",
    "write_copy",
]
MAX_BYTES = 64 << 20
"""A turn has some kB."""
_ATTEMPTS = 10


class SessionFile:
    """A session that turns are appended to; nobody else may write to it until `close`."""

    def __init__(self, journal: Journal, turn_count: int) -> None:
        self._journal = journal
        self._turn_count = turn_count

    @classmethod
    def create(cls, path: Path, record: SessionRecord) -> Self:
        """Makes the file, for its user alone, and folders to it where they lack. Errors: LockedError, OutputError."""
        _make_parents(path)
        _check_free(path)
        journal = Journal.open(path, is_private=True)
        try:
            if not journal.is_empty:
                raise OutputError(_taken(path))
            try:
                journal.extend(rows_of(record))
            except BaseException:
                with suppress(OSError):
                    path.unlink()
                raise
        except BaseException:
            journal.close()
            raise
        return cls(journal, len(record.turns))

    @classmethod
    def begin(cls, folder: Path, record: SessionRecord, now: datetime) -> Self:
        """As `create`, under a new name in that folder, also if others begin in the same second."""
        for _ in range(_ATTEMPTS):
            path = new_path(folder, now)
            try:
                return cls.create(path, record)
            except OutputError:
                if not os.path.lexists(path):
                    raise
        raise OutputError(f"{quoted(folder)} has no free name for a session. Try again.")

    @classmethod
    def resume(cls, path: Path) -> tuple[Self, SessionRecord]:
        """Opens a session to go on with it, and says what is in it. Errors: SessionError, LockedError, OutputError."""
        read(path)  # before the journal may mend what isn't a session
        journal = Journal.open(path, is_private=True)
        try:
            record = read(path)
        except BaseException:
            journal.close()
            raise
        return cls(journal, len(record.turns)), record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        return self._journal.path

    def append_turn(self, turn: TurnRecord) -> None:
        """Keeps a turn; one of a number that there is replaces that and all behind it. Errors: OutputError."""
        self._check(turn.number)
        self._journal.append(turn_row(turn))
        self._turn_count = turn.number

    def append_undo(self, number: int, attached: Sequence[MediumRecord] = ()) -> None:
        """Forgets the turn of that number and all behind it; says what is attached then. Errors: OutputError."""
        self._check(number)
        self._journal.append(undo_row(number, attached))
        self._turn_count = number - 1

    def close(self) -> None:
        self._journal.close()

    def _check(self, number: int) -> None:
        if not 1 <= number <= self._turn_count + 1:
            raise ValueError(f"turn {number} after {self._turn_count}")


def read(path: Path) -> SessionRecord:
    """What is in a session file that may be in use; a torn last row is left out. Errors: SessionError."""
    try:
        with suppress(OSError):
            if path.stat().st_size > MAX_BYTES:
                raise SessionError(f"it is larger than {MAX_BYTES >> 20} MiB")
        return folded(read_rows(path))
    except SessionError as exc:
        raise SessionError(
            f"{quoted(path)} can't be used as a session: {exc}. Name another file, or start a new session."
        ) from exc
    except OutputError as exc:
        raise SessionError(str(exc)) from exc


def write_copy(path: Path, record: SessionRecord, *, is_overwriting: bool) -> None:
    """Writes a session to a file for its user alone, whole or not at all; replaces one where that is asked for.

    Errors: LockedError, OutputError.
    """
    with as_output_error(path):
        if not is_overwriting or not os.path.isfile(path):
            _check_free(path, is_empty_free=False)
        elif is_locked(path):
            raise LockedError(f"{quoted(path)} is the file of a chat that goes on. Name another file.")
    atomic_write(path, map(line_of, rows_of(record)), mode=0o600)


def difference(record: MediumRecord, is_stopped: Callable[[], bool] = never) -> str | None:
    """How a clip differs from what the model saw, a sentence; None if it is the same. Errors: StoppedError."""
    return differs(record.path, Fingerprint(bytes=record.bytes, sha256=record.sha256), is_stopped)


def sessions_folder() -> Path:
    """Where sessions without a name of their own are kept: ~/.local/state/vllava/sessions on Linux."""
    from platformdirs import user_state_path

    return user_state_path("vllava", appauthor=False) / "sessions"


def new_path(folder: Path, now: datetime) -> Path:
    """A free name; names sort by time: 2026-11-22T19-40-05Z.jsonl, then 2026-11-22T19-40-05Z_2.jsonl."""
    stem = now.astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    names = (f"{stem}.jsonl" if number == 1 else f"{stem}_{number}.jsonl" for number in count(1))
    return next(folder / name for name in names if not os.path.lexists(folder / name))


def sessions(folder: Path) -> Iterator[tuple[Path, SessionRecord]]:
    """Those in a folder, the one that was written to last first; those left out that can't be read."""
    for _, path in sorted(_dated(folder), reverse=True):
        with suppress(SessionError):
            yield path, read(path)


def _dated(folder: Path) -> list[tuple[int, Path]]:
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                if path.suffix == ".jsonl":
                    found.append((path.stat().st_mtime_ns, path))
    return found


def _make_parents(path: Path) -> None:
    missing = [parent for parent in path.absolute().parents if not os.path.lexists(parent)]
    with as_output_error(path):
        for parent in reversed(missing):
            parent.mkdir(0o700, exist_ok=True)


def _check_free(path: Path, *, is_empty_free: bool = True) -> None:
    """An empty file counts as free where a journal may start in it."""
    if not os.path.lexists(path):
        return
    if os.path.isdir(path):
        raise OutputError(f"{quoted(path)} is a folder. Name a file.")
    is_empty = os.path.isfile(path) and path.stat().st_size == 0
    if not (is_empty and is_empty_free):
        raise OutputError(_taken(path))


def _taken(path: Path) -> str:
    return f"{quoted(path)} is already there. Name another file."
