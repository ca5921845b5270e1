"""Reads the rows of a jobs file: JSON lines, a JSON document, CSV, TSV or Parquet.

Only one row, or one batch of a Parquet file, is held in memory; a JSON document is held whole. All have a limit. The
first damaged row ends the reading.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from vllava_cli.batch.job_shapes import entries, with_one_question
from vllava_cli.errors import UsageError, quoted
from vllava_cli.media.inputs import piped
from vllava_cli.nouns import STDIN
from vllava_cli.storage.files import as_output_error
from vllava_cli.storage.jsonl import refuse_constant

if TYPE_CHECKING:
    import pyarrow as pa

Notice = Callable[[str], object]
MAX_JOB_BYTES = 1 << 20
"""Far less than a row of the output may have, because a job's fields are copied into it beside the answer."""
MAX_LIST_BYTES = 64 << 20
"""A JSON document is in memory while it is read; the questions of a benchmark have some MB."""
_SPACE = " \t\r\n"
_PARQUET_ROWS = 512
"""So many rows of a Parquet file are decoded at once."""
_LONGEST_KEY = 60


class Location(NamedTuple):
    """A place in a jobs file, for messages: "'a.jsonl', line 3", or "'a.json', row 3" in a JSON list."""

    file: str
    number: int
    """From 1; 0 where it is unknown in which line of the file a fault is."""
    unit: Literal["line", "row"] = "line"
    key: str = ""
    """The name under which a JSON object has the row; "" where it has none."""
    question: int = 0
    """The number of the question in a row that has several, from 1."""

    def __str__(self) -> str:
        name = f" ({self.key[:_LONGEST_KEY]!r})" if self.key else ""
        question = f", question {self.question}" if self.question else ""
        return f"{self.file}, {self.unit} {self.number}{name}{question}" if self.number else self.file

    def fault(self, what: str) -> UsageError:
        return UsageError(f"{self}: {what}. Correct it in an editor, or leave it out.")

    def too_long(self) -> UsageError:
        return self.fault(f"it is longer than {MAX_JOB_BYTES >> 20} MiB")

    def check_text(self, text: str, key: str, encode: Callable[[str], bytes] = str.encode) -> None:
        """Raises a UsageError for a lone surrogate; in a name it may stand for a byte that isn't UTF-8."""
        try:
            encode(text)
        except UnicodeEncodeError as exc:
            raise self.fault(f'"{key}" has half of a character (a lone surrogate)') from exc


class JobRow(NamedTuple):
    where: Location
    values: dict[str, object]


def rows(file: Path, *, stdin: BinaryIO | None, notice: Notice = str) -> Iterator[JobRow]:
    """Reads a file in the format that its extension names, and yields its rows. Errors: UsageError.

    The file - is stdin, read as JSON lines. `notice` gets a sentence for the columns of a Parquet file that are left
    out.
    """
    if file == Path(STDIN):
        source = piped(stdin, "jq -c … | vllava batch --jobs -, or name a file")
        with as_output_error("stdin", "read", error=UsageError):
            yield from _asked(objects(source, "stdin"))
        return
    name, ending = quoted(file), file.suffix.lower()
    read = partial(_parquet, notice=notice) if ending == ".parquet" else _READERS.get(ending)
    if read is None:
        raise UsageError(f"{name} is not a jobs file: give one that ends in {', '.join(ENDINGS)}.")
    with as_output_error(name, "read", error=UsageError), file.open("rb") as source:
        yield from _asked(read(source, name))


def _asked(found: Iterable[JobRow]) -> Iterator[JobRow]:
    """Yields rows that have one question each. Errors: UsageError for one that is too long."""
    for row in found:
        for number, values in enumerate(with_one_question(row.values), 1):
            one = row if values is row.values else JobRow(row.where._replace(question=number), values)
            if one.where.unit == "row" and len(json.dumps(values)) > MAX_JOB_BYTES:
                raise one.where.too_long()
            yield one


def _table(source: BinaryIO, file: str, *, delimiter: str) -> Iterator[JobRow]:
    """Yields the rows of a CSV or TSV file, whose first row names the fields; all values are text."""
    texts = (text for _, text in lines(source, file))
    first = next(texts, "")
    # TGIF-QA's own .csv files have tabs; spreadsheets write semicolons where a comma is the decimal point.
    unquoted = re.sub('"[^"]*"', "", first)
    delimiter = next((sign for sign in (delimiter, "\t", ";", ",") if sign in unquoted), delimiter)
    header: list[str] = []
    for where, cells in _cells(chain((first,), texts), delimiter, file, has_spaces=f'{delimiter} "' in first):
        if not header:
            header = [cell.strip() for cell in cells]
            if twice := next((name for name, count in Counter(header).items() if count > 1), None):
                raise where.fault(f"two columns are called {twice!r}")
        elif len(cells) != len(header):
            raise where.fault(f"it has {len(cells)} cells, the header {len(header)}")
        else:
            yield JobRow(where, dict(zip(header, cells, strict=True)))


