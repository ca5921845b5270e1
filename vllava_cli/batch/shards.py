"""The outputs of a batch's shards as one: each job that their lists name, once. Ids are in memory, rows are not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vllava_cli.batch import job_list
from vllava_cli.batch.job_list import JobList, id_of
from vllava_cli.errors import LockedError, OutputError, ShardError, quoted
from vllava_cli.nouns import counted
from vllava_cli.storage.files import as_output_error, is_locked
from vllava_cli.storage.journal import check_start
from vllava_cli.storage.jsonl import read_rows

PART = re.compile(r"part-(\d{5})-of-(\d{5})\.(jsonl|parquet)")
"""What one of the parts in a folder is called."""
_MOST_NAMED = 10
_MOST_LETTERS = 100


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What one shard of a batch left behind."""

    path: Path
    """As it was named: what -o had, or the journal of a table."""
    journal: Path | None
    """Where its rows are; None where it has a list, but no row yet."""
    jobs: JobList | None
    """None where no list is beside it."""

    @classmethod
    def found(cls, path: Path) -> Shard:
        """Looks for the files that belong to an output. Errors: LockedError, OutputError."""
        with as_output_error(path, "read"):
            output = path.with_name(path.name.removesuffix(".journal"))
            beside = output.with_name(f"{output.name}.journal")
            listing = job_list.path_of(output)
            journal = beside if beside.exists() else output
            jobs = job_list.read(listing) if listing.exists() else None
            has_begun = journal.exists() or not jobs
        if is_locked(journal):
            raise LockedError(f"{quoted(journal)} is being written by another vllava. Wait for its end.")
        if has_begun:
            check_start(journal)
        return cls(path=path, journal=journal if has_begun else None, jobs=jobs)

    def rows(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """(id, row) of each. Errors: OutputError."""
        for number, row in enumerate(read_rows(self.journal) if self.journal else (), 1):
            id = id_of(row)
            if id is None:
                raise OutputError(
                    f"{quoted(self.path)} was not written by vllava batch: row {number} has no id. Name another file."
                )
            yield id, row


def shards_in(folder: Path) -> list[Path]:
    """The outputs that a batch has as parts in a folder, sorted, also those of which only the list is there yet.

    Errors: OutputError.
    """
    with as_output_error(folder, "read"):
        names = {path.name.removesuffix(".jobs").removesuffix(".journal") for path in folder.iterdir()}
        return [folder / name for name in sorted(names) if PART.fullmatch(name)]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Shards that have each job once."""

    shards: Sequence[Shard]
    ids: Collection[bytes]
    stale_rows: int
    """How many are left out because no list has their id."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read anew, in the order of the shards. Errors: OutputError, also where a file has changed since."""
        awaited = set(self.ids)
        for shard in self.shards:
            for id, row in shard.rows():
                if id in awaited:
                    awaited.remove(id)
                    yield row
        if awaited:
            raise OutputError("The shards changed while they were read. Merge them again when nothing writes to them.")


def merged(shards: Sequence[Shard]) -> Merged:
    """Errors: ShardError where a job has two rows or none, or a whole shard is missing; OutputError."""
    _check_lists(shards)
    awaited = {job.id for shard in shards if shard.jobs for job in shard.jobs.listed()}
    owners: dict[bytes, Shard] = {}
    stale_rows = 0
    for shard in shards:
        for id, row in shard.rows():
            if shard.jobs and id not in awaited:
                stale_rows += 1
            elif id in owners:
                raise ShardError(_twice(row, owners[id], shard))
            else:
                owners[id] = shard
    missing = awaited - owners.keys()
    if missing:
        raise ShardError(_missing(shards, missing, len(awaited)))
    return Merged(shards=shards, ids=owners.keys(), stale_rows=stale_rows)


def _check_lists(shards: Sequence[Shard]) -> None:
    """Raises a ShardError unless the lists are of one run, and as many as it had shards."""
    lists = [shard.jobs for shard in shards if shard.jobs]
    for other in lists[1:]:
        difference = _difference(lists[0], other)
        if difference:
            raise ShardError(
                f"{quoted(lists[0].path)} and {quoted(other.path)} are not of one run: {difference}. "
                "Run all shards again, with the same clips, questions and settings."
            )
    of = lists[0].of if lists else 0
    absent = sorted(set(range(1, of + 1)) - {each.shard for each in lists})
    if len(absent) > len(shards) - len(lists):
        names = listed([f"{number}/{of}" for number in absent])
        raise ShardError(
            f"Of the shards, {names} {'is' if len(absent) == 1 else 'are'} missing. Name all {of:,} files."
        )


def _difference(one: JobList, other: JobList) -> str | None:
    if one.of != other.of:
        return f"one of {counted(one.of, 'shard')}, one of {other.of:,}"
    if one.all_jobs != other.all_jobs:
        return f"{counted(one.all_jobs, 'job')} in all, and {other.all_jobs:,}"
    return (
        None
        if one.checksum == other.checksum
        else f"both have {counted(one.all_jobs, 'job')} in all, but not the same ones"
    )


def _twice(row: dict[str, Any], one: Shard, other: Shard) -> str:
    place = quoted(one.path) if one is other else f"{quoted(one.path)} and {quoted(other.path)}"
    job = _line(row.get("path"), row.get("question"))
    return f"This job has two rows, in {place}. Leave one of them out.\n{job}"


def _missing(shards: Sequence[Shard], missing: set[bytes], job_count: int) -> str:
    """Which shards to run again, and the first of the jobs."""
    names: list[str] = []
    lines: list[str] = []
    for shard in shards:
        if shard.jobs:
            lacking = (job for job in shard.jobs.listed() if job.id in missing)
            first = [_line(job.path, job.question) for job in islice(lacking, _MOST_NAMED - len(lines))]
            count = len(first) + sum(1 for _ in lacking)
            lines += first
            names += [f"{shard.jobs.shard}/{shard.jobs.of} ({quoted(shard.path)}, {count:,} of them)"] if count else []
    more = [f"  and {len(missing) - len(lines):,} more"] if len(missing) > len(lines) else []
    lack = f"{len(missing):,} of {job_count:,} jobs {'has' if len(missing) == 1 else 'have'} no row"
    return "\n".join([f"{lack}. Run their shards again: {listed(names)}.", *lines, *more])


def _line(path: object, question: object) -> str:
    """("a b.mp4", "What\\nis it?") → "  a b.mp4: What is it?" """
    words = " ".join(str(question).split())
    asked = words if len(words) <= _MOST_LETTERS else f"{words[:_MOST_LETTERS]}…"
    return f"  {' '.join(str(path).split())}: {asked}"


def listed(names: Sequence[str]) -> str:
    """ "a, b", and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
