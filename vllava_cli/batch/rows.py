"""The row of a job, a JSON object: an answer and an error have the same keys in the same order. Also writes tables.

`Table` writes all or some fields of rows as JSON lines, as CSV, or as TSV like jq's @tsv. A field may name a value
inside an object: error.kind. A field that a row lacks is null in JSON lines and empty in CSV and TSV.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vllava_cli.answers import Answer, Sampling
from vllava_cli.batch.jobs import CHOICES, CLIP_STATE, FIRST_KEYS, PATH_BYTES, ROW_KEYS, SUBS, WINDOW_KEYS, Job, id_of
from vllava_cli.choices import by_choice
from vllava_cli.commands.provenance import (
    AGREEMENT_KEYS,
    CHOICE_STYLE,
    KEYS,
    LIBRARIES,
    MADE_WITH,
    SPOKEN,
    AdapterFacts,
    Making,
    agreement_row,
)
from vllava_cli.errors import (
    ContextError,
    FetchError,
    MediaError,
    MemoryShortError,
    MissingError,
    OverflowedError,
    UsageError,
    VllavaError,
)
from vllava_cli.nouns import Precision
from vllava_cli.prompt import letters
from vllava_cli.storage.jsonl import is_portable, line_of, portable, readable

PROBABILITIES = "probabilities"
COLUMNS = tuple(key for key in ROW_KEYS if key not in (PROBABILITIES, PATH_BYTES))
_INNER = {
    *("error.kind", "error.message", f"{CLIP_STATE}.bytes", f"{CLIP_STATE}.mtime_ns"),
    *(f"{MADE_WITH}.{name}" for name in (*KEYS, SPOKEN, CHOICE_STYLE)),
    *(f"{MADE_WITH}.versions.{name}" for name in ("vllava", *LIBRARIES, "bitsandbytes", "peft")),
    *(f"{MADE_WITH}.sampling.{each.name}" for each in fields(Sampling)),
    *(f"{MADE_WITH}.adapter.{name}" for name in AdapterFacts._fields),
}
"""The fields inside the objects that all rows have."""
Format = Literal["jsonl", "csv", "tsv", "srt", "vtt", "ffmeta"]
"""srt, vtt and ffmeta have cues, which need windows; the others have rows."""
ROWS_PER_GROUP = 4096
"""The rows of a Parquet file that are in memory at once."""
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""Tab and carriage return are among them, as some programs drop them and read the formula after them."""
_TSV = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
ErrorKind = Literal[
    "missing", "fetch", "unreadable", "changed", "trim", "context", "memory", "overflow", "question", "bug"
]
"""missing: no such file · fetch: it can't be fetched from its URL · unreadable: neither a video nor an image, or
damaged · changed: other bytes than when the run began · trim: --start, --end, --at or a job's times don't suit the
clip · context, memory: too little for it · overflow: the model's numbers aren't numbers · question: an empty one, or
one whose choices can't be compared · bug: ours."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The fields that all rows of a run share."""

    model: str
    revision: str | None
    choices: tuple[str, ...] = ()
    has_letters: bool = False
    """Whether choices are written into the question, and their letters compared."""
    has_agreement: bool = False
    """Whether clips are sampled several times."""
    signature: str = ""
    """The signature in the ids of the jobs."""


