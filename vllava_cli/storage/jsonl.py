r"""Rows in files, one JSON object in each line: written, read and checked in bounded memory; a journal appends them.

A line is ASCII, and its texts are valid Unicode. A file's name may not be valid: then its text is written in a readable
form, and its bytes are written in base64 in a field beside it:
{"path": "caf\udce9.mp4"} → {"path": "caf\\xe9.mp4", "path_bytes": "Y2Fm6S5tcDQ="}
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Self

from vllava_cli.errors import OutputError, quoted
from vllava_cli.storage.files import Part, as_output_error, locked, opened, release, sync_folder, write_all

MAX_ROW_BYTES = 16 << 20
BYTES = "_bytes"


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file that another process may be writing to; a torn last one is left out.

    Errors: OutputError where the file can't be read or a row before the last one is damaged.
    """
    with as_output_error(path, "read"), os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        yield from rows_in(file, path)


def rows_in(file: BinaryIO, path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of an open file, which messages call `path`. Errors: those of `read_rows`, and OSError."""
    number = 0
    line = file.readline(MAX_ROW_BYTES + 1)
    while line:
        number += 1
        row = row_of(line)
        following = file.readline(MAX_ROW_BYTES + 1)
        if row is not None:
            yield row
        elif number == 1 and (following or not _is_beginning(line)):
            refuse_foreign(path)
        elif following:
            refuse_damaged(path, f"line {number} is damaged")
        line = following


def row_of(line: bytes) -> dict[str, Any] | None:
    """Reads the object in a line; None if the line is anything else or cut short. Its line break may be missing."""
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
    """Formats a row as a line. Errors: ValueError for a NaN or an infinity, and for a row that is too long."""
    line = json_of(row).encode("ascii") + b"\n"
    if len(line) > MAX_ROW_BYTES:
        raise ValueError(f"a row of {len(line):,} bytes is longer than {MAX_ROW_BYTES:,}")
    return line


def json_of(row: Mapping[str, Any], *, default: Callable[[Any], object] | None = None) -> str:
    """Formats a row as ASCII that any reader of JSON accepts. Errors: ValueError for a NaN or an infinity."""
    text = json.dumps(dict(row), allow_nan=False, default=default)
    return json.dumps(portable(json.loads(text))) if "\\ud" in text else text


def refuse_foreign(path: Path) -> NoReturn:
    raise OutputError(f"{quoted(path)} was not written by vllava. Name another file.")


def refuse_damaged(path: Path, what: str) -> NoReturn:
    raise OutputError(f"{quoted(path)} can't be used: {what}. Correct it in an editor, or name another file.")


def is_portable(text: str) -> bool:
    """True if the text has no lone surrogates; in a file's name they stand for bytes that aren't UTF-8."""
    return text.isascii() or readable(text) == text


def readable(text: str) -> str:
    r"""Shows bytes that aren't UTF-8 as \xe9, other surrogates as \ud800."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def portable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the texts of a row valid and adds the bytes of those that weren't; `exact` undoes this."""
    found = {readable(key): _mapped(value, readable, portable) for key, value in row.items()}
    for key, value in row.items():
        if data := _bytes_of(value):
            found.setdefault(readable(key) + BYTES, data)
    return found


def exact(row: Mapping[str, Any]) -> dict[str, Any]:
    """Restores the row that `portable` was given. If a text was edited and its bytes no longer fit, both stay.

    Errors: RecursionError for a row that is nested too deeply.
    """
    found = {key: _mapped(value, str, exact) for key, value in row.items()}
    for key, value in row.items():
        name = key.removesuffix(BYTES)
        if name == key or name not in row:
            continue
        text = _decoded(value, row[name])
        if _bytes_of(text) == value and _mapped(text, readable, portable) == row[name]:
            found[name] = text
            del found[key]
    return found


def _mapped(value: Any, text: Callable[[str], str], row: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """Applies `text` to each text in a value, and `row` to each object."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return row(value)
    return [_mapped(item, text, row) for item in value] if isinstance(value, list | tuple) else value


def _bytes_of(value: Any) -> Any:
    """Encodes the bytes of an invalid text in base64; in a list each text.

    Returns None for valid text, and for text with a surrogate that stands for no byte.
    """
    if isinstance(value, list | tuple):
        codes = [_bytes_of(item) if isinstance(item, str) else None for item in value]
        return codes if any(codes) else None
    if not isinstance(value, str) or is_portable(value):
        return None
    try:
        return base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
    except UnicodeEncodeError:
        return None


def _decoded(code: Any, shown: Any) -> Any:
    """Decodes the bytes that `_bytes_of` encoded; returns the text as shown if `code` is missing or isn't base64."""
    if isinstance(code, list) and isinstance(shown, list):
        return [_decoded(*pair) for pair in zip(code, shown, strict=False)]
    try:
        return base64.b64decode(code, validate=True).decode("utf-8", "surrogateescape")
    except (TypeError, ValueError):
        return shown


def refuse_constant(name: str) -> NoReturn:
    """Raises a ValueError for NaN and the infinities, which Python would read."""
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=refuse_constant)
"""One decoder for all rows: json.loads would make one for each, a quarter of the time of reading a row."""


