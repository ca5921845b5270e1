"""The manifest: the clips that are to be answered, with their jobs, as a parquet file that all machines can read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vllava_cli.batch.clip_jobs import Unit
from vllava_cli.batch.jobs import Job
from vllava_cli.storage.files import Part, as_output_error
from vllava_cli.storage.objects import Objects, is_url, scratch

NAME = "manifest.parquet"
CLIPS_PER_GROUP = 4096
"""Of the file's row groups: what is held at once while it is written."""


def write(place: str, units: Iterable[Unit]) -> str:
    """Writes it into a folder or below a URL, and returns where. Errors: OutputError."""
    if is_url(place):
        objects = Objects(place)
        with scratch() as folder:
            path = folder / NAME
            _write(path, units)
            objects.put_file(path, NAME)
        return f"{objects.url}/{NAME}"
    path = Path(place).absolute() / NAME
    with Part(path) as part, as_output_error(path):
        _write(part.path, units)
    return str(path)


def unit_of(row: Mapping[str, Any]) -> Unit:
    """A row of it → the unit that it was written from."""
    path = os.fsdecode(row["path"])
    jobs = [Job(path=path, **job) for job in json.loads(row["jobs"])]
    return Unit(jobs=tuple(jobs))


def row_of(unit: Unit) -> dict[str, bytes]:
    """The path in the system's bytes, as names need not be UTF-8; the jobs as JSON in ASCII, for the same reason."""
    jobs = [
        {"id": job.id, "question": job.question, "size": job.size, "mtime_ns": job.mtime_ns, "fields": dict(job.fields)}
        for job in unit.jobs
    ]
    return {"path": os.fsencode(unit.jobs[0].path), "jobs": json.dumps(jobs).encode("ascii")}


def _write(path: Path, units: Iterable[Unit]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("path", pa.binary()), ("jobs", pa.binary())])
    with pq.ParquetWriter(path, schema) as writer:
        left = iter(units)
        while group := [row_of(unit) for unit in islice(left, CLIPS_PER_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
