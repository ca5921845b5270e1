"""The rows of a jobs file (JSON lines, a JSON list, CSV or TSV), each with its location for messages.

Memory is bounded by the longest row; a damaged row ends the reading.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from vllava_cli.errors import UsageError, quoted
from vllava_cli.media.inputs import piped
from vllava_cli.nouns import STDIN
from vllava_cli.storage.files import as_output_error

_NO_SPACE = re.compile(r"[^ \t\r\n]")
MAX_JOB_BYTES = 1 << 20
"""Far below what a row of the output may have: a job's fields come back in one, beside the answer."""
MAX_LIST_BYTES = 64 << 20
"""A list is in memory while it is read; the questions of a benchmark have some MB."""
_BOM = b"\xef\xbb\xbf"


class Location(NamedTuple):
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
    where: Location
    values: dict[str, object]


def rows(file: Path, *, stdin: BinaryIO | None) -> Iterator[JobRow]:
    """Reads the rows as the file's ending says; - is stdin, with an object a line. Errors: UsageError."""
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
        delimiter = next((sign for sign in ("\t", ";") if sign in first), delimiter)
    header: list[str] = []
    for where, cells in _cells(chain((first,), texts), delimiter, file):
        if not header:
            header = _header(cells, where)
        elif len(cells) != len(header):
            raise where.fault(f"it has {len(cells)} cells, the header {len(header)}")
        else:
            yield JobRow(where, dict(zip(header, cells, strict=True)))


def _cells(texts: Iterable[str], delimiter: str, file: str) -> Iterator[tuple[Location, list[str]]]:
    """Yields the cells of each row that has any; a cell in quotes may go over several lines."""
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
        where, length = Location(file, reader.line_num + 1), 0
        try:
            cells = next(reader, None)
        except csv.Error as exc:
            raise where.fault(f"it can't be parted into cells ({exc})") from exc
        if cells is None:
            return
        if cells:
            yield where, cells


def _header(cells: list[str], where: Location) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise where.fault(f"two columns are called {name!r}")
    return names


def objects(source: BinaryIO, file: str) -> Iterator[JobRow]:
    """An object a line; empty lines are left out. Errors: UsageError."""
    for where, text in lines(source, file):
        begin = _skip(text, 0)
        if begin == len(text):
            continue
        values, end = _object(text, begin, where)
        if _skip(text, end) != len(text):
            raise where.fault("there is more than one JSON object in it")
        yield JobRow(where, values)


def listed(source: BinaryIO, file: str) -> Iterator[JobRow]:
    """The objects of one list, parsed one by one, so that a message can say which of them is at fault."""
    data = source.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        most = f"more than {MAX_LIST_BYTES >> 20} MiB, the most that is read of a list"
        remedy = f"Write an object a line, which may be any number: jq -c '.[]' {file} > jobs.jsonl"
        raise UsageError(f"{file} has {most}. {remedy}.")
    text = text_of(data, Location(file, 1))
    begin = _skip(text, 0)
    if text[begin : begin + 1] != "[":
        raise UsageError(f"{file} is no JSON list. If each of its lines is an object, let its name end in .jsonl.")
    at = _skip(text, begin + 1)
    where = Location(file, 1 + text.count("\n", 0, at), 1)
    is_over = text[at : at + 1] == "]"
    while not is_over:
        values, end = _object(text, at, where)
        yield JobRow(where, values)
        stop = _skip(text, end)
        if text[stop : stop + 1] not in (",", "]"):
            raise where.fault("neither a comma nor the end of the list comes after it")
        is_over = text[stop] == "]"
        begin, at = at, stop if is_over else _skip(text, stop + 1)
        where = Location(file, where.line + text.count("\n", begin, at), (where.number or 0) + 1)
    if _skip(text, at + 1) != len(text):
        raise where._replace(number=None).fault("the list is over, but something comes after it")


def _object(text: str, at: int, where: Location) -> tuple[dict[str, object], int]:
    """The JSON object that begins there, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except RecursionError as exc:
        raise where.fault("it is nested too deeply") from exc
    except ValueError as exc:
        raise where.fault(f"it is not JSON ({getattr(exc, 'msg', exc)})") from exc
    if not isinstance(value, dict):
        raise where.fault("it is not a JSON object")
    if end - at > MAX_JOB_BYTES:
        raise where.too_long()
    return value, end


def _skip(text: str, at: int) -> int:
    """Returns the position at which the white space ends."""
    found = _NO_SPACE.search(text, at)
    return found.start() if found else len(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """An infinity could be read, but not be written into a row again."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


def lines(source: BinaryIO, file: str) -> Iterator[tuple[Location, str]]:
    """Each with its line break. Errors: UsageError for one that is too long or not UTF-8."""
    line = 0
    while data := source.readline(MAX_JOB_BYTES + 1):
        line += 1
        where = Location(file, line)
        if len(data) > MAX_JOB_BYTES:
            raise where.too_long()
        yield where, text_of(data, where)


def text_of(data: bytes, begin: Location) -> str:
    """Text that begins in that line; a byte order mark is no part of it. Errors: UsageError."""
    if begin.line == 1:
        data = data.removeprefix(_BOM)
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        where = begin._replace(line=begin.line + data.count(b"\n", 0, exc.start))
        raise where.fault("it is not UTF-8") from exc


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_READERS: dict[str, Callable[[BinaryIO, str], Iterator[JobRow]]] = {
    ".jsonl": objects,
    ".ndjson": objects,
    ".json": listed,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
}
