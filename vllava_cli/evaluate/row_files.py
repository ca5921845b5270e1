"""Reads the rows that batch wrote, from any of its outputs: JSON lines, tables, Parquet, a folder of parts, stdin."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, json_of, refuse_damaged, refuse_foreign, row_of

NEEDED = ("id", "path", "question", "answer")
_NEEDED = frozenset(NEEDED)
_OBJECTS = ("error", PROBABILITIES, CHOICES, CLIP_STATE, MADE_WITH, "frame_times_s", "job_answer")
"""The fields that are JSON where they stand in a cell of a table."""
_TSV = {r"\\": "\\", r"\t": "\t", r"\n": "\n", r"\r": "\r"}
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
    for file in (each for name in files for each in _parts(name)):
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
            yield row
            continue
        _check_numbers(line, RowPlace(quoted(path), number))
        if line.endswith(b"\n") or number == 1 or len(line) > MAX_ROW_BYTES:
            refuse_foreign(path) if number == 1 else refuse_damaged(path, f"line {number} is damaged")
        else:
            notice(f"vllava: The last line of {quoted(path)} is torn: line {number} is left out.")


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
    lines = (line.decode("utf-8-sig" if not number else "utf-8") for number, line in enumerate(source))
    try:
        yield from _dicts(csv.reader(lines, strict=True), path)
    except csv.Error as exc:
        raise OutputError(f"{quoted(path)} can't be split into cells: {exc}. Name what vllava batch wrote.") from exc


def _tsv_rows(source: BinaryIO, path: Path) -> Iterator[Row]:
    lines = (line.decode().rstrip("\n").split("\t") for line in source)
    return _dicts(([_unescaped(cell) for cell in cells] for cells in lines), path)


def _unescaped(cell: str) -> str:
    r"""Undoes what TSV writes: "a\\tb" → a tab between a and b."""
    if "\\" not in cell:
        return cell
    import re

    return re.sub(r"\\[\\tnr]", lambda found: _TSV[found[0]], cell)


def _dicts(table: Iterable[list[str]], path: Path) -> Iterator[Row]:
    """Yields a row for each line of cells below the header; an empty cell is None."""
    cells = iter(table)
    header = next(cells, [])
    for number, line in enumerate(cells, 1):
        if len(line) != len(header):
            raise OutputError(f"{RowPlace(quoted(path), number)} has {len(line)} cells, the header {len(header)}.")
        yield {name: cell or None for name, cell in zip(header, line, strict=True)}


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise UsageError(f"{quoted(path)} needs pyarrow: pip install 'vllava[evaluate]'.") from exc
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist(maps_as_pydicts="strict")
    except pa.ArrowException as exc:
        raise OutputError(f"{quoted(path)} is not a Parquet file. Name what vllava batch wrote.") from exc


def _typed(row: Row) -> Row:
    """Reads the cells of a table that are JSON, and makes an empty answer of a cell that no error explains."""
    for key in _OBJECTS:
        value = row.get(key)
        if isinstance(value, str) and value[:1] in ("{", "["):
            try:
                row[key] = json.loads(value)
            except ValueError:
                continue
    if "answer" in row and row["answer"] is None and row.get("error") is None and "error" in row:
        row["answer"] = ""
    return row
