"""The rows of a jobs file, whatever its form, each with its place; a damaged one ends the reading."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from vllava_cli.batch.job_json import listed, objects
from vllava_cli.batch.job_lines import MAX_JOB_BYTES, JobRow, Where, lines
from vllava_cli.errors import UsageError, quoted
from vllava_cli.media.inputs import piped
from vllava_cli.nouns import STDIN
from vllava_cli.storage.files import as_output_error


def rows(file: Path, *, stdin: BinaryIO | None) -> Iterator[JobRow]:
    """By the file's ending; - is stdin, an object a line. Errors: UsageError."""
    if file == Path(STDIN):
        source = piped(stdin, "jq -c … | vllava batch --jobs -, or name a file")
        with as_output_error("stdin", "read", error=UsageError):
            yield from objects(source, "stdin")
        return
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise UsageError(f"{quoted(file)} has no ending of a jobs file: name one with {', '.join(_READERS)}.")
    name = quoted(file)
    with as_output_error(name, "read", error=UsageError), file.open("rb") as source:
        yield from read(source, name)


def _table(source: BinaryIO, file: str, *, delimiter: str) -> Iterator[JobRow]:
    """The first row names the fields; all values are text."""
    texts = (text for _, text in lines(source, file))
    first = next(texts, "")
    # TGIF-QA's own files end in .csv, and have tabs; where a comma is the decimal point, spreadsheets write semicolons.
    if "," not in first:
        delimiter = next((mark for mark in ("\t", ";") if mark in first), delimiter)
    header: list[str] = []
    for where, cells in _cells(chain((first,), texts), delimiter, file):
        if not header:
            header = _header(cells, where)
        elif len(cells) != len(header):
            raise where.fault(f"it has {len(cells)} cells, the header {len(header)}")
        else:
            yield JobRow(where, dict(zip(header, cells, strict=True)))


def _cells(texts: Iterable[str], delimiter: str, file: str) -> Iterator[tuple[Where, list[str]]]:
    """Of each row that has any; a cell in quotes may go over several lines."""
    length = 0

    def counted() -> Iterator[str]:
        nonlocal length
        for text in texts:
            length += len(text)
            if length > MAX_JOB_BYTES:
                raise where.too_long()
            yield text

    reader = csv.reader(counted(), delimiter=delimiter, strict=True)
    while True:
        where, length = Where(file, reader.line_num + 1), 0
        try:
            cells = next(reader, None)
        except csv.Error as exc:
            raise where.fault(f"it can't be parted into cells ({exc})") from exc
        if cells is None:
            return
        if cells:
            yield where, cells


def _header(cells: list[str], where: Where) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise where.fault(f"two columns are called {name!r}")
    return names


_READERS: dict[str, Callable[[BinaryIO, str], Iterator[JobRow]]] = {
    ".jsonl": objects,
    ".ndjson": objects,
    ".json": listed,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
}
