"""Reads clips and questions from a jobs file: its rows, their fields, and the paths of the clips that they name.

The file is JSON lines, a JSON list, CSV or TSV. Only one row is held in memory, but a JSON list is held whole; both
have a limit. The first damaged row ends the reading.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from vllava_cli.batch.clip_names import ClipNames, FoundClips, shown
from vllava_cli.batch.jobs import ROW_KEYS, JobRequest
from vllava_cli.errors import UsageError, quoted
from vllava_cli.media.inputs import piped
from vllava_cli.nouns import STDIN, Window
from vllava_cli.storage.files import as_output_error
from vllava_cli.storage.jsonl import BYTES, exact, refuse_constant

_QUESTION = "question"
_SPACE = " \t\r\n"
MAX_JOB_BYTES = 1 << 20
"""Far less than a row of the output may have, because a job's fields are copied into it beside the answer."""
MAX_LIST_BYTES = 64 << 20
"""A list is in memory while it is read; the questions of a benchmark have some MB."""


def requests_in(
    file: Path,
    *,
    stdin: BinaryIO | None,
    videos: Sequence[Path],
    questions: tuple[str, ...],
    notice: Callable[[str], object] = lambda _: None,
    on_found: Callable[[FoundClips], object] = lambda _: None,
) -> Iterator[JobRequest]:
    """Yields the requests of each row, in order; a row without a question gets each of `questions`.

    Clips are looked up in `videos`, or else in the folder of the jobs file; a clip that isn't found still gets a path
    in the first folder. `notice` is called with a sentence for each field that can't be copied into the rows, and
    `on_found` in the end with what was found. Errors: UsageError for a file that can't be read and for the first
    damaged row.
    """
    names, reported = _clip_names(file, videos), set[str]()
    for row, key, path in names.named(map(_exact, rows(file, stdin=stdin))):
        asked = _question(row)
        if asked is None and not questions:
            lack = 'its "question" is empty' if _QUESTION in row.values else f'it has {shown(row)}, but no "question"'
            raise row.where.fault(f"{lack}, and none was given with -Q")
        choices = _choices(row)
        window = _window(row)
        fields, gone = _fields(
            row.values, {key, _QUESTION} | ({"choices"} if choices else set()) | ({"start", "end"} if window else set())
        )
        for each in sorted(gone - reported):
            reported.add(each)
            notice(f'vllava: "{each}" in the jobs is left out, because they have "job_{each}" as well.')
        for question in (asked,) if asked is not None else questions:
            yield JobRequest(path=path, question=question, fields=fields, choices=choices, window=window)
    on_found(names.found())


def _choices(row: JobRow) -> tuple[str, ...]:
    """Returns the choices of a row."""
    value = row.values.get("choices")
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _window(row: JobRow) -> Window | None:
    """Returns the part of the clip that a row asks about."""
    start_s, end_s = row.values.get("start"), row.values.get("end")
    if not isinstance(start_s, int | float) or not isinstance(end_s, int | float):
        return None
    return Window(start_s=start_s, end_s=end_s)


def _exact(row: JobRow) -> JobRow:
    """Restores names that aren't UTF-8 if vllava wrote the row: path_bytes beside path holds their bytes."""
    if not any(key.endswith(BYTES) for key in row.values):
        return row
    try:
        return row._replace(values=exact(row.values))
    except RecursionError as exc:
        raise row.where.fault("it is nested too deeply") from exc


def _clip_names(file: Path, videos: Sequence[Path]) -> ClipNames:
    """Returns what finds the clips: in `videos`, or beside the jobs file. Errors: UsageError for what is no folder."""
    for folder in videos:
        if not os.path.isdir(folder):
            raise UsageError(f"{quoted(folder)} is not a folder: give --videos the folder that the clips are in.")
    folders = ["" if folder == Path() else str(folder) for folder in videos or (file.parent,)]
    return ClipNames(*folders, is_deep=bool(videos))


def _check_encodable(text: str, key: str, where: Location) -> None:
    """Raises a UsageError for a lone surrogate; in a name it may stand for a byte that isn't UTF-8."""
    try:
        text.encode() if key == _QUESTION else os.fsencode(text)
    except UnicodeEncodeError as exc:
        raise where.fault(f'"{key}" has half of a character (a lone surrogate)') from exc


def _question(row: JobRow) -> str | None:
    """Returns the question of a row; None if it is missing or empty. Errors: UsageError."""
    value = row.values.get(_QUESTION)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise row.where.fault('"question" is not text')
    _check_encodable(value, _QUESTION, row.where)
    return value


def _fields(values: Mapping[str, object], used: set[str]) -> tuple[dict[str, object], set[str]]:
    """Returns the fields to copy into the row of the result, without the `used` ones, and the keys of those left out.

    The keys of a result's own fields are renamed: "answer" → "job_answer". If there is a "job_answer" already, "answer"
    is left out.
    """
    fields, gone = {}, set()
    for key, value in values.items():
        name = f"job_{key}" if key in ROW_KEYS else key
        if key in used:
            continue
        if name != key and name in values:
            gone.add(key)
        else:
            # Interned, because a million rows have the same few names.
            fields[sys.intern(name)] = value
    return fields, gone


class Location(NamedTuple):
    """A place in a jobs file, for messages: "'a.jsonl', line 3", or "'a.json', row 3" in a JSON list."""

    file: str
    number: int
    """From 1; 0 where it is unknown in which line of the file a fault is."""
    unit: Literal["line", "row"] = "line"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}" if self.number else self.file

    def fault(self, what: str) -> UsageError:
        return UsageError(f"{self}: {what}. Correct it in an editor, or leave it out.")

    def too_long(self) -> UsageError:
        return self.fault(f"it is longer than {MAX_JOB_BYTES >> 20} MiB")


