"""The outputs of a batch: rows go to stdout as they come, to journals that know the done jobs, or to objects at a URL.

A JSONL file with all fields is its own journal. Any other file is written in one step when the run ends, in the order
of the jobs, and has its journal beside it. A run on Ray writes parts. In a folder the parts are journals,
part-00001-of-00016.jsonl, and the id of a job decides in which part its row is. Below a URL the parts are objects, each
with the rows of a few seconds; if a job has several rows there, the last one counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

from vllava_cli.batch.jobs import (
    WINDOW_KEYS,
    ClipJobs,
    Job,
    check_unused,
    list_path,
    shard_number,
    write_lists,
)
from vllava_cli.batch.merge import PART, shards_in, stale
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import (
    Format,
    RunInfo,
    Table,
    choice_columns,
    further_fields,
    is_row,
    path_columns,
    table_columns,
    write_parquet,
)
from vllava_cli.cues.formats import CueForm, CueText
from vllava_cli.errors import OutputError, UsageError, quoted
from vllava_cli.screen import Screen, one_line
from vllava_cli.storage.files import Part, as_output_error, atomic_write, check_regular
from vllava_cli.storage.jsonl import Journal, read_rows, refuse_foreign, row_of
from vllava_cli.storage.objects import LIST, Objects, is_url, rows_into, scratch
from vllava_cli.times import span

JOBS_PER_PART, MOST_PARTS = 65_536, 256
MOST_ROWS, MOST_S = 1000, 5.0
"""The most rows of an object, and how long its first row waits. Rows that wait in a killed driver are lost."""
TABLE = "rows.parquet"


class Output:
    """A place for the rows of a run. Errors of each method: LockedError, OutputError, ClosedPipeError."""

    is_kept = True
    """Whether the same command can continue from the rows of this output."""
    faults = 0
    """How many files couldn't be written, although the run went on."""
    is_full = False
    """True once no further row is wanted, so that the run ends."""
    tells_errors = False
    """Whether it writes the errors of jobs on stderr itself: cues and lines have no place for them."""

    def __init__(self, destination: Destination, info: RunInfo, screen: Screen) -> None:
        self.destination, self.info, self.screen = destination, info, screen
        self.has_failed: dict[bytes, bool] = {}
        """Whether the row of each done job is an error, by id; as bytes an id takes half as much memory as in hex."""
        self.before: Collection[bytes] = ()
        """The ids that had a row when the output was opened."""
        self.tells_errors |= destination.has_cues or destination.is_in_order
        self._rows: list[Mapping[str, Any]] = []
        """Rows that wait to be written together."""

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:
        """Learns which jobs are done, and drops the rows of jobs to be done again; a dry run writes nothing."""
        raise NotImplementedError

    def is_done(self, job: Job) -> bool:
        return bytes.fromhex(job.id) in self.has_failed

    def had_failed(self, job: Job) -> bool:
        """True if the job already has a row, and that row is an error."""
        return self.has_failed.get(bytes.fromhex(job.id), False)

    def is_wanted(self, clip: ClipJobs) -> bool:  # noqa: ARG002
        """False if the rows about a clip, or a window of it, aren't needed any more. Called in several threads."""
        return True

    def put(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= (1 if self.destination.parts is None else MOST_ROWS):
            self._write()

    def flush(self) -> None:
        """Lets the output write the rows that it has collected; otherwise it waits until it has many."""
        self._write()

    def finish(self, jobs: Sequence[Job]) -> None:  # noqa: ARG002
        """Writes the rows that are still held back, and the table if one was asked for."""
        self._write()

    def ids(self) -> Iterable[bytes]:
        """Reads the ids of all rows from the output again."""
        raise NotImplementedError

    def in_order(self, jobs: Sequence[Job]) -> Iterable[Mapping[str, Any]]:
        """Returns the rows of jobs, in the order of the jobs, for an output that knows them."""
        raise NotImplementedError

    def close(self) -> None:
        """Writes the rows that are still held back and closes the output; also called after a failure."""
        self._write()

    def _write(self) -> None:
        raise NotImplementedError

    def _counted(self, known: Mapping[bytes, bool]) -> dict[bytes, bool]:
        """Returns the rows that count as done; with --retry-errors, rows with errors don't count."""
        return {id: failed for id, failed in known.items() if not (failed and self.destination.is_retrying)}

    def _write_parquet(self, path: Path, journal: Path, jobs: Sequence[Job]) -> None:
        windows = WINDOW_KEYS if any(job.window for job in jobs) else ()
        columns = (*choice_columns(jobs, self.info), *windows, *path_columns(jobs), *further_fields(jobs))
        write_parquet(path, ordered(journal, jobs), columns)


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
    """Opens the output and closes it at the end; files are locked meanwhile. `every` are the jobs of all shards.

    Errors: LockedError; OutputError for a file that is no output of a batch; UsageError.
    """
    from vllava_cli.batch.cue_outputs import BesideOutput, OrderedOutput

    if destination.has_cues:
        check_single(jobs, destination.format)
    if destination.beside:
        kind: type[Output] = BesideOutput
    elif destination.parts is None and destination.path is None:
        kind = OrderedOutput if destination.has_cues or destination.is_in_order else StdoutOutput
    else:
        kind = StoreOutput if is_url(destination.parts or "") else JournalOutput
    out = kind(destination, info, screen)
    try:
        out.prepare(jobs, every or jobs, is_dry=is_dry)
        yield out
    finally:
        out.close()


class StdoutOutput(Output):
    is_kept = False

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:  # noqa: ARG002
        self._table = table_of(self.destination, jobs, self.info)
        for line in () if is_dry else self._table.header():
            self.screen.answer(line)

    def _write(self) -> None:
        rows, self._rows = self._rows, []
        for row in rows:
            self.screen.answer(self._table.line(row))


class JournalOutput(Output):
    """Rows in journals: the journal of a file, or those of the parts in a folder."""

    _journals: Mapping[Path, Journal] = {}
    """The journal of each file that the user gets, in order."""

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:
        destination = self.destination
        if destination.path:
            paths = [destination.path]
            _check_table(destination, jobs)
        else:
            paths = _parts(Path(destination.parts or ""), "parquet" if destination.is_parquet else "jsonl", len(every))
        journals = {path: destination.journal_of(path) for path in paths}
        if is_dry:
            for journal in journals.values():
                self._foresee(journal)
            return
        if not destination.path:
            with as_output_error(paths[0].parent):
                paths[0].parent.mkdir(parents=True, exist_ok=True)
        self._journals = opened = {}
        for path, journal in journals.items():
            opened[path] = Journal.open(journal)
        if not destination.path:
            write_lists(dict(enumerate(map(list_path, paths), 1)), len(paths), jobs)
        for each in opened.values():
            self._resume(each, jobs)
        if destination.path:
            self._settle(opened[destination.path], jobs, every)

    def _foresee(self, journal: Path) -> None:
        """Learns from a journal as `_resume` does, but changes nothing; the journal may be missing."""
        with as_output_error(journal):
            is_there = journal.exists()
        if is_there and not self.destination.is_overwriting:
            self.has_failed |= self._counted(learn(read_rows(journal), journal))
        self.before = self.has_failed.keys()

    def _resume(self, journal: Journal, jobs: Sequence[Job]) -> None:
        """Learns from a journal which jobs are done, and drops the rows of jobs to be done again."""
        if self.destination.is_overwriting:
            learn(islice(journal.rows(), 1), journal.path)
            journal.rewrite(())
            return
        known = learn(journal.rows(), journal.path)
        if self.destination.is_retrying and any(known.values()):
            again = {(job.path, job.question, self.info.model) for job in jobs}
            rows = journal.rows()
            journal.rewrite(
                row for row in rows if row["error"] is None or (row["path"], row["question"], row["model"]) not in again
            )
            known = learn(journal.rows(), journal.path)
        self.has_failed |= known
        self.before = self.has_failed.keys()

    def _settle(self, journal: Journal, jobs: Sequence[Job], every: Sequence[Job]) -> None:
        """Reports rows of changed clips and, with --prune, drops them; rows of touched clips get their new ids."""
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
        super().put(row)
        if self.tells_errors:
            tell_error(row, self.screen)

    def in_order(self, jobs: Sequence[Job]) -> Iterator[Mapping[str, Any]]:
        for journal in self._journals.values():
            yield from ordered(journal.path, jobs, has_others=False)

    def finish(self, jobs: Sequence[Job]) -> None:
        """Writes the tables, if they were asked for: rows in the order of the jobs, then rows of earlier commands."""
        self._write()
        for path, journal in self._journals.items():
            if self.destination.is_parquet:
                with Part(path) as part, as_output_error(path):
                    self._write_parquet(part.path, journal.path, jobs)
            elif self.destination.has_table:
                rows = ordered(journal.path, jobs, has_others=not self.tells_errors)
                lines = table_of(self.destination, jobs, self.info).lines(rows)
                atomic_write(path, map(str.encode, lines))

    def ids(self) -> Iterator[bytes]:
        for journal in self._journals.values():
            yield from (bytes.fromhex(row["id"]) for row in journal.rows())

    def close(self) -> None:
        try:
            self._write()
        finally:
            for journal in self._journals.values():
                journal.close()

    def _write(self) -> None:
        rows, self._rows = self._rows, []
        journals = list(self._journals.values())
        by_part: dict[int, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_part.setdefault(shard_number(row["id"], len(journals)), []).append(row)
        for number, its in by_part.items():
            journals[number - 1].extend(its)


class StoreOutput(Output):
    clock: Callable[[], float] = staticmethod(time.monotonic)
    _since_s = 0.0
    _number = 0

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:  # noqa: ARG002
        """Learns which jobs are done, and writes the list of jobs; a dry run writes nothing."""
        self._objects = Objects(self.destination.parts or "")
        with scratch() as folder:
            path = rows_into(self._objects, folder)
            known = learn(read_rows(path), path)
            if self.destination.is_overwriting:
                known = {}
            self.before, self.has_failed = known.keys(), self._counted(known)
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
        if self.destination.is_parquet:
            with scratch() as folder:
                self._write_parquet(folder / TABLE, rows_into(self._objects, folder), jobs)
                self._objects.put_file(folder / TABLE, TABLE)

    def ids(self) -> Iterator[bytes]:
        with scratch() as folder:
            for row in read_rows(rows_into(self._objects, folder)):
                yield bytes.fromhex(row["id"])

    def _write(self) -> None:
        if self._rows:
            self._objects.put_rows(self._rows, self._number)
            self._rows, self._number = [], self._number + 1


def parts_for(jobs: int) -> int:
    """Returns the number of parts for this many jobs: 1 for up to 65,536 jobs, 16 for a million, at most 256."""
    return max(1, min(MOST_PARTS, -(-jobs // JOBS_PER_PART)))


def _parts(folder: Path, ending: str, job_count: int) -> list[Path]:
    """Names the parts of a run in a folder: as many as are there, or as the jobs need if none is there.

    Errors: OutputError if parts of several runs or of another format are there.
    """
    found = shards_in(folder) if folder.exists() else []
    kinds = {match.group(2, 3) for path in found if (match := PART.fullmatch(path.name))}
    if len(kinds) > 1 or any(kind != ending for _, kind in kinds):
        raise OutputError(f"{quoted(folder)} has parts of another run, or of another --format. Name another folder.")
    of = int(kinds.pop()[0]) if kinds else parts_for(job_count)
    return [folder / f"part-{number:05}-of-{of:05}.{ending}" for number in range(1, of + 1)]


def table_of(destination: Destination, jobs: Sequence[Job], info: RunInfo) -> Table | CueText:
    """Returns what writes rows in the destination's format."""
    if destination.has_cues:
        return CueText(format=cast(CueForm, destination.format), is_merging=destination.is_merging)
    is_table = destination.format != "jsonl"
    columns = table_columns(jobs, info) if is_table else ()
    return Table(cast(Format, destination.format), destination.fields or columns, destination.is_safe)


def check_single(jobs: Iterable[Job], format: str, *, has_many_clips: bool = False) -> None:
    """Raises a UsageError unless cues can be made of these jobs: one question about each clip, and one clip a file."""
    first: dict[str, str] = {}
    for job in jobs:
        if first.setdefault(job.path, job.question) != job.question:
            raise UsageError(f"{format} holds one text at a time. Ask one question, or write rows with -o FILE.jsonl.")
    if len(first) > 1 and not has_many_clips:
        raise UsageError(f"{format} is about one clip, and there are {len(first):,}: --beside writes one for each.")


def tell_error(row: Mapping[str, Any], screen: Screen, *, is_named: bool = False) -> None:
    """Writes a row's error on stderr, with the times of its window and, if `is_named`, with the path of its clip."""
    if error := row["error"]:
        times = [] if row.get("start_s") is None else [span(row["start_s"], row["end_s"])]
        where = ", ".join([one_line(row["path"])] * (is_named and bool(times)) + times)
        screen.error(f"{where}: {error['message']}" if where else str(error["message"]))


def _check_table(destination: Destination, jobs: Iterable[Job]) -> None:
    """Raises an OutputError, before a long run begins, if its table may not replace the file that is there."""
    path = destination.path
    if path is None or not destination.has_table:
        return
    with as_output_error(path):
        check_regular(path)
        is_there = path.exists() and path.stat().st_size > 0
    if is_there and not os.path.exists(destination.journal_of(path)) and not destination.is_overwriting:
        raise OutputError(
            f"{quoted(path)} is there already, without the journal of a batch beside it. Name another file, or replace "
            "it with --overwrite."
        )
    check_unused(path, jobs)


def learn(rows: Iterable[Mapping[str, Any]], path: Path) -> dict[bytes, bool]:
    """Maps the id of each row to whether the row is an error. Errors: OutputError for rows that no batch wrote."""
    has_failed: dict[bytes, bool] = {}
    for row in rows:
        if not is_row(row):
            refuse_foreign(path)
        has_failed[bytes.fromhex(row["id"])] = row["error"] is not None
    return has_failed


def ordered(path: Path, jobs: Iterable[Job], *, has_others: bool = True) -> Iterator[dict[str, Any]]:
    """Yields the rows of a journal in the order of `jobs`, then the others; only their offsets are held in memory."""
    with path.open("rb") as file:
        offsets: dict[str, int] = {}
        offset = 0
        for line in file:
            row = row_of(line)
            if row is not None:
                offsets[row["id"]] = offset
            offset += len(line)
        for key in dict.fromkeys((*(job.id for job in jobs), *(offsets if has_others else ()))):
            if key in offsets:
                file.seek(offsets[key])
                row = row_of(file.readline())
                if row is not None:
                    yield row
