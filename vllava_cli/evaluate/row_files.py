"""Reads the rows that batch wrote, from any of its outputs: JSON lines, tables, Parquet, a folder of parts, stdin."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vllava_cli.batch.jobs import CHOICES, CLIP_STATE, id_of
from vllava_cli.batch.merge import shards_in
from vllava_cli.batch.rows import PROBABILITIES
from vllava_cli.commands.provenance import MADE_WITH
from vllava_cli.errors import OutputError, UsageError, quoted
from vllava_cli.media.inputs import piped
from vllava_cli.nouns import STDIN
from vllava_cli.storage.files import as_output_error
from vllava_cli.storage.jsonl import (
    MAX_ROW_BYTES,
    json_of,
    refuse_constant,
    refuse_damaged,
    refuse_foreign,
    row_of,
)

NEEDED = ("id", "path", "question", "answer")
_NEEDED = frozenset(NEEDED)
_OBJECTS = ("error", PROBABILITIES, CHOICES, CLIP_STATE, MADE_WITH, "frame_times_s", "job_answer")
"""The fields that are JSON where they stand in a cell of a table."""
_NUMBERS = ("start_s", "end_s", "at_s", "seconds")
_TSV = {r"\\": "\\", r"\t": "\t", r"\n": "\n", r"\r": "\r"}
_NOT_JSON = re.compile("timestamp|date|time|decimal|binary|duration|interval|map<")
"""What the name of a type of Parquet has whose values JSON lacks."""
_MOST_DEPTH = 100
_BYTES_KEY = b'_bytes"'
Row = dict[str, Any]


class RowPlace(NamedTuple):
    """The place of a row, for messages: "'a.jsonl', row 3"."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.number}"


def placed_rows(files: Sequence[Path], notice: Callable[[str], object]) -> Iterator[tuple[RowPlace, Row]]:
    """Yields the rows of files and folders, in order, each with its place; an id comes only once.

    Errors: OutputError for a file that isn't the output of a batch, a damaged row, and two rows with one id.
    """
    seen: set[bytes] = set()
    for file in files_of(files):
        name = "stdin" if file == Path(STDIN) else quoted(file)
        for number, row in enumerate(_rows(file, notice), 1):
            place = RowPlace(name, number)
            if not row.keys() >= _NEEDED:
                lack = next(key for key in NEEDED if key not in row)
                raise OutputError(
                    f"{place} has no {lack!r}. Name what vllava batch wrote, with the fields {', '.join(NEEDED)}."
                )
            id = id_of(row)
            if id is None:
                raise OutputError(f"{place}: 'id' is not the id of a job. Name what vllava batch wrote.")
            if id in seen:
                raise OutputError(f"{place} has the id {row['id']}, as a row before it. Leave one of them out.")
            seen.add(id)
            yield place, row


def files_of(names: Sequence[Path]) -> Iterator[Path]:
    """Yields the files that have the rows; of a folder its parts. Errors: OutputError for a folder without parts."""
    return (each for name in names for each in _parts(name))


def can_read_again(file: Path) -> bool:
    """False for a pipe or a device, of which only one reader gets all."""
    return file != Path(STDIN) and (file.is_file() or file.is_dir() or not file.exists())


def _parts(path: Path) -> list[Path]:
    """Returns a file, or the parts in a folder. Errors: OutputError for a folder without parts."""
    if not path.is_dir():
        return [path]
    if parts := shards_in(path):
        return [part for part in parts if part.exists()]
    raise OutputError(f"{quoted(path)} has no parts of a batch. Name the folder given to -o, or the files.")


def _rows(file: Path, notice: Callable[[str], object]) -> Iterator[Row]:
    if file == Path(STDIN):
        stdin = sys.stdin.buffer if sys.stdin else None
        yield from json_rows(piped(stdin, "… | vllava score -, or name a file"), Path("stdin"), notice)
        return
    with as_output_error(file, "read"), file.open("rb") as source:
        ending = file.suffix.lower()
        if ending in (".csv", ".tsv"):
            yield from map(_typed, _csv_rows(source, file) if ending == ".csv" else _tsv_rows(source, file))
        elif ending == ".parquet":
            yield from map(_typed, _parquet_rows(file))
        else:
            yield from json_rows(source, file, notice)


def json_rows(source: BinaryIO, path: Path, notice: Callable[[str], object]) -> Iterator[Row]:
    """Yields the rows of JSON lines; `notice` is told of a torn last one. Errors: OutputError, OSError."""
    decode = _decoder()
    for number, line in enumerate(iter(lambda: source.readline(MAX_ROW_BYTES + 1), b""), 1):
        row = decode(line)
        if row is not None:
            if line.count(b"{") + line.count(b"[") > _MOST_DEPTH and _is_deep(row):
                raise OutputError(f"{RowPlace(quoted(path), number)} is nested too deeply. Leave the row out.")
            yield row
            continue
        _check_numbers(line, RowPlace(quoted(path), number))
        if line.endswith(b"\n") or number == 1 or len(line) > MAX_ROW_BYTES:
            refuse_foreign(path) if number == 1 else refuse_damaged(path, f"line {number} is damaged")
        else:
            notice(f"vllava: The last line of {quoted(path)} is torn: line {number} is left out.")


