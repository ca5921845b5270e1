"""Outputs for rows: stdout as they come, or a journal that knows which jobs are done; parts are in parts.py.

A plain JSONL file is its own journal. Any other form is written in one step when the run ends, in the order of the
jobs; its journal stands beside it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from vllava_cli.batch import tables
from vllava_cli.batch.jobs import Job
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import RunInfo, is_row, table_columns
from vllava_cli.batch.stale import stale
from vllava_cli.errors import OutputError, quoted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import as_output_error, atomic_write, check_regular
from vllava_cli.storage.journal import Journal
from vllava_cli.storage.jsonl import read_rows, refuse_foreign, row_of
from vllava_cli.storage.objects import is_url


class Output:
    """Rows of a run. Errors: LockedError, OutputError, ClosedPipeError, from each method."""

    is_kept = True
    """Whether the same command could go on with what is here."""

    def __init__(self, destination: Destination, info: RunInfo, screen: Screen) -> None:
        self.destination, self.info, self.screen = destination, info, screen
        self.has_failed: dict[bytes, bool] = {}
        """Whether the row of each done job is an error; an id takes half as much memory in bytes."""
        self.before: Collection[bytes] = ()
        """The ids that had a row when it was opened."""

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:
        """Learns what is done and forgets what is to be done again; a dry run writes nothing."""

    def is_done(self, job: Job) -> bool:
        return bytes.fromhex(job.id) in self.has_failed

    def had_failed(self, job: Job) -> bool:
        """True if the job has a row already, and that is an error."""
        return self.has_failed.get(bytes.fromhex(job.id), False)

    def put(self, row: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Writes the rows that wait for others, if there are any; without it they are written when many are there."""

    def finish(self, jobs: Sequence[Job]) -> None:
        """Writes the table, if one was asked for."""

    def ids(self) -> Iterable[bytes]:
        """The ids of all rows, read again from where they are."""
        raise NotImplementedError

    def close(self) -> None:
        """Keeps what came; also called after a failure."""

    def resume(self, journal: Journal, jobs: Sequence[Job]) -> None:
        """Learns from a journal, and drops the rows of what is to be done again."""
        if self.destination.is_overwriting:
            learn(islice(journal.rows(), 1), journal.path)
            journal.rewrite(())
            return
        known = learn(journal.rows(), journal.path)
        if self.destination.is_retrying and any(known.values()):
            again = {(job.path, job.question, self.info.model) for job in jobs}
            others = (row for row in journal.rows() if row["error"] is None or _asked(row) not in again)
            journal.rewrite(others)
            known = learn(journal.rows(), journal.path)
        self.has_failed |= known
        self.before = self.has_failed.keys()

    def foresee(self, journal: Path) -> None:
        """Learns what `resume` would, and changes nothing."""
        with as_output_error(journal):
            is_there = journal.exists()
        if is_there and not self.destination.is_overwriting:
            self.has_failed |= self.counted(learn(read_rows(journal), journal))
        self.before = self.has_failed.keys()

    def counted(self, known: Mapping[bytes, bool]) -> dict[bytes, bool]:
        """The rows that count as done."""
        return {id: failed for id, failed in known.items() if not (failed and self.destination.is_retrying)}


@contextmanager
def opened(
    destination: Destination,
    jobs: Sequence[Job],
    info: RunInfo,
    screen: Screen,
    *,
    every: Sequence[Job] = (),
    is_dry: bool = False,
) -> Iterator[Output]:
    """The output, locked where that can be; `every` are the jobs of all shards.

    Errors: LockedError; OutputError for a file that is no output of a batch.
    """
    if destination.parts is not None:
        from vllava_cli.batch.parts import FolderOutput, StoreOutput

        kind: type[Output] = StoreOutput if is_url(destination.parts) else FolderOutput
    else:
        kind = FileOutput if destination.path else StdoutOutput
    out = kind(destination, info, screen)
    try:
        out.prepare(jobs, every or jobs, is_dry=is_dry)
        yield out
    finally:
        out.close()


class StdoutOutput(Output):
    is_kept = False

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:  # noqa: ARG002
        self._columns = _columns(self.destination, jobs, self.info)
        header = tables.header(self.destination.format, self._columns, is_safe=self.destination.is_safe)
        if header and not is_dry:
            self.screen.answer(header)

    def put(self, row: Mapping[str, Any]) -> None:
        destination = self.destination
        self.screen.answer(tables.line(row, destination.format, self._columns, is_safe=destination.is_safe))


class FileOutput(Output):
    _journal: Journal | None = None

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:
        path = self.destination.journal
        assert path
        _check_table(self.destination)
        if is_dry:
            self.foresee(path)
            return
        self._journal = Journal.open(path)
        self.resume(self._journal, jobs)
        self._settle(self._journal, jobs, every)

    def _settle(self, journal: Journal, jobs: Sequence[Job], every: Sequence[Job]) -> None:
        """Says which rows are of clips that have changed, and drops them with --prune; a touched clip's stay."""
        if self.has_failed.keys() <= {bytes.fromhex(job.id) for job in every}:
            return
        is_pruning = self.destination.is_pruning
        with self.screen.waiting("Comparing clips with what they were"):
            found = stale(journal.rows(), jobs, every, self.info.signature)
            if found.touched or (is_pruning and found.changed):
                journal.rewrite(found.settled(journal.rows(), is_pruning=is_pruning))
                self.has_failed = learn(journal.rows(), journal.path)
                self.before = self.has_failed.keys()
        found.report(self.destination.path or journal.path, self.screen, is_pruning=is_pruning)

    def put(self, row: Mapping[str, Any]) -> None:
        assert self._journal
        self._journal.append(row)

    def finish(self, jobs: Sequence[Job]) -> None:
        """Writes the table, if one was asked for: the jobs in their order, then rows of earlier commands."""
        destination = self.destination
        if destination.has_table and destination.path and self._journal:
            rows = ordered(self._journal.path, [job.id for job in jobs])
            columns = _columns(destination, jobs, self.info)
            lines = tables.lines(rows, destination.format, columns, is_safe=destination.is_safe)
            atomic_write(destination.path, map(str.encode, lines))

    def close(self) -> None:
        if self._journal:
            self._journal.close()


def _columns(destination: Destination, jobs: Sequence[Job], info: RunInfo) -> tuple[str, ...]:
    return destination.fields or (table_columns(jobs, info.choices) if destination.format != "jsonl" else ())


def _check_table(destination: Destination) -> None:
    """A table is written at the end of a long run: a file that it would replace is reported before the run."""
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


def learn(rows: Iterable[Mapping[str, Any]], path: Path) -> dict[bytes, bool]:
    """Maps the id of each row to whether it is an error. Errors: OutputError for rows of something else."""
    has_failed: dict[bytes, bool] = {}
    for row in rows:
        if not is_row(row):
            refuse_foreign(path)
        has_failed[bytes.fromhex(row["id"])] = row["error"] is not None
    return has_failed


def ordered(path: Path, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a journal in the order of ids, the others behind them; only their offsets are held in memory."""
    with path.open("rb") as file:
        offsets: dict[str, int] = {}
        offset = 0
        for line in file:
            row = row_of(line)
            if row is not None:
                offsets[row["id"]] = offset
            offset += len(line)
        for key in dict.fromkeys((*ids, *offsets)):
            if key in offsets:
                file.seek(offsets[key])
                row = row_of(file.readline())
                if row is not None:
                    yield row


def _asked(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["path"], row["question"], row["model"]
