"""Rows as a finished file: JSON lines, CSV, or TSV in the way of jq's @tsv; all or some of their fields.

A field may reach inside: error.kind. One that a row doesn't have is null there, and null is empty in a table.
Spreadsheets take a text that begins with =, +, - or @ for a formula: `is_safe` puts an apostrophe in front of it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from vllava_cli.errors import UsageError
from vllava_cli.storage.jsonl import line_of, portable, readable

Format = Literal["jsonl", "csv", "tsv"]
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""The tab and the end of a line as well: some programs drop them, and see what stands behind."""
_TSV = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def format_of(path: Path | None, wished: Format | None = None) -> Format:
    """Chooses the format: the named one, else the one of the file's ending, else JSON lines: a/b.CSV → "csv"."""
    ending = path.suffix[1:].lower() if path else ""
    return wished or (cast(Format, ending) if ending in get_args(Format) else "jsonl")


def fields_of(text: str) -> tuple[str, ...]:
    """ "path, error.kind" → ("path", "error.kind"). Errors: UsageError."""
    fields = tuple(field.strip() for field in text.split(","))
    if not all(fields):
        raise UsageError(f"--fields {text!r} has an empty name. Give names with commas between: path,answer.")
    return fields


def lines(
    rows: Iterable[Mapping[str, object]], format: Format, fields: tuple[str, ...], *, is_safe: bool = False
) -> Iterator[str]:
    """All lines of the file, with their ends. For csv and tsv the fields must be given, else none are all."""
    first = header(format, fields, is_safe=is_safe)
    if first is not None:
        yield first
    for row in rows:
        yield line(row, format, fields, is_safe=is_safe)


def header(format: Format, fields: tuple[str, ...], *, is_safe: bool = False) -> str | None:
    """The first line of a table; None for JSON lines, which have none. Errors: ValueError for a table of no fields."""
    if format == "jsonl":
        return None
    if not fields:
        raise ValueError(f"a {format} table needs its fields")
    return _table_line((_cell(readable(field), is_safe=is_safe) for field in fields), format)


def line(row: Mapping[str, object], format: Format, fields: tuple[str, ...], *, is_safe: bool = False) -> str:
    """One row as a line of valid Unicode. Errors: ValueError for a NaN or an infinity."""
    row = portable(row)
    if format == "jsonl":
        return line_of({field: _value(row, field) for field in fields} if fields else row).decode()
    return _table_line((_cell(_value(row, field), is_safe=is_safe) for field in fields), format)


def _value(row: Mapping[str, object], field: str) -> object:
    """Under its full name, else inside: ({"error": {"kind": 1}}, "error.kind") → 1; names may have dots themselves."""
    if field in row:
        return row[field]
    at = field.find(".")
    while at >= 0:
        inner = row.get(field[:at])
        if isinstance(inner, Mapping) and (found := _value(inner, field[at + 1 :])) is not None:
            return found
        at = field.find(".", at + 1)
    return None


def _cell(value: object, *, is_safe: bool) -> str:
    """None → "", "a" → "a", True → "true", [1, {"a": 2}] → '[1,{"a":2}]'; safe, "=1" → "'=1", and -1 → "-1"."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if is_safe and value.startswith(_FORMULAS) else value
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _table_line(cells: Iterable[str], format: Format) -> str:
    if format == "tsv":
        return "\t".join(cell.translate(_TSV) for cell in cells) + "\n"
    pad = io.StringIO()
    csv.writer(pad, lineterminator="\r\n").writerow(cells)  # which has cells with either of them quoted
    return pad.getvalue().removesuffix("\r\n") + "\n"
