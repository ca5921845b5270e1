"""The lines of a jobs file as text, in bounded memory, each with its place for messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from vllava_cli.errors import UsageError

MAX_JOB_BYTES = 1 << 20
"""Far below what a row of the output may have: a job's fields come back in one, beside the answer."""
_BOM = b"\xef\xbb\xbf"


class Where(NamedTuple):
    """Written "'jobs.json', line 1 (row 3)"."""

    file: str
    line: int
    number: int | None = None
    """Only where a line may have several rows."""

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}" + (f" (row {self.number})" if self.number else "")

    def fault(self, what: str) -> UsageError:
        return UsageError(f"{self}: {what}. Mend it in an editor, or leave it out.")

    def too_long(self) -> UsageError:
        return self.fault(f"it is longer than {MAX_JOB_BYTES >> 20} MiB")


class JobRow(NamedTuple):
    where: Where
    values: dict[str, object]


def lines(source: BinaryIO, file: str) -> Iterator[tuple[Where, str]]:
    """Each with its line break. Errors: UsageError for one that is too long or not UTF-8."""
    line = 0
    while data := source.readline(MAX_JOB_BYTES + 1):
        line += 1
        where = Where(file, line)
        if len(data) > MAX_JOB_BYTES:
            raise where.too_long()
        yield where, text_of(data, where)


def text_of(data: bytes, begin: Where) -> str:
    """Text that begins in that line; a byte order mark is no part of it. Errors: UsageError."""
    if begin.line == 1:
        data = data.removeprefix(_BOM)
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        where = begin._replace(line=begin.line + data.count(b"\n", 0, exc.start))
        raise where.fault("it is not UTF-8") from exc