def _is_deep(value: object) -> bool:
    """True for a value that is nested more deeply than any row of use, which would exhaust Python's stack."""
    level = [value]
    for _ in range(_MOST_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = list(chain.from_iterable(inner))
    return any(isinstance(each, dict | list) for each in level)


def _check_numbers(line: bytes, place: RowPlace) -> None:
    """Raises an OutputError that names the field if a line is a row but for NaN or an infinity."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return
    for key in row if isinstance(row, dict) else ():
        try:
            json_of({key: row[key]})
        except ValueError as exc:
            raise OutputError(
                f"{place}: {key!r} has NaN or an infinity. Correct it in an editor, or leave the row out."
            ) from exc


def _decoder() -> Callable[[bytes], Row | None]:
    """Returns what reads a line: orjson where it is installed; the house's own reader has the last word."""
    try:
        from orjson import JSONDecodeError, loads
    except ImportError:
        return row_of

    def decode(line: bytes) -> Row | None:
        try:
            row = None if _BYTES_KEY in line else loads(line)
        except JSONDecodeError:
            row = None
        return row if type(row) is dict else row_of(line)

    return decode


def _csv_rows(source: BinaryIO, path: Path) -> Iterator[Row]:
    lines = (line.decode("utf-8-sig" if not number else "utf-8") for number, line in enumerate(_lines(source, path)))
    csv.field_size_limit(MAX_ROW_BYTES)
    try:
        yield from _dicts(csv.reader(lines, strict=True), path)
    except csv.Error as exc:
        raise OutputError(f"{quoted(path)} can't be split into cells: {exc}. Name what vllava batch wrote.") from exc


def _lines(source: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yields the lines of a table. Errors: OutputError for one that is longer than a row of a batch can be."""
    while line := source.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES:
            refuse_foreign(path)
        yield line


def _tsv_rows(source: BinaryIO, path: Path) -> Iterator[Row]:
    lines = (line.decode().rstrip("\n").split("\t") for line in _lines(source, path))
    return _dicts(([_unescaped(cell) for cell in cells] for cells in lines), path)


def _unescaped(cell: str) -> str:
    r"""Undoes what TSV writes: "a\\tb" → a tab between a and b."""
    if "\\" not in cell:
        return cell
    return re.sub(r"\\[\\tnr]", lambda found: _TSV[found[0]], cell)


def _dicts(table: Iterable[list[str]], path: Path) -> Iterator[Row]:
    """Yields a row for each line of cells below the header; an empty cell is None."""
    cells = iter(table)
    header = next(cells, [])
    _check_header(header, path)
    for number, line in enumerate(cells, 1):
        if len(line) != len(header):
            raise OutputError(f"{RowPlace(quoted(path), number)} has {len(line)} cells, the header {len(header)}.")
        yield {name: cell or None for name, cell in zip(header, line, strict=True)}


def _check_header(names: Sequence[str], path: Path) -> None:
    """Raises an OutputError for two columns of one name."""
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise OutputError(f"{quoted(path)} has two columns that are called {twice!r}. Leave one of them out.")


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise UsageError(f"{quoted(path)} needs pyarrow: pip install 'vllava[evaluate]'.") from exc
    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            _check_header(names, path)
            odd = [name for name in names if _NOT_JSON.search(str(table.schema_arrow.field(name).type))]
            for batch in table.iter_batches():
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    yield row | {name: json.loads(json.dumps(row[name], default=str)) for name in odd}
    except (pa.ArrowException, OverflowError, KeyError) as exc:
        raise OutputError(f"{quoted(path)} is not a Parquet file. Name what vllava batch wrote.") from exc


def _typed(row: Row) -> Row:
    """Reads the cells of a table that are JSON or numbers; an empty answer that no error explains is one."""
    for key in _OBJECTS:
        value = row.get(key)
        if isinstance(value, str) and value[:1] in ("{", "["):
            try:
                found = json.loads(value, parse_constant=refuse_constant)
            except (ValueError, RecursionError):
                continue
            row[key] = value if _is_deep(found) else found
    for key in _NUMBERS:
        value = row.get(key)
        if isinstance(value, str):
            with suppress(ValueError):
                row[key] = float(value)
    if "answer" in row and row["answer"] is None and row.get("error") is None and "error" in row:
        row["answer"] = ""
    return row