def _cells(
    texts: Iterable[str], delimiter: str, file: str, *, has_spaces: bool
) -> Iterator[tuple[Location, list[str]]]:
    """Yields the location and the cells of each row that isn't empty; a cell in quotes may span several lines.

    With `has_spaces` a space may stand before a cell; it isn't part of the cell.
    """
    length = 0

    def counted() -> Iterator[str]:
        nonlocal length
        for text in texts:
            length += len(text)
            if length > MAX_JOB_BYTES:
                raise where.too_long()
            yield text

    csv.field_size_limit(MAX_JOB_BYTES)
    reader = csv.reader(counted(), delimiter=delimiter, strict=True, skipinitialspace=has_spaces)
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


def document(source: BinaryIO, file: str) -> Iterator[JobRow]:
    """Yields a row for each object in a JSON document, in whichever of its shapes they are. Errors: UsageError."""
    data = source.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        most = f"more than {MAX_LIST_BYTES >> 20} MiB, the most that is read of a JSON document"
        remedy = f"Write one object a line, as many as you like: jq -c '.[]' {file} > jobs.jsonl"
        raise UsageError(f"{file} has {most}. {remedy}.")
    text = text_of(data, Location(file, 1))
    is_list = text.strip(_SPACE).startswith("[")
    if not is_list and not text.strip(_SPACE).startswith("{"):
        raise _no_document(file)
    try:
        found = _parsed(text, Location(file, 0))
    except UsageError as exc:
        if not is_list and isinstance(exc.__cause__, json.JSONDecodeError) and exc.__cause__.msg == "Extra data":
            raise _no_document(file) from exc
        raise
    try:
        for number, (key, values) in enumerate(entries(found), 1):
            yield _row(values, Location(file, number, "row", key))
    except ValueError as exc:
        raise Location(file, 0).fault(str(exc)) from exc


def _no_document(file: str) -> UsageError:
    fault = f"{file} is not a JSON list or object"
    return UsageError(f"{fault}. If each of its lines is an object, rename it to end in .jsonl.")


def _parquet(source: BinaryIO, file: str, *, notice: Notice) -> Iterator[JobRow]:
    """Yields the rows of a Parquet file. Columns of bytes, such as pictures, aren't read. Errors: UsageError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise UsageError(f"{file} needs pyarrow, which isn't installed: pip install 'vllava[evaluate]'.") from exc
    number = 0
    try:
        with pq.ParquetFile(source, pre_buffer=False) as table:
            columns, left_out = _columns(table.schema_arrow)
            if left_out:
                notice(f"vllava: {', '.join(left_out)} in the jobs is left out: it holds bytes, which aren't text.")
            for batch in table.iter_batches(_PARQUET_ROWS, columns=columns, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    where = Location(file, number, "row")
                    yield _row(_plain(values, where), where)
    except (pa.ArrowException, OverflowError) as exc:
        raise Location(file, 0).fault(f"it is not Parquet that can be read ({str(exc).splitlines()[0]})") from exc


def _columns(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """Returns the columns to read and those that hold bytes; of an object {"bytes": …, "path": …} only "path" is read.

    A column that pandas adds for its row numbers is neither.
    """
    import pyarrow as pa

    kept: list[str] = []
    left_out: list[str] = []

    def visit(name: str, kind: pa.DataType) -> None:
        inner = kind
        while pa.types.is_list(inner) or pa.types.is_large_list(inner) or pa.types.is_fixed_size_list(inner):
            inner = inner.value_type
        if pa.types.is_struct(kind):
            for each in kind:
                visit(f"{name}.{each.name}", each.type)
        elif pa.types.is_binary(inner) or pa.types.is_large_binary(inner) or pa.types.is_fixed_size_binary(inner):
            left_out.append(name)
        else:
            kept.append(name)

    for column in schema:
        if not re.fullmatch("__index_level_[0-9]+__", column.name):
            visit(column.name, column.type)
    return kept, left_out


def _plain(value: Any, where: Location) -> Any:
    """Returns a value of a Parquet file as JSON has it: a missing number (NaN) is null, a date a text.

    An object that has only a path, as a column of videos or images has once its bytes are left out, is that path.
    Errors: UsageError.
    """
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise where.fault("it has a number that is infinite")
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        found = {key: _plain(each, where) for key, each in value.items()}
        return {key: each["path"] if _is_path(each) else each for key, each in found.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, where) for each in value if not isinstance(each, bytes)]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _is_path(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["path"]


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
        where, key = _place_of_number(text, begin)
        raise where.fault(f'"{key}" can\'t be read ({exc})' if key else f"it is not JSON ({exc})") from exc


def _place_of_number(text: str, begin: Location) -> tuple[Location, str]:
    """Finds the row and the field of the first NaN, infinity or number too large; without a field if it's elsewhere."""
    try:
        found = json.loads(text)
        rows = [("", found)] if begin.number else list(entries(found))
    except (ValueError, RecursionError):
        return begin, ""
    for number, (name, row) in enumerate(rows, 1):
        for key in row if isinstance(row, dict) else ():
            try:
                json.dumps(row[key], allow_nan=False)
            except ValueError:
                return begin if begin.number else Location(begin.file, number, "row", name), key
    return begin, ""


def _row(values: Any, where: Location) -> JobRow:
    if not isinstance(values, dict):
        raise where.fault("it is not a JSON object")
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
    ".json": document,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
}
ENDINGS = (*_READERS, ".parquet")
