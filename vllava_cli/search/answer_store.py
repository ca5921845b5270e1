"""Answers and windows that are kept in a database on this disk, so that the same search costs nothing again.

The key of an entry is a hash of all that its value follows from, so an entry can never be stale. The database is a
convenience: if it can't be read or written, that is said once, and the search goes on without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vllava_cli.errors import OutputError, UsageError, VllavaError, quoted, reason_of
from vllava_cli.storage.files import make_private, private_fault, size_bytes

SETTING = "VLLAVA_ANSWER_CACHE"
USUAL_BYTES = 256 << 20
"""About a million answers."""
NAME = "answers.sqlite"
PATIENCE_S = 20.0
"""How long a search waits for another one that is writing."""
PAUSE_S = 1.0
"""How long an answer waits at most until it is written with others: one write to a disk takes milliseconds."""
LAYOUT = 1
"""The layout of keys and values; increase it when the same key begins to stand for another value."""
T = TypeVar("T")


class AnswerStore:
    """Values by their keys. With the path None nothing is kept.

    The database keeps SQLite's rollback journal: its other one, the write-ahead log, needs memory that all processes
    share, which a network drive hasn't. A killed process leaves it as it was before its last write.
    """

    def __init__(
        self, path: Path | None, *, most_bytes: int = USUAL_BYTES, notice: Callable[[str], object] = str
    ) -> None:
        self.path, self._most_bytes, self._notice = path, most_bytes, notice
        self._database: sqlite3.Connection | None = None
        self._waiting: dict[bytes, str] = {}
        self._written_s = time.monotonic()
        if path and most_bytes:
            self._database = self._tried(self._opened, path)

    @property
    def is_open(self) -> bool:
        return self._database is not None

    def find(self, key: bytes) -> Any:
        """Returns the value of a key; None if there is none."""
        if not self._database:
            return None
        row = self._tried(self._read, self._database, key)
        try:
            return json.loads(row[0]) if row else None
        except (ValueError, TypeError, RecursionError):
            return None

    def put(self, key: bytes, value: Any) -> None:
        """Keeps a value. It is written at once, or with the next ones if the last write was less than a second ago."""
        if not self._database:
            return
        self._waiting[key] = json.dumps(value)
        if time.monotonic() - self._written_s >= PAUSE_S:
            self.flush()

    def flush(self) -> None:
        if self._database and self._waiting:
            waiting, self._waiting = self._waiting, {}
            self._tried(self._write, self._database, waiting)
            self._written_s = time.monotonic()

    def close(self) -> None:
        self.flush()
        if self._database:
            self._database.close()
            self._database = None

    def _tried(self, act: Callable[..., T], *values: Any) -> T | None:
        """Does something with the database; if that fails, says so once and goes on without a database."""
        try:
            return act(*values)
        except (sqlite3.Error, OSError, VllavaError) as exc:
            if self._database:
                self._database.close()
            self._database = None
            name = quoted(self.path) if self.path else ""
            self._notice(
                f"vllava: answers aren't kept, as {name} can't be used: {reason_of(exc)}. Remove that file, or add "
                "--no-answer-cache."
            )
            return None

    def _opened(self, path: Path) -> sqlite3.Connection:
        make_private(path.parent)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))
        if fault := private_fault(path):
            raise OutputError(f"{fault}")
        database = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
        try:
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute("CREATE TABLE IF NOT EXISTS kept (key BLOB PRIMARY KEY, value TEXT NOT NULL)")
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _read(self, database: sqlite3.Connection, key: bytes) -> Any:
        return database.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()

    def _write(self, database: sqlite3.Connection, values: dict[bytes, str]) -> None:
        """Writes values in one step. It takes the lock at once, so that two writers never wait for each other."""
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany("INSERT OR REPLACE INTO kept (key, value) VALUES (?, ?)", values.items())
            self._prune(database)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        database.executescript("PRAGMA incremental_vacuum")  # `execute` gives one page back, not all

    def _prune(self, database: sqlite3.Connection) -> None:
        """Removes a quarter of the entries, the oldest, as often as they take too much."""

        def figure(name: str) -> int:
            return int(database.execute(f"PRAGMA {name}").fetchone()[0])

        while (figure("page_count") - figure("freelist_count")) * figure("page_size") > self._most_bytes:
            (count,) = database.execute("SELECT count(*) FROM kept").fetchone()
            if not count:
                return
            oldest = "SELECT rowid FROM kept ORDER BY rowid LIMIT ?"
            database.execute(f"DELETE FROM kept WHERE rowid IN ({oldest})", (count // 4 + 1,))


def store_path() -> Path:
    """Returns the path of the database, in the folder beside the one of the weight cache."""
    from vllava_cli.engine.weight_cache import cache_folder

    return cache_folder().with_name("answers") / NAME


def limit_of_store() -> int:
    """Returns how many bytes of answers may be kept, by VLLAVA_ANSWER_CACHE; 0 for none. Errors: UsageError."""
    wish = os.environ.get(SETTING)
    try:
        return size_bytes(wish, least=0) if wish else USUAL_BYTES
    except UsageError as exc:
        raise UsageError(f"{SETTING}: {exc}") from exc


def key_of(*parts: object) -> bytes:
    """Returns the key of an entry: a hash of all that its value follows from, which must be plain JSON values."""
    return hashlib.sha256(json.dumps([LAYOUT, *parts], sort_keys=True).encode()).digest()
