"""`vllava merge`: joins the outputs of a batch's shards in one file, if every job has exactly one row.

`stale` compares the rows of an earlier run with the jobs of the run that continues it: rows of clips that have changed
are stale. A clip with another modification time, but with the size and the SHA-256 that its row records, is unchanged:
its row gets the id of the job that asks the same question now. Ids are held in memory, rows are not.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vllava_cli.batch.jobs import CLIP_STATE, Job, JobList, has_changed, id_of, list_path
from vllava_cli.batch.rows import format_of
from vllava_cli.commands.provenance import MADE_WITH
from vllava_cli.errors import LockedError, OutputError, ShardError, UsageError, quoted
from vllava_cli.media.fingerprint import Fingerprint, differs
from vllava_cli.nouns import counted
from vllava_cli.screen import Screen, one_line
from vllava_cli.storage import files
from vllava_cli.storage.files import as_output_error, is_locked
from vllava_cli.storage.jsonl import Journal, line_of, read_rows
from vllava_cli.storage.objects import Objects, is_url, rows_into, scratch

PART = re.compile(r"part-(\d{5})-of-(\d{5})\.(jsonl|parquet)")
"""The names of the parts in a folder."""
MOST_NAMED = 10
_MOST_LETTERS = 100
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """The request of one `vllava merge`."""

    out: Path
    shards: tuple[str, ...]
    """Files, folders and URLs."""
    is_overwriting: bool = False


def run(merge: Merge, screen: Screen) -> int:
    """Writes all rows of the shards or nothing; returns 0. Errors: UsageError, LockedError, ShardError, OutputError."""
    _check_out(merge)
    with ExitStack() as fetched:
        paths = [path for name in merge.shards for path in _paths(name, fetched, screen)]
        shards = [ShardOutput.found(path) for path in paths]
        _check_files(merge.out, shards)
        with screen.waiting(f"Reading {counted(len(shards), 'shard')}"):
            whole_run = merged(shards)
        with screen.waiting(f"Writing {merge.out}"):
            if merge.out.exists():  # its lock makes sure that no batch is writing to it
                with Journal.open(merge.out) as journal:
                    journal.rewrite(whole_run.rows())
            else:
                files.atomic_write(merge.out, map(line_of, whole_run.rows()))
        _report(merge.out, whole_run, screen)
    return 0


def _paths(name: str, fetched: ExitStack, screen: Screen) -> list[Path]:
    """Returns the files that `name` stands for: a file, a folder's parts, or a URL's copy, which `fetched` deletes."""
    if is_url(name):
        folder = fetched.enter_context(scratch())
        with screen.waiting(f"Fetching {name}"):
            return [rows_into(Objects(name), folder)]
    path = Path(name)
    if not os.path.isdir(path):
        return [path]
    found = shards_in(path)
    if not found:
        raise OutputError(f"{quoted(path)} has no parts of a batch. Name the folder given to -o, or the files.")
    return found


def _check_out(merge: Merge) -> None:
    if str(merge.out) == "-" or format_of(merge.out) != "jsonl":
        raise UsageError(
            f"{quoted(merge.out)} can't be the output: a file of JSON lines is written. Name one: all.jsonl."
        )
    if os.path.lexists(merge.out) and not merge.is_overwriting:
        raise OutputError(
            f"{quoted(merge.out)} is already there. Give --overwrite to replace it, or name another file."
        )


def _check_files(out: Path, shards: Sequence[ShardOutput]) -> None:
    """Raises a UsageError if a file is named twice, as OUT or as a SHARD, even by two different names."""
    taken = {_identity(out)}
    for shard in shards:
        files = {_identity(path) for path in (shard.path, shard.journal, shard.jobs and shard.jobs.path) if path}
        if _identity(out) in files:
            raise UsageError(f"{quoted(out)} is one of the shards' files and can't be the output. Name another one.")
        if files & taken:
            raise UsageError(f"{quoted(shard.path)} is named twice. Name each shard once.")
        taken |= files


def _identity(path: Path) -> object:
    """Returns a value that is equal for two names of one file."""
    with as_output_error(path, "read"):
        facts = path.stat() if path.exists() else None
        return (facts.st_dev, facts.st_ino) if facts else os.path.realpath(path)


def _report(out: Path, run: MergedShards, screen: Screen) -> None:
    bare = first_of([one_line(str(shard.path)) for shard in run.shards if not shard.jobs])
    if bare:
        screen.notice(f"vllava: No list of jobs, .jobs, is beside {bare}: jobs without a row can't be seen.")
    if run.stale_rows:
        stale = counted(run.stale_rows, "row")
        screen.notice(f"vllava: {stale} of clips that changed since, or of other runs, left out.")
    answers, errors = counted(len(run.ids) - run.errors, "answer"), counted(run.errors, "error")
    jobs, of = counted(len(run.ids), "job"), counted(len(run.shards), "shard")
    screen.notice(f"vllava: {jobs} of {of}: {answers}, {errors}.")
    if run.errors:
        name = one_line(str(out))
        screen.notice(f"vllava: The same batch with --retry-errors and -o {name} tries the errors again.")


@dataclass(frozen=True, kw_only=True)
class ShardOutput:
    """The files that one shard of a batch left behind."""

    path: Path
    """The path that the user named: the output of -o, or the journal of a table."""
    journal: Path | None
    """The file with the rows; None if the shard has a list but no rows yet."""
    jobs: JobList | None
    """The list of jobs beside the output; None if there is none."""

    @classmethod
    def found(cls, path: Path) -> ShardOutput:
        """Looks for the files that belong to an output. Errors: LockedError, OutputError."""
        with as_output_error(path, "read"):
            output = path.with_name(path.name.removesuffix(".journal"))
            beside = output.with_name(f"{output.name}.journal")
            listing = list_path(output)
            journal = beside if beside.exists() else output
            jobs = JobList.read(listing) if listing.exists() else None
            has_begun = journal.exists() or not jobs
        if is_locked(journal):
            raise LockedError(f"{quoted(journal)} is being written by another vllava. Wait until it ends.")
        return cls(path=path, journal=journal if has_begun else None, jobs=jobs)

    def rows(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Yields (id, row) for each row. Errors: OutputError."""
        for number, row in enumerate(read_rows(self.journal) if self.journal else (), 1):
            id = id_of(row)
            if id is None:
                raise OutputError(
                    f"{quoted(self.path)} was not written by vllava batch: row {number} has no id. Name another file."
                )
            yield id, row