class Journal:
    """An append-only file of rows that one thread of one process writes and any may read. It is locked until `close`.

    When `append` returns, the row is on the disk: it survives SIGKILL and, if the disk keeps its word, a power loss. A
    row that one of these cut short is removed when the file is opened again; a row that a full disk cut short is
    removed at once. Whole rows change only in `rewrite`, and a file that isn't a journal never changes. If the process
    dies, forked processes keep the lock.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._end = 0
        """The size of the file before the last write, to which a torn write is cut back."""
        self._is_torn = False

    @classmethod
    def open(cls, path: Path, *, is_private: bool = False) -> Self:
        """Opens or creates the file, locks it, and cuts off a torn last row; a new private file has mode 0600.

        Errors: LockedError; OutputError if the file is no journal or can't be written.
        """
        journal = cls(path, locked(path, 0o600 if is_private else 0o666))
        try:
            with as_output_error(path):
                _repair(journal._descriptor, path)
        except BaseException:
            journal.close()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_empty(self) -> bool:
        return os.fstat(self._descriptor).st_size == 0

    def append(self, row: Mapping[str, object]) -> None:
        """Adds one row, all of it or nothing. Errors: OutputError; ValueError for a NaN or an infinity."""
        self.extend((row,))

    def extend(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Adds rows with one write: all or none, but a crash may leave the first few. Errors: those of `append`."""
        data = b"".join(map(line_of, rows))
        with as_output_error(self.path):
            self._cut()
            self._end = os.fstat(self._descriptor).st_size
            self._is_torn = True
            try:
                write_all(self._descriptor, data)
                os.fsync(self._descriptor)
                self._is_torn = False
            except BaseException:
                with suppress(OSError):
                    self._cut()
                raise

    def rewrite(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Replaces all rows by these, which may come from `Journal.rows`, in one step; the journal stays locked.

        Errors: those of `append`; the old rows stay then.
        """
        with as_output_error(self.path):
            self._cut()
        part = Part(self.path)
        try:
            part.fill(map(line_of, rows))
            if sys.platform == "win32":  # where an open file can't be replaced
                self.close()
            part.put()
        finally:
            if (descriptor := part.taken()) is not None:
                self.close()
                self._descriptor = descriptor

    def rows(self) -> Iterator[dict[str, Any]]:
        return read_rows(self.path)

    def close(self) -> None:
        """Closes the file and releases the lock; may be called twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            release(descriptor)

    def _cut(self) -> None:
        """Cuts off what a failed write left. The next write cuts again, as the cut may have failed as well."""
        if self._is_torn:
            os.ftruncate(self._descriptor, self._end)
            self._is_torn = False


def _repair(descriptor: int, path: Path) -> None:
    """Cuts off a torn last row, or adds the line break that a whole one lacks. Errors: OutputError, OSError."""
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            sync_folder(path)
            return
        file.seek(0)
        next(rows_in(file, path), None)  # refuses a file that doesn't begin with a row
        start, last = _last_line(file, size, path)
        if row_of(last) is None:
            if start and row_of(_last_line(file, start, path)[1]) is None:
                refuse_damaged(path, "its last rows are damaged")
            os.ftruncate(descriptor, start)
        elif not last.endswith(b"\n"):
            write_all(descriptor, b"\n")
        else:
            return
        os.fsync(descriptor)


def _is_beginning(line: bytes) -> bool:
    """True if the line may be a first row of which a crash left only the beginning."""
    return not line.endswith(b"\n") and line.isascii() and (line == b"{" or line.startswith(b'{"'))


def _last_line(file: BinaryIO, end: int, path: Path) -> tuple[int, bytes]:
    """Returns the start of the line that ends before the offset `end`, and the line. It may lack its line break."""
    lower = max(0, end - MAX_ROW_BYTES - 1)
    file.seek(lower)
    tail = file.read(end - lower)
    begin = tail.rfind(b"\n", 0, -1) + 1
    if len(tail) - begin > MAX_ROW_BYTES:
        refuse_foreign(path)
    return lower + begin, tail[begin:]
