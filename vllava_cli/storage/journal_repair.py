"""What a crash left at the end of a file of rows is cut off; whole rows and files of another kind are not touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from vllava_cli.storage.jsonl import (
    MAX_ROW_BYTES,
    opened,
    refuse_damaged,
    refuse_foreign,
    row_of,
    sync_folder,
    told,
    write_all,
)

_CHUNK_BYTES = 1 << 16


def mend(descriptor: int, path: Path) -> None:
    """Cuts off a torn last row, or ends a whole one that lacks its line break. Errors: OutputError, OSError."""
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            sync_folder(path)
            return
        _check_first(file, path)
        start = _start_of_line(file, size)
        last = _line_at(file, start, size, path)
        if row_of(last) is None:
            if start and row_of(_line_at(file, _start_of_line(file, start), start, path)) is None:
                refuse_damaged(path, "its last rows are damaged")
            os.ftruncate(descriptor, start)
        elif not last.endswith(b"\n"):
            write_all(descriptor, b"\n")
        else:
            return
        os.fsync(descriptor)


def check_start(path: Path) -> None:
    """Raises an OutputError for a file that can't be read, or that has something, but doesn't start with a row."""
    with told(path, "read"), os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        if file.seek(0, os.SEEK_END):
            _check_first(file, path)


def _check_first(file: BinaryIO, path: Path) -> None:
    """Raises an OutputError unless the file starts with a row, or with what may have become one."""
    file.seek(0)
    line = file.readline(MAX_ROW_BYTES)
    is_torn_row = not line.endswith(b"\n") and line.isascii()
    if row_of(line) is None and not (is_torn_row and (line == b"{" or line.startswith(b'{"'))):
        refuse_foreign(path)


def _start_of_line(file: BinaryIO, end: int) -> int:
    """Where the line starts whose last byte, a line break or not, is the one before `end`."""
    upper = end - 1
    while upper > 0:
        lower = max(0, upper - _CHUNK_BYTES)
        file.seek(lower)
        place = file.read(upper - lower).rfind(b"\n")
        if place >= 0:
            return lower + place + 1
        upper = lower
    return 0


def _line_at(file: BinaryIO, start: int, end: int, path: Path) -> bytes:
    if end - start > MAX_ROW_BYTES:
        refuse_foreign(path)
    file.seek(start)
    return file.read(end - start)
