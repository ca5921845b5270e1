"""Rows in files, one JSON object a line: how one is written, read and distrusted, in bounded memory.

Only regular files are opened, and every failure of the system is told in one sentence that names the file.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from vllava_cli.errors import OutputError
from vllava_cli.storage.portable import exact, json_of

MAX_ROW_BYTES = 16 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Not blocking: a named pipe that came in between would wait for its other end."""


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that another process may be writing to, one at a time; a torn last one is left out.

    Errors: OutputError where the file can't be read or a row before the last one is damaged.
    """
    with told(path, "read"), os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        yield from rows_in(file, path)


def row_of(line: bytes) -> dict[str, Any] | None:
    """The object that a line says, None for anything else; no part of an object is one, so the line break may lack."""
    if len(line) > MAX_ROW_BYTES:
        return None
    try:
        row = _DECODER.decode(line.decode())
        if not isinstance(row, dict):
            return None
        return exact(row) if b'_bytes"' in line else row
    except (ValueError, RecursionError):
        return None


def line_of(row: Mapping[str, object]) -> bytes:
    """In ASCII; a name that isn't UTF-8 comes back as it was. Errors: ValueError for a NaN or an infinity."""
    line = json_of(row).encode("ascii") + b"\n"
    if len(line) > MAX_ROW_BYTES:
        raise ValueError(f"a row of {len(line):,} bytes is longer than {MAX_ROW_BYTES:,}")
    return line


def opened(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of a regular file. Errors: OutputError for anything else, OSError."""
    check_regular(path)
    descriptor = os.open(path, flags | _FLAGS, mode)
    try:
        _check_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(path: Path) -> None:
    """Raises an OutputError for what is there and no regular file."""
    with suppress(FileNotFoundError):
        _check_regular(path.stat(), path)


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Errors: OSError, also where only a part found room."""
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, f"only {written:,} of {len(data):,} bytes found room")


def sync_folder(path: Path) -> None:
    """Keeps a new file's name over a power loss, where folders can be synced."""
    with suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def told(path: Path, verb: str = "written") -> Iterator[None]:
    """Errors of the system become an OutputError."""
    try:
        yield
    except (OSError, ValueError) as exc:
        remedy = "Free some room" if getattr(exc, "errno", None) in _NO_ROOM else "Check the path"
        raise OutputError(f"{shown(path)} can't be {verb}: {reason_of(exc)}. {remedy}, or name another file.") from exc


def shown(path: Path) -> str:
    """The name in quotes, fit for a message; as in media/clip.py, which is too heavy to import here."""
    return f"'{os.fsencode(path).decode(errors='replace')}'"


def reason_of(exc: OSError | ValueError) -> str:
    """For the middle of a sentence: "file too large"."""
    return (getattr(exc, "strerror", None) or str(exc)).lower()


def refuse_foreign(path: Path) -> NoReturn:
    raise OutputError(f"{shown(path)} was not written by vllava. Name another file.")


def refuse_damaged(path: Path, what: str) -> NoReturn:
    raise OutputError(f"{shown(path)} can't be used: {what}. Mend it in an editor, or name another file.")


def rows_in(file: BinaryIO, path: Path) -> Iterator[dict[str, Any]]:
    """As `read_rows`, of a file that is open; `path` is what messages call it. Errors: OutputError, OSError."""
    number = 0
    line = file.readline(MAX_ROW_BYTES + 1)
    while line:
        number += 1
        row = row_of(line)
        following = file.readline(MAX_ROW_BYTES + 1)
        if row is not None:
            yield row
        elif following:
            if number == 1:
                refuse_foreign(path)
            refuse_damaged(path, f"line {number} is damaged")
        line = following


def _check_regular(facts: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise OutputError(f"{shown(path)} is a folder. Name a file.")
    if not stat.S_ISREG(facts.st_mode):
        raise OutputError(f"{shown(path)} is not a regular file. Name another one.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""json.loads would make a new one for each row: a quarter of the time that reading a row takes."""