class JobRow(NamedTuple):
    where: Location
    values: dict[str, object]


def rows(file: Path, *, stdin: BinaryIO | None) -> Iterator[JobRow]:
    """Reads a file in the format that its extension names, and yields its rows. Errors: UsageError.

    The file - is stdin, read as JSON lines.
    """
    if file == Path(STDIN):
        source = piped(stdin, "jq -c … | vllava batch --jobs -, or name a file")
        with as_output_error("stdin", "read", error=UsageError):
            yield from objects(source, "stdin")
        return
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise UsageError(f"{quoted(file)} is not a jobs file: give one that ends in {', '.join(_READERS)}.")
    name = quoted(file)
    with as_output_error(name, "read", error=UsageError), file.open("rb") as source:
        yield from read(source, name)


def _table(source: BinaryIO, file: str, *, delimiter: str) -> Iterator[JobRow]:
    """Yields the rows of a CSV or TSV file, whose first row names the fields; all values are text."""
    texts = (text for _, text in lines(source, file))
    first = next(texts, "")
    # TGIF-QA's own .csv files have tabs; spreadsheets write semicolons where a comma is the decimal point.
    if "," not in first:
        delimiter = next((sign for sign in ("\t", ";") if sign in first), delimiter)
    header: list[str] = []
    for where, cells in _cells(chain((first,), texts), delimiter, file):
        if not header:
            header = [cell.strip() for cell in cells]
            if twice := [name for name in header if header.count(name) > 1]:
                raise where.fault(f"two columns are called {twice[0]!r}")
        elif len(cells) != len(header):
            raise where.fault(f"it has {len(cells)} cells, the header {len(header)}")
        else:
            yield JobRow(where, dict(zip(header, cells, strict=True)))


def _cells(texts: Iterable[str], delimiter: str, file: str) -> Iterator[tuple[Location, list[str]]]:
    """Yields the location and the cells of each row that isn't empty; a cell in quotes may span several lines."""
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
            raise where.fault(f"it can't be split into cells ({exc})") from exc
        if cells is None:
            return
        if cells:
            yield where, cells


def objects(source: BinaryIO, file: str) -> Iterator[JobRow]:
    """Yields a row for the JSON object in each line; empty lines are skipped. Errors: UsageError."""
    for where, text in lines(source, file):
        if text.strip(_SPACE):
            yield _row(_parsed(text, where), where)


def listed(source: BinaryIO, file: str) -> Iterator[JobRow]:
    """Yields a row for each object of a JSON list. Errors: UsageError."""
    data = source.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        most = f"more than {MAX_LIST_BYTES >> 20} MiB, the most that is read of a list"
        remedy = f"Write one object a line, as many as you like: jq -c '.[]' {file} > jobs.jsonl"
        raise UsageError(f"{file} has {most}. {remedy}.")
    text = text_of(data, Location(file, 1))
    if not text.strip(_SPACE).startswith("["):
        raise UsageError(f"{file} is not a JSON list. If each of its lines is an object, rename it to end in .jsonl.")
    for number, values in enumerate(_parsed(text, Location(file, 0)), 1):
        yield _row(values, Location(file, number, "row"))


def _parsed(text: str, begin: Location) -> Any:
    """Parses a JSON text that begins at `begin`. Errors: UsageError, with the line of the fault if it is known."""
    try:
        return _DECODER.decode(text.rstrip(_SPACE))
    except RecursionError as exc:
        raise begin.fault("it is nested too deeply") from exc
    except json.JSONDecodeError as exc:
        where = begin._replace(number=max(begin.number, 1) + exc.lineno - 1)
        raise where.fault(f"it is not JSON ({exc.msg})") from exc
    except ValueError as exc:
        raise begin.fault(f"it is not JSON ({exc})") from exc


def _row(values: Any, where: Location) -> JobRow:
    if not isinstance(values, dict):
        raise where.fault("it is not a JSON object")
    if where.unit == "row" and len(json.dumps(values)) > MAX_JOB_BYTES:
        raise where.too_long()
    return JobRow(where, values)


def _finite(text: str) -> float:
    """Parses a number. Errors: ValueError for an infinity, which can't be written into a row."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


def lines(source: BinaryIO, file: str) -> Iterator[tuple[Location, str]]:
    """Yields each line with its location and line break. Errors: UsageError for one that is too long or isn't UTF-8."""
    line = 0
    while data := source.readline(MAX_JOB_BYTES + 1):
        line += 1
        where = Location(file, line)
        if len(data) > MAX_JOB_BYTES:
            raise where.too_long()
        yield where, text_of(data, where)


def text_of(data: bytes, begin: Location) -> str:
    """Decodes UTF-8 that begins at `begin`; a byte order mark is dropped. Errors: UsageError."""
    try:
        return data.decode("utf-8-sig" if begin.number == 1 else "utf-8")
    except UnicodeDecodeError as exc:
        where = begin._replace(number=begin.number + exc.object.count(b"\n", 0, exc.start))
        raise where.fault("it is not UTF-8") from exc


_DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_float=_finite)
_READERS: dict[str, Callable[[BinaryIO, str], Iterator[JobRow]]] = {
    ".jsonl": objects,
    ".ndjson": objects,
    ".json": listed,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
}