@dataclass(frozen=True, kw_only=True)
class JobError:
    kind: ErrorKind
    message: str

    @classmethod
    def of(cls, error: Exception, path: Path | None = None) -> JobError:
        """Makes the error for a question that can't be answered or, with `path`, for a clip that can't be read."""
        kinds: tuple[tuple[type[Exception], ErrorKind], ...] = (
            (UsageError, "trim" if path else "question"),
            (MissingError, "missing"),
            (FetchError, "fetch"),
            (MediaError, "missing" if path and not os.path.exists(path) else "unreadable"),
            (ContextError, "context"),
            (MemoryShortError, "memory"),
            (OverflowedError, "overflow"),
        )
        kind = next((kind for family, kind in kinds if isinstance(error, family)), "bug")
        message = str(error) if isinstance(error, VllavaError) else _last_line(error)
        return cls(kind=cast(ErrorKind, kind), message=message)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a job: either an answer or an error."""

    job: Job
    answer: Answer | None = None
    times_s: tuple[float, ...] | None = None
    """None for an image."""
    error: JobError | None = None
    seconds: float = 0.0
    precision: Precision | None = None
    """The precision of the engine; None before a model is loaded."""
    making: Making | None = None
    """The facts about how the answer was made; None for an error."""


def row_of(result: Result, info: RunInfo) -> dict[str, Any]:
    """Makes the row of a result, with the frames' times and the measured seconds rounded to four decimals."""
    job, answer, error, making = result.job, result.answer, result.error, result.making
    row: dict[str, Any] = {
        "id": job.id,
        "path": job.path,
        "question": job.question,
        "answer": answer.text if answer else None,
        "stop_reason": answer.stop_reason if answer else None,
        "frame_times_s": None if result.times_s is None else [round(time_s, 4) for time_s in result.times_s],
        "model": info.model,
        "revision": info.revision,
        "precision": result.precision,
        "seconds": round(result.seconds, 4),
        "error": {"kind": error.kind, "message": error.message} if error else None,
        "stray": answer.stats.stray_tokens if answer else None,
        "seed": making.seed if making else None,
        CLIP_STATE: job.state,
        MADE_WITH: making.row() if making else None,
    }
    if choices := scored_choices(job, info):
        row[PROBABILITIES] = by_choice(choices, answer.probabilities) if answer else None
    if job.choices or (choices and info.has_letters):
        row[CHOICES] = list(job.choices or info.choices)
    if info.has_agreement:
        row |= agreement_row(answer.agreement if answer else None)
    if window := job.window:
        end_s = None if math.isinf(window.end_s) else round(window.end_s, 4)
        row |= {"start_s": round(window.start_s, 4), "end_s": end_s, "title": window.title or None}
    if job.sidecar:
        row[SUBS] = making.spoken.row() if making and making.spoken else None
    return {**row, **job.fields}


def scored_choices(job: Job, info: RunInfo) -> tuple[str, ...]:
    """Returns the texts whose likelihoods are compared: letters, or the choices of the job or of the run."""
    choices = job.choices or info.choices
    return letters(len(choices)) if info.has_letters else choices


def is_row(row: Mapping[str, Any]) -> bool:
    """True if a batch of any version of vllava wrote this row."""
    return id_of(row) is not None and all(key in row for key in FIRST_KEYS)


def columns_of(jobs: Sequence[Job], info: RunInfo) -> tuple[str, ...]:
    """Returns the columns that rows of a run have, then the further fields of its jobs."""
    agreement = AGREEMENT_KEYS if info.has_agreement else ()
    windows = WINDOW_KEYS if any(job.window for job in jobs) else ()
    subs = (SUBS,) if any(job.sidecar for job in jobs) else ()
    return (*COLUMNS, *choice_columns(jobs, info), *agreement, *windows, *subs, *further_fields(jobs))


def choice_columns(jobs: Sequence[Job], info: RunInfo) -> tuple[str, ...]:
    """Returns the columns about choices: none, "probabilities", or that and "choices"."""
    has_own = any(job.choices for job in jobs)
    if not (has_own or info.choices):
        return ()
    return (PROBABILITIES, CHOICES) if has_own or info.has_letters else (PROBABILITIES,)


def further_fields(jobs: Sequence[Job]) -> tuple[str, ...]:
    """Returns the names of the fields that jobs have besides the clip and the question."""
    return tuple(dict.fromkeys(readable(name) for job in jobs for name in job.fields))


def table_columns(jobs: Sequence[Job], info: RunInfo) -> tuple[str, ...]:
    """Returns `columns_of` without clip_state and made_with, and with path_bytes if a path isn't UTF-8."""
    every = columns_of(jobs, info)
    columns = [name for name in every if name not in (CLIP_STATE, MADE_WITH)]
    columns[2:2] = path_columns(jobs)  # after id and path
    return tuple(columns)


def path_columns(jobs: Sequence[Job]) -> tuple[str, ...]:
    """Returns the column path_bytes if the path of a job isn't UTF-8, else no column."""
    return () if all(is_portable(job.path) for job in jobs) else (PATH_BYTES,)


def check_fields(names: tuple[str, ...], jobs: Sequence[Job], info: RunInfo) -> None:
    """Raises a UsageError for a field that no row will have; without jobs nothing is checked."""
    if not names or not jobs:
        return
    columns = columns_of(jobs, info)
    choices = {choice for job in jobs for choice in scored_choices(job, info)}
    known = {PATH_BYTES, *columns, *_INNER, *(f"{PROBABILITIES}.{choice}" for choice in choices)}
    # The values of other fields come from the jobs, and may be objects with any names.
    others = tuple(f"{name}." for name in columns if name not in ("error", CLIP_STATE, MADE_WITH, PROBABILITIES))
    for field in names:
        if field not in known and not field.startswith(others):
            raise UsageError(f"--fields names {field!r}, which no row has. Rows have {', '.join(columns)}.")


def _last_line(error: Exception) -> str:
    """Returns the type and last line of an error: KeyError("width") → "KeyError: 'width'".

    The text of an error from another process may be a whole traceback.
    """
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[-1:]])


