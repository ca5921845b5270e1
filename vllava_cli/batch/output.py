"""Where rows go: to stdout as they come, or into a journal that knows which jobs are done.

A plain JSONL file is its own journal. Any other form is written whole, in the order of the jobs, when the run ends; its
journal stands beside it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from vllava_cli.batch import tables
from vllava_cli.batch.columns import table_columns
from vllava_cli.batch.jobs import Job
from vllava_cli.batch.rows import About, is_row
from vllava_cli.batch.stale import stale
from vllava_cli.batch.tables import Format
from vllava_cli.errors import OutputError, quoted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import as_output_error, check_regular
from vllava_cli.storage.journal import Journal
from vllava_cli.storage.jsonl import read_rows, refuse_foreign, row_of


@dataclass(frozen=True, kw_only=True)
class Destination:
    """What was said about the output; no path is stdout."""

    path: Path | None = None
    format: Format = "jsonl"
    fields: tuple[str, ...] = ()
    is_safe: bool = False
    """Whether texts that a spreadsheet would compute get an apostrophe."""
    is_retrying: bool = False
    is_overwriting: bool = False
    is_pruning: bool = False

    @property
    def has_table(self) -> bool:
        return self.format != "jsonl" or bool(self.fields)

    @property
    def journal(self) -> Path | None:
        """out.jsonl → out.jsonl; out.csv → out.csv.journal; stdout has none."""
        if self.path is None:
            return None
        return self.path.with_name(f"{self.path.name}.journal") if self.has_table else self.path


class Output(Protocol):
    """Where rows go. Errors: OutputError, ClosedPipeError."""

    is_kept: bool
    """Whether the same command could go on with what is here."""

    @property
    def before(self) -> Collection[str]:
        """The ids that had a row when it was opened."""
        ...

    def is_done(self, job: Job, /) -> bool: ...

    def had_failed(self, job: Job, /) -> bool:
        """Whether the row that is there already is an error."""
        ...

    def put(self, row: Mapping[str, Any], /) -> None: ...

    def finish(self, jobs: Sequence[Job], /) -> None: ...


@contextmanager
def opened(
    destination: Destination, jobs: Sequence[Job], about: About, screen: Screen, *, every: Sequence[Job] = ()
) -> Iterator[Output]:
    """The output, locked; `every` are the jobs of all shards.

    Errors: LockedError; OutputError for a file that is no output of a batch.
    """
    columns = table_columns(jobs, about.choices)
    if destination.path is None or destination.journal is None:
        yield _Stdout(destination, columns, screen)
        return
    _check_table(destination)
    with Journal.open(destination.journal) as journal:
        file = _File(destination, journal, columns)
        file.prepare(jobs, about.model)
        file.settle(jobs, every or jobs, about.signature, screen)
        yield file


def foreseen(destination: Destination) -> Output:
    """What `opened` would know, for a run that writes nothing. Errors: OutputError."""
    path = destination.journal
    _check_table(destination)
    with nullcontext() if path is None else as_output_error(path):
        is_there = path is not None and path.exists()
    if path is None or not is_there or destination.is_overwriting:
        return _Nowhere({})
    known = learned(read_rows(path), path)
    return _Nowhere(
        {key: has_failed for key, has_failed in known.items() if not (has_failed and destination.is_retrying)}
    )


class _Stdout:
    is_kept = False
    before: Collection[str] = ()

    def __init__(self, destination: Destination, columns: tuple[str, ...], screen: Screen) -> None:
        self._format, self._is_safe = destination.format, destination.is_safe
        self._fields = destination.fields or (columns if destination.format != "jsonl" else ())
        self._screen = screen
        if header := tables.header(self._format, self._fields, is_safe=self._is_safe):
            screen.answer(header)

    def is_done(self, _: Job, /) -> bool:
        return False

    def had_failed(self, _: Job, /) -> bool:
        return False

    def put(self, row: Mapping[str, Any], /) -> None:
        self._screen.answer(tables.line(row, self._format, self._fields, is_safe=self._is_safe))

    def finish(self, _: Sequence[Job], /) -> None:
        pass


class _Nowhere:
    is_kept = True

    def __init__(self, has_failed: Mapping[str, bool]) -> None:
        self._has_failed = has_failed

    @property
    def before(self) -> Collection[str]:
        return self._has_failed.keys()

    def is_done(self, job: Job, /) -> bool:
        return job.id in self._has_failed

    def had_failed(self, job: Job, /) -> bool:
        return self._has_failed.get(job.id, False)

    def put(self, _: Mapping[str, Any], /) -> None:
        pass

    def finish(self, _: Sequence[Job], /) -> None:
        pass


class _File(_Nowhere):
    def __init__(self, destination: Destination, journal: Journal, columns: tuple[str, ...]) -> None:
        super().__init__({})
        self._destination, self._journal = destination, journal
        self._fields = destination.fields or (columns if destination.format != "jsonl" else ())

    def prepare(self, jobs: Sequence[Job], model: str) -> None:
        """Learns what is done, and forgets what is to be done again."""
        if self._destination.is_overwriting:
            learned(islice(self._journal.rows(), 1), self._journal.path)
            self._journal.rewrite(())
            return
        self._has_failed = learned(self._journal.rows(), self._journal.path)
        if self._destination.is_retrying and any(self._has_failed.values()):
            again = {(job.path, job.question, model) for job in jobs}
            self._journal.rewrite(row for row in self._journal.rows() if not is_again(row, again))
            self._has_failed = learned(self._journal.rows(), self._journal.path)

    def settle(self, jobs: Sequence[Job], every: Sequence[Job], signature: str, screen: Screen) -> None:
        """Says which rows are of clips that have changed, and drops them with --prune; a touched clip's stay."""
        if self._has_failed.keys() <= {job.id for job in every}:
            return
        is_pruning = self._destination.is_pruning
        with screen.waiting("Comparing clips with what they were"):
            found = stale(self._journal.rows(), jobs, every, signature)
            if found.touched or (is_pruning and found.changed):
                self._journal.rewrite(found.settled(self._journal.rows(), is_pruning=is_pruning))
                self._has_failed = learned(self._journal.rows(), self._journal.path)
        found.tell(self._destination.path or self._journal.path, screen, is_pruning=is_pruning)

    def put(self, row: Mapping[str, Any], /) -> None:
        self._journal.append(row)

    def finish(self, jobs: Sequence[Job], /) -> None:
        """Writes the table, if one was asked for: the jobs in their order, then rows of earlier commands."""
        if self._destination.has_table and self._destination.path:
            rows = ordered(self._journal.path, [job.id for job in jobs])
            made = tables.lines(rows, self._destination.format, self._fields, is_safe=self._destination.is_safe)
            tables.write(self._destination.path, made)