def shards_in(folder: Path) -> list[Path]:
    """Returns a batch's parts in a folder, sorted, also those that have only a list so far. Errors: OutputError."""
    with as_output_error(folder, "read"):
        names = {path.name.removesuffix(".jobs").removesuffix(".journal") for path in folder.iterdir()}
        return [folder / name for name in sorted(names) if PART.fullmatch(name)]


@dataclass(frozen=True, kw_only=True)
class MergedShards:
    """Shards in which each job has exactly one row."""

    shards: Sequence[ShardOutput]
    ids: Collection[bytes]
    errors: int
    """The number of rows that are errors."""
    stale_rows: int
    """The number of rows that are left out because no list has their id."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Reads the rows again, in the order of the shards. Errors: OutputError, also if a file has lost rows since."""
        awaited = set(self.ids)
        for shard in self.shards:
            for id, row in shard.rows():
                if id in awaited:
                    awaited.remove(id)
                    yield row
        if awaited:
            raise OutputError("The shards changed while they were read. Merge them again when nothing writes to them.")


def merged(shards: Sequence[ShardOutput]) -> MergedShards:
    """Checks that each job has one row. Errors: ShardError for two rows, none, or a missing shard; OutputError."""
    _check_lists(shards)
    awaited = {job.id for shard in shards if shard.jobs for job in shard.jobs.listed()}
    owners: dict[bytes, ShardOutput] = {}
    errors = stale_rows = 0
    for shard in shards:
        for id, row in shard.rows():
            if shard.jobs and id not in awaited:
                stale_rows += 1
            elif id in owners:
                names = " and ".join(dict.fromkeys((quoted(owners[id].path), quoted(shard.path))))
                job = _line(row.get("path"), row.get("question"))
                raise ShardError(f"This job has two rows, in {names}. Leave one of them out.\n{job}")
            else:
                owners[id] = shard
                errors += row.get("error") is not None
    missing = awaited - owners.keys()
    if missing:
        raise ShardError(_missing(shards, missing, len(awaited)))
    return MergedShards(shards=shards, ids=owners.keys(), errors=errors, stale_rows=stale_rows)