def format_of(path: Path | None, wished: Format | None = None) -> Format:
    """Returns the format that the user chose, else that of the file's ending, else JSON lines: a/b.CSV → "csv"."""
    ending = path.suffix[1:].lower() if path else ""
    return wished or (cast(Format, ending) if ending in get_args(Format) else "jsonl")


def fields_of(text: str) -> tuple[str, ...]:
    """Reads --fields: "path, error.kind" → ("path", "error.kind"). Errors: UsageError."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f"--fields {text!r} has an empty name. Give names separated by commas, like path,answer.")
    return names


@dataclass(frozen=True)
class Table:
    """The format and fields of an output. CSV and TSV need `fields`; JSON lines without `fields` have all."""

    format: Format
    fields: tuple[str, ...] = ()
    is_safe: bool = False
    """Whether a text that begins with =, +, - or @ gets an apostrophe, as a spreadsheet would evaluate it."""

    def lines(self, rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
        """Yields all lines of the file, with their line breaks: the header, then one line for each row."""
        yield from self.header()
        yield from map(self.line, rows)

    def header(self) -> list[str]:
        """Returns the first line of CSV or TSV, in a list; an empty list for JSON lines."""
        return [] if self.format == "jsonl" else [self._cells(map(readable, self.fields))]

    def end(self) -> str:
        """Returns the text after the last row: none."""
        return ""

    def line(self, row: Mapping[str, object]) -> str:
        """Writes one row as a line of valid Unicode. Errors: ValueError for a NaN or an infinity."""
        row = portable(row)
        if self.format == "jsonl":
            return line_of({field: value_in(row, field) for field in self.fields} if self.fields else row).decode()
        return self._cells(value_in(row, field) for field in self.fields)

    def _cells(self, values: Iterable[object]) -> str:
        cells = [_cell(value, is_safe=self.is_safe) for value in values]
        if self.format == "tsv":
            return "\t".join(cell.translate(_TSV) for cell in cells) + "\n"
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(cells)  # so cells with \r or \n are quoted
        return line.getvalue().removesuffix("\r\n") + "\n"


def value_in(row: Mapping[str, object], field: str) -> object:
    """Finds a field, also inside an object: ({"error": {"kind": 1}}, "error.kind") → 1; None if the row lacks it.

    The full name is tried first, as names may have dots.
    """
    if field in row:
        return row[field]
    at = field.find(".")
    while at >= 0:
        inner = row.get(field[:at])
        if isinstance(inner, Mapping) and (found := value_in(inner, field[at + 1 :])) is not None:
            return found
        at = field.find(".", at + 1)
    return None


def _cell(value: object, *, is_safe: bool) -> str:
    """Formats a value as a cell: None → "", "a" → "a", True → "true", [1, {"a": 2}] → '[1,{"a":2}]'.

    With `is_safe`, a text that a spreadsheet would evaluate gets an apostrophe, but a number doesn't: "=1" → "'=1",
    -1 → "-1".
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if is_safe and value.startswith(_FORMULAS) else value
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Writes the rows of jobs as a Parquet file, in bounded memory.

    The columns have types; `made_with` is text. The `fields` that only some runs have come last; those that a batch
    doesn't make itself are text.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    columns = dict.fromkeys(("id", "path", "question", "answer", "stop_reason"), text)
    columns |= {"frame_times_s": pa.list_(number), "model": text, "revision": text, "precision": text}
    columns |= {"seconds": number, "error": pa.struct([("kind", text), ("message", text)])}
    columns |= {"stray": pa.int64(), "seed": pa.uint64(), MADE_WITH: text}
    own = {PROBABILITIES: pa.map_(text, number), CHOICES: pa.list_(text), "start_s": number, "end_s": number}
    columns |= {name: columns.get(name) or own.get(name, text) for name in fields}
    write_groups(path, columns, (_typed(row, columns, text) for row in map(portable, rows)))


def write_groups(path: Path, columns: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a Parquet file in groups of rows, so that few rows are in memory; `columns` maps names to types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, left = pa.schema(columns), iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(left, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _typed(row: Mapping[str, Any], columns: Mapping[str, Any], text: Any) -> dict[str, Any]:
    cells: dict[str, Any] = {
        name: _text(row.get(name)) if kind == text else row.get(name) for name, kind in columns.items()
    }
    if cells["error"]:
        cells["error"] = {name: _text(cells["error"][name]) for name in ("kind", "message")}
    if cells.get(PROBABILITIES):
        cells[PROBABILITIES] = [(_text(choice), value) for choice, value in cells[PROBABILITIES].items()]
    return cells


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
