"""Rows as parts: journals in a folder that `vllava merge` takes, or objects below a URL; and either of them as parquet.

Parts in a folder are called part-00001-of-00016.jsonl; each row is in the part that its id says, wherever it was
answered. Below a URL rows are gathered for some seconds, then put as one object; of a job's rows the last one counts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vllava_cli.batch.jobs import Job, Shard, list_path, shard_number, write_lists
from vllava_cli.batch.merge import PART, shards_in
from vllava_cli.batch.output import Output, learn, ordered
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import RunInfo, further_fields, path_columns
from vllava_cli.commands.provenance import MADE_WITH
from vllava_cli.errors import OutputError, quoted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import Part, as_output_error
from vllava_cli.storage.journal import Journal
from vllava_cli.storage.jsonl import portable, read_rows
from vllava_cli.storage.objects import LIST, Objects, rows_into, scratch

JOBS_PER_PART, MOST_PARTS = 65_536, 256
MOST_ROWS, MOST_S = 1000, 5.0
"""Of an object, and how long its first row waits: what a killed driver had waiting is answered again."""
ROWS_PER_GROUP = 4096
TABLE = "rows.parquet"


class _Parts(Output):
    """Rows that wait for others, to be written together."""

    def __init__(self, destination: Destination, info: RunInfo, screen: Screen) -> None:
        super().__init__(destination, info, screen)
        self._rows: list[Mapping[str, Any]] = []

    def put(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= MOST_ROWS:
            self._write()

    def flush(self) -> None:
        self._write()

    def _write(self) -> None:
        raise NotImplementedError


class FolderOutput(_Parts):
    _journals: Sequence[Journal] = ()

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:
        """Opens the parts, writes the lists, learns what is done."""
        self._folder = Path(self.destination.parts or "")
        self._ending = "parquet" if self.destination.is_parquet else "jsonl"
        of = self._count() or parts_for(len(every))
        outputs = {number: self._folder / f"part-{number:05}-of-{of:05}.{self._ending}" for number in range(1, of + 1)}
        more = ".journal" if self.destination.is_parquet else ""
        journals = [path.with_name(path.name + more) for path in outputs.values()]
        if is_dry:
            for path in journals:
                self.foresee(path)
            return
        with as_output_error(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        opened: list[Journal] = []
        self._journals = opened
        for path in journals:
            opened.append(Journal.open(path))
        write_lists({number: list_path(path) for number, path in outputs.items()}, of, jobs)
        for journal in self._journals:
            self.resume(journal, jobs)

    def finish(self, jobs: Sequence[Job]) -> None:
        self._write()
        of, columns = len(self._journals), (*path_columns(jobs), *further_fields(jobs))
        for number, journal in enumerate(self._journals if self.destination.is_parquet else (), 1):
            path = journal.path.with_name(journal.path.name.removesuffix(".journal"))
            with Part(path) as part, as_output_error(path):
                rows = ordered(journal.path, [job.id for job in jobs if Shard(number=number, of=of).has(job.id)])
                write_parquet(part.path, rows, self.info.choices, columns)

    def ids(self) -> Iterator[bytes]:
        for journal in self._journals:
            yield from (bytes.fromhex(row["id"]) for row in journal.rows())

    def close(self) -> None:
        try:
            self._write()
        finally:
            for journal in self._journals:
                journal.close()

    def _write(self) -> None:
        by_part: dict[int, list[Mapping[str, Any]]] = {}
        for row in self._rows:
            by_part.setdefault(shard_number(row["id"], len(self._journals)), []).append(row)
        self._rows = []
        for number, its in by_part.items():
            self._journals[number - 1].extend(its)

    def _count(self) -> int:
        """How many parts are here already, 0 for none. Errors: OutputError where they are not of one run."""
        found = shards_in(self._folder) if os.path.exists(self._folder) else []
        kinds = {(match[2], match[3]) for match in map(PART.fullmatch, (path.name for path in found)) if match}
        if not kinds:
            return 0
        if len(kinds) > 1 or {kind for _, kind in kinds} != {self._ending}:
            raise OutputError(
                f"{quoted(self._folder)} has parts of another run, or of another --format. Name another folder."
            )
        return int(kinds.pop()[0])


class StoreOutput(_Parts):
    clock: Callable[[], float] = staticmethod(time.monotonic)
    _since_s = 0.0
    _number = 0

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:  # noqa: ARG002
        """Writes the list, learns what is done."""
        self._objects = Objects(self.destination.parts or "")
        with scratch() as folder:
            path = rows_into(self._objects, folder)
            known = learn(read_rows(path), path)
            if self.destination.is_overwriting:
                known = {}
            self.before, self.has_failed = known.keys(), self.counted(known)
            if is_dry:
                return
            if self.destination.is_overwriting:
                self._objects.remove(self._objects.row_names())
            self._number = self._objects.next_number()
            write_lists({1: folder / LIST}, 1, jobs)
            self._objects.put_file(folder / LIST, LIST)

    def put(self, row: Mapping[str, Any]) -> None:
        if not self._rows:
            self._since_s = self.clock()
        super().put(row)

    def flush(self) -> None:
        if self._rows and self.clock() - self._since_s >= MOST_S:
            self._write()

    def finish(self, jobs: Sequence[Job]) -> None:
        self._write()
        if not self.destination.is_parquet:
            return
        with scratch() as folder:
            rows = ordered(rows_into(self._objects, folder), [job.id for job in jobs])
            write_parquet(folder / TABLE, rows, self.info.choices, (*path_columns(jobs), *further_fields(jobs)))
            self._objects.put_file(folder / TABLE, TABLE)

    def ids(self) -> Iterator[bytes]:
        with scratch() as folder:
            for row in read_rows(rows_into(self._objects, folder)):
                yield bytes.fromhex(row["id"])

    def close(self) -> None:
        self._write()

    def _write(self) -> None:
        if self._rows:
            self._objects.put_rows(self._rows, self._number)
            self._rows, self._number = [], self._number + 1


def parts_for(jobs: int) -> int:
    """1 up to 65,536 jobs, 16 for a million, at most 256."""
    return max(1, min(MOST_PARTS, -(-jobs // JOBS_PER_PART)))


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], choices: Sequence[str], fields: Sequence[str]) -> None:
    """A file in bounded memory: typed columns, the jobs' further `fields` behind them as text, as `made_with` is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float64()
    columns = dict.fromkeys(("id", "path", "question", "answer", "stop_reason"), text)
    columns |= {"frame_times_s": pa.list_(number), "model": text, "revision": text, "precision": text}
    columns |= {"seconds": number, "error": pa.struct([("kind", text), ("message", text)])}
    columns |= {"stray": pa.int64(), "seed": pa.uint64(), MADE_WITH: text}
    if choices:
        columns["probabilities"] = pa.map_(text, number)
    columns |= {name: columns.get(name, text) for name in fields}
    schema, left = pa.schema(columns), map(portable, rows)
    with pq.ParquetWriter(path, schema) as writer:
        while group := [_cells(row, columns, text) for row in islice(left, ROWS_PER_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _cells(row: Mapping[str, Any], columns: Mapping[str, Any], text: Any) -> dict[str, Any]:
    cells: dict[str, Any] = {
        name: _text(row.get(name)) if kind == text else row.get(name) for name, kind in columns.items()
    }
    if cells["error"]:
        cells["error"] = {name: _text(cells["error"][name]) for name in ("kind", "message")}
    if cells.get("probabilities"):
        cells["probabilities"] = [(_text(choice), value) for choice, value in cells["probabilities"].items()]
    return cells


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