def _check_table(destination: Destination) -> None:
    """A table is written at the end of a long run: what is in its way is told before, not replaced or met then."""
    path, journal = destination.path, destination.journal
    if path is None or journal == path:
        return
    with as_output_error(path):
        check_regular(path)
        is_there = path.exists() and path.stat().st_size > 0
    if is_there and journal and not os.path.exists(journal) and not destination.is_overwriting:
        raise OutputError(
            f"{quoted(path)} is there already, without the journal of a batch beside it. Name another file, or replace "
            "it with --overwrite."
        )


def learned(rows: Iterable[Mapping[str, Any]], path: Path) -> dict[str, bool]:
    """By the id of each row, whether it is an error. Errors: OutputError for rows of something else."""
    has_failed: dict[str, bool] = {}
    for row in rows:
        if not is_row(row):
            refuse_foreign(path)
        has_failed[row["id"]] = row["error"] is not None
    return has_failed


def is_again(row: Mapping[str, Any], again: set[tuple[str, str, str]]) -> bool:
    return row["error"] is not None and (row["path"], row["question"], row["model"]) in again


def ordered(path: Path, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a journal in the order of ids, the others behind them; only their places are held in memory."""
    with path.open("rb") as file:
        places: dict[str, int] = {}
        place = 0
        for line in file:
            row = row_of(line)
            if row is not None:
                places[row["id"]] = place
            place += len(line)
        for key in dict.fromkeys((*ids, *places)):
            if key in places:
                file.seek(places[key])
                row = row_of(file.readline())
                if row is not None:
                    yield row
