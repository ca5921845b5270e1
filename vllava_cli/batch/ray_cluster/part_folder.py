"""Parts in a folder: part-00001-of-00016.jsonl with its list of jobs, each a journal that `vllava merge` takes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vllava_cli.batch import job_list
from vllava_cli.batch.jobs import Job, Shard, shard_of
from vllava_cli.batch.output import is_again, learned, ordered
from vllava_cli.batch.ray_cluster import parquet
from vllava_cli.batch.ray_cluster.ray_request import Place
from vllava_cli.batch.rows import About
from vllava_cli.batch.shards import PART, shards_in
from vllava_cli.errors import OutputError, quoted
from vllava_cli.storage.files import Part, as_output_error
from vllava_cli.storage.journal import Journal
from vllava_cli.storage.jsonl import read_rows

JOBS_PER_PART, MOST_PARTS = 65_536, 256


class FolderParts:
    """Each row is in the part that its id says, wherever it was answered."""

    is_kept = True

    def __init__(self, place: Place, about: About) -> None:
        self._place, self._about = place, about
        self._folder = Path(place.name)
        self._journals: list[Journal] = []
        self._has_failed: dict[bytes, bool] = {}
        """Of the rows that were there; an id takes half as much memory in bytes."""

    def prepare(self, jobs: Sequence[Job], *, is_dry: bool) -> None:
        """Opens the parts, writes the lists, learns what is done. Errors: LockedError, OutputError."""
        of = self._count() or parts_for(len(jobs))
        paths = [self._journal(number, of) for number in range(1, of + 1)]
        if is_dry:
            if not self._place.is_overwriting:
                for path in filter(Path.exists, paths):
                    self._learn(read_rows(path), path)
            return
        with as_output_error(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            self._journals.append(Journal.open(path))
        job_list.write_all([job_list.path_of(self._output(number, of)) for number in range(1, of + 1)], jobs)
        for journal in self._journals:
            self._prepare(journal, jobs)

    @property
    def before(self) -> Collection[bytes]:
        return self._has_failed.keys()

    def is_done(self, job: Job, /) -> bool:
        return bytes.fromhex(job.id) in self._has_failed

    def had_failed(self, job: Job, /) -> bool:
        return self._has_failed.get(bytes.fromhex(job.id), False)

    def extend(self, rows: Sequence[Mapping[str, Any]], /) -> None:
        by_part: dict[int, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_part.setdefault(shard_of(row["id"], len(self._journals)), []).append(row)
        for part, its in by_part.items():
            self._journals[part].extend(its)

    def finish(self, jobs: Sequence[Job], /) -> None:
        if not self._place.is_parquet:
            return
        of, fields = len(self._journals), parquet.further_fields(jobs)
        for number, journal in enumerate(self._journals, 1):
            shard = Shard(number=number, of=of)
            path = self._output(number, of)
            with Part(path) as part, as_output_error(path):
                rows = ordered(journal.path, [job.id for job in jobs if shard.has(job.id)])
                parquet.write(part.path, rows, self._about.choices, fields)

    def ids(self) -> Iterator[bytes]:
        for journal in self._journals:
            yield from (bytes.fromhex(row["id"]) for row in journal.rows())

    def close(self) -> None:
        for journal in self._journals:
            journal.close()

    def _count(self) -> int:
        """How many parts are here already, 0 for none. Errors: OutputError where they are not of one run."""
        found = shards_in(self._folder) if os.path.exists(self._folder) else []
        kinds = {(match[2], match[3]) for match in map(PART.fullmatch, (path.name for path in found)) if match}
        if not kinds:
            return 0
        ending = "parquet" if self._place.is_parquet else "jsonl"
        if len(kinds) > 1 or {kind for _, kind in kinds} != {ending}:
            raise OutputError(
                f"{quoted(self._folder)} has parts of another run, or of another --format. Name another folder."
            )
        return int(kinds.pop()[0])

    def _output(self, number: int, of: int) -> Path:
        ending = "parquet" if self._place.is_parquet else "jsonl"
        return self._folder / f"part-{number:05}-of-{of:05}.{ending}"

    def _journal(self, number: int, of: int) -> Path:
        path = self._output(number, of)
        return path.with_name(f"{path.name}.journal") if self._place.is_parquet else path

    def _prepare(self, journal: Journal, jobs: Sequence[Job]) -> None:
        """Learns what is done, and forgets what is to be done again."""
        if self._place.is_overwriting:
            learned(islice(journal.rows(), 1), journal.path)
            journal.rewrite(())
            return
        known = learned(journal.rows(), journal.path)
        if self._place.is_retrying and any(known.values()):
            again = {(job.path, job.question, self._about.model) for job in jobs}
            journal.rewrite(row for row in journal.rows() if not is_again(row, again))
            known = learned(journal.rows(), journal.path)
        self._has_failed |= _in_bytes(known)

    def _learn(self, rows: Iterable[Mapping[str, Any]], path: Path) -> None:
        known = learned(rows, path)
        kept = {id: failed for id, failed in known.items() if not (failed and self._place.is_retrying)}
        self._has_failed |= _in_bytes(kept)


def parts_for(jobs: int) -> int:
    """1 up to 65,536 jobs, 16 for a million, at most 256."""
    return max(1, min(MOST_PARTS, -(-jobs // JOBS_PER_PART)))


def _in_bytes(known: Mapping[str, bool]) -> dict[bytes, bool]:
    return {bytes.fromhex(id): has_failed for id, has_failed in known.items()}