def _check_lists(shards: Sequence[ShardOutput]) -> None:
    """Raises a ShardError if the lists are of different runs, or if one of the run's shards is missing."""
    lists = [shard.jobs for shard in shards if shard.jobs]
    for other in lists[1:]:
        one = lists[0]
        if (one.of, one.all_jobs, one.checksum) != (other.of, other.all_jobs, other.checksum):
            raise ShardError(
                f"{quoted(one.path)} and {quoted(other.path)} are of different runs: "
                f"one has {counted(one.all_jobs, 'job')} in {counted(one.of, 'shard')}, the other {other.all_jobs:,} "
                f"others in {other.of:,}. Run all shards again, with the same clips, questions and settings."
            )
    of = lists[0].of if lists else 0
    absent = sorted(set(range(1, of + 1)) - {each.shard for each in lists})
    if len(absent) > len(shards) - len(lists):
        names = first_of([f"{number}/{of}" for number in absent])
        raise ShardError(
            f"Of the shards, {names} {'is' if len(absent) == 1 else 'are'} missing. Name all {of:,} files."
        )


def _missing(shards: Sequence[ShardOutput], missing: set[bytes], job_count: int) -> str:
    """Writes the message about missing rows: the shards to run again, and the first jobs without a row."""
    names: list[str] = []
    lines: list[str] = []
    for shard in shards:
        if shard.jobs:
            lacking = (job for job in shard.jobs.listed() if job.id in missing)
            first = [_line(job.path, job.question) for job in islice(lacking, MOST_NAMED - len(lines))]
            count = len(first) + sum(1 for _ in lacking)
            lines += first
            names += [f"{shard.jobs.shard}/{shard.jobs.of} ({quoted(shard.path)}, {count:,} of them)"] if count else []
    more = [f"  and {len(missing) - len(lines):,} more"] if len(missing) > len(lines) else []
    lack = f"{len(missing):,} of {job_count:,} jobs {'has' if len(missing) == 1 else 'have'} no row"
    return "\n".join([f"{lack}. Run their shards again: {first_of(names)}.", *lines, *more])


def _line(path: object, question: object) -> str:
    """Formats a job as one line of a message: ("a b.mp4", "What\\nis it?") → "  a b.mp4: What is it?"."""
    words = " ".join(str(question).split())
    asked = words if len(words) <= _MOST_LETTERS else f"{words[:_MOST_LETTERS]}…"
    return f"  {' '.join(str(path).split())}: {asked}"


def mismatches(jobs: Sequence[Job], ids: Iterable[bytes], before: Collection[bytes]) -> list[str]:
    """Returns sentences about jobs without exactly one row and rows that belong to no job, with the first ten of each.

    `ids` are the ids of all rows now, `before` the ids of the rows that were there when the run began.
    """
    is_seen = dict.fromkeys((bytes.fromhex(job.id) for job in jobs), False)
    twice, foreign = [], []
    for id in ids:
        was_seen = is_seen.get(id)
        if was_seen:
            twice.append(id.hex())
        elif was_seen is None and id not in before:
            foreign.append(id.hex())
        is_seen[id] = True
    missing = [
        f"{job.id} {quoted(Path(job.path))} {job.question!r}" for job in jobs if not is_seen[bytes.fromhex(job.id)]
    ]
    kinds = (("without a row", missing), ("with two rows", twice), ("of no job", foreign))
    return [f"{len(found):,} {what}: {first_of(found, ' …')}." for what, found in kinds if found]


