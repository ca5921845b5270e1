"""Rows as parquet: typed columns, the jobs' further fields behind them as text, as `made_with` is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vllava_cli.batch.columns import path_columns
from vllava_cli.batch.jobs import Job
from vllava_cli.commands.provenance import MADE_WITH
from vllava_cli.storage.jsonl import portable, readable

ROWS_PER_GROUP = 4096
_TEXTS = ("id", "path", "question", "answer", "stop_reason")
_MORE_TEXTS = ("model", "revision", "precision")


def write(path: Path, rows: Iterable[Mapping[str, Any]], choices: Sequence[str], fields: Sequence[str]) -> None:
    """A file in bounded memory; `fields` names the columns behind those that every row has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(choices, fields)
    left = iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while group := [_typed(row, choices, fields) for row in islice(left, ROWS_PER_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def further_fields(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The columns behind those that every row has: bytes of paths where some need them, then what jobs bring along."""
    return (*path_columns(jobs), *dict.fromkeys(readable(name) for job in jobs for name in job.fields))


def _schema(choices: Sequence[str], fields: Sequence[str]) -> Any:
    import pyarrow as pa

    error = pa.struct([("kind", pa.string()), ("message", pa.string())])
    columns = [
        *((name, pa.string()) for name in _TEXTS),
        ("frame_times_s", pa.list_(pa.float64())),
        *((name, pa.string()) for name in _MORE_TEXTS),
        ("seconds", pa.float64()),
        ("error", error),
        ("stray", pa.int64()),
        ("seed", pa.uint64()),
        (MADE_WITH, pa.string()),
    ]
    if choices:
        columns.append(("probabilities", pa.map_(pa.string(), pa.float64())))
    return pa.schema([*columns, *((name, pa.string()) for name in fields)])


def _typed(row: Mapping[str, Any], choices: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    row = portable(row)
    typed: dict[str, Any] = {name: _text(row[name]) for name in (*_TEXTS, *_MORE_TEXTS)}
    error = row["error"]
    typed |= {
        "frame_times_s": row["frame_times_s"],
        "seconds": row["seconds"],
        "error": error and {name: _text(error[name]) for name in ("kind", "message")},
        "stray": row.get("stray"),
        "seed": row.get("seed"),
        MADE_WITH: _text(row.get(MADE_WITH)),
    }
    if choices:
        found = row.get("probabilities")
        typed["probabilities"] = found and [(_text(choice), value) for choice, value in found.items()]
    return typed | {name: _text(row.get(name)) for name in fields}


def _text(value: object) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) else json.dumps(value)
