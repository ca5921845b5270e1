"""Rows below a URL: gathered for some seconds, then put as one object; a job's last row is the one that counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from vllava_cli.batch import job_list
from vllava_cli.batch.jobs import Job, Shard
from vllava_cli.batch.output import learned, ordered
from vllava_cli.batch.ray_cluster import parquet
from vllava_cli.batch.ray_cluster.ray_request import Place
from vllava_cli.batch.rows import About
from vllava_cli.storage.jsonl import read_rows
from vllava_cli.storage.objects import LIST, Objects, rows_into, scratch

MOST_ROWS, MOST_S = 1000, 5.0
"""Of an object, and how long its first row waits: what a killed driver had waiting is answered again."""
TABLE = "rows.parquet"


class StoredParts:
    is_kept = True

    def __init__(self, place: Place, about: About, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._place, self._about, self._clock = place, about, clock
        self._objects = Objects(place.name)
        self._has_failed: dict[str, bool] = {}
        self._rows: list[Mapping[str, Any]] = []
        self._since_s = 0.0
        self._number = 0
        self.before: Collection[bytes] = frozenset()

    def prepare(self, jobs: Sequence[Job], *, is_dry: bool) -> None:
        """Writes the list, learns what is done. Errors: OutputError."""
        with scratch() as folder:
            path = rows_into(self._objects, folder)
            known = learned(read_rows(path), path)
            if self._place.is_overwriting:
                known = {}
            self.before = frozenset(map(bytes.fromhex, known))
            if self._place.is_retrying:
                known = {key: has_failed for key, has_failed in known.items() if not has_failed}
            self._has_failed = known
            if is_dry:
                return
            if self._place.is_overwriting:
                self._objects.remove(self._objects.row_names())
            self._number = self._objects.next_number()
            job_list.write(folder / LIST, jobs, Shard(number=1, of=1))
            self._objects.put_file(folder / LIST, LIST)

    def is_done(self, job: Job, /) -> bool:
        return job.id in self._has_failed

    def had_failed(self, job: Job, /) -> bool:
        return self._has_failed.get(job.id, False)

    def extend(self, rows: Sequence[Mapping[str, Any]], /) -> None:
        if rows and not self._rows:
            self._since_s = self._clock()
        self._rows += rows
        if len(self._rows) >= MOST_ROWS or (self._rows and self._clock() - self._since_s >= MOST_S):
            self._flush()

    def finish(self, jobs: Sequence[Job], /) -> None:
        self._flush()
        if not self._place.is_parquet:
            return
        with scratch() as folder:
            rows = ordered(rows_into(self._objects, folder), [job.id for job in jobs])
            parquet.write(folder / TABLE, rows, self._about.choices, parquet.further_fields(jobs))
            self._objects.put_file(folder / TABLE, TABLE)

    def ids(self) -> Iterator[bytes]:
        with scratch() as folder:
            for row in read_rows(rows_into(self._objects, folder)):
                yield bytes.fromhex(row["id"])

    def close(self) -> None:
        """Also after a failure: what came is kept."""
        self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._objects.put_rows(self._rows, self._number)
            self._number, self._rows = self._number + 1, []