def first_of(names: Sequence[str], rest: str = "", *, most: int = MOST_NAMED) -> str:
    """Joins the first `most` names and counts the others: "a, b and 3 more"; `rest` is put before " and"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f"{rest} and {more:,} more" if more > 0 else "")


@dataclass(frozen=True, kw_only=True)
class StaleRows:
    """The ids of rows whose clips have changed, and of rows whose clips were only touched."""

    changed: Collection[str] = ()
    touched: Mapping[str, Job] = field(default_factory=dict)
    """The current job for each row whose clip changed only in its modification time."""

    def settled(self, rows: Iterable[Row], *, is_pruning: bool) -> Iterator[Row]:
        """Yields the rows to keep: rows of touched clips get new ids; --prune leaves out rows of changed clips."""
        for row in rows:
            if job := self.touched.get(row["id"]):
                yield {**row, "id": job.id, CLIP_STATE: job.state}
            elif not is_pruning or row["id"] not in self.changed:
                yield row

    def report(self, path: Path, screen: Screen, *, is_pruning: bool) -> None:
        """Reports what became of the stale rows in the file."""
        for stale_rows, what, fate in (
            (self.touched, "clips whose time of change differs, but not their content", "kept"),
            (self.changed, "clips that have changed since", "dropped" if is_pruning else "kept, --prune drops them"),
        ):
            if stale_rows:
                screen.notice(f"vllava: {counted(len(stale_rows), 'row')} in {quoted(path)} of {what}: {fate}.")


class _Lone(NamedTuple):
    """A row whose id no job has; `print` is the fingerprint of its clip, None if the row has none."""

    id: str
    state: object
    print: Fingerprint | None


def stale(rows: Iterable[Row], jobs: Collection[Job], every: Sequence[Job], signature: str) -> StaleRows:
    """Finds the stale rows; `jobs` are those of this shard, `every` those of all shards.

    Rows of other clips, questions or settings are not stale, nor are rows of a clip that is missing now. A clip is
    hashed only where its hash decides.
    """
    current = {job.id for job in every}
    known: set[str] = set()
    asked: dict[tuple[str, str], dict[str, _Lone]] = defaultdict(dict)
    """The rows about each clip and question, by their ids: one for each window."""
    states: dict[str, list[object]] = defaultdict(list)
    """The states that each clip had, by its path: few, however many rows there are."""
    for row in rows:
        known.add(row["id"])
        if row["id"] not in current:
            lone = _Lone(row["id"], row.get(CLIP_STATE), _print_of(row))
            asked[row["path"], row["question"]][lone.id] = lone
            if lone.state not in states[row["path"]]:
                states[row["path"]].append(lone.state)
    free = {job.id for job in jobs} - known if asked else set()
    changed, touched = set[str](), dict[str, Job]()
    is_same = cache(lambda path, print: differs(Path(path), print) is None)
    for job in every if asked else ():
        lones = asked.get((job.path, job.question)) if job.size >= 0 else None
        for state in states[job.path] if lones else ():
            old = (lones or {}).get(job.id_at(state, signature))
            if old is None:
                continue
            # A clip of another size isn't read.
            is_alike = old.print is not None and isinstance(old.state, dict) and old.state.get("bytes") == job.size
            if job.id in free and is_alike and is_same(job.path, old.print) and not has_changed(job):
                free.remove(job.id)
                touched[old.id] = job
            else:
                changed.add(old.id)
    return StaleRows(changed=changed, touched=touched)


def _print_of(row: Row) -> Fingerprint | None:
    """Returns the fingerprint of a row's clip; None for an error and for a clip that wasn't hashed."""
    try:
        (clip,) = row[MADE_WITH]["clips"]
        return Fingerprint(bytes=clip["bytes"], sha256=clip["sha256"]) if clip["sha256"] else None
    except (KeyError, TypeError, ValueError):
        return None
