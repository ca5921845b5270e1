"""`vllava merge`: the outputs of a batch's shards become one, once it is sure that every job has its one row."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllava_cli.batch.shards import Shard, listed, merged, shards_in
from vllava_cli.batch.tables import format_of
from vllava_cli.errors import OutputError, UsageError, quoted
from vllava_cli.nouns import counted
from vllava_cli.screen import Screen, one_line
from vllava_cli.storage import files
from vllava_cli.storage.files import as_output_error
from vllava_cli.storage.journal import Journal
from vllava_cli.storage.jsonl import line_of
from vllava_cli.storage.objects import Objects, is_url, rows_into, scratch


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What one `vllava merge` was told."""

    out: Path
    shards: tuple[str, ...]
    """Files, folders and URLs."""
    is_overwriting: bool = False


def run(merge: Merge, screen: Screen) -> int:
    """Writes the whole or nothing; returns 0. Errors: UsageError, LockedError, ShardError, OutputError."""
    _check_out(merge)
    with ExitStack() as fetched:
        paths = [path for name in merge.shards for path in _paths(name, fetched, screen)]
        shards = [Shard.found(path) for path in paths]
        _check_files(merge.out, shards)
        with screen.waiting(f"Reading {counted(len(shards), 'shard')}"):
            whole_run = merged(shards)
        counts: Counter[str] = Counter()
        with screen.waiting(f"Writing {merge.out}"):
            _write(merge.out, _counted(whole_run.rows(), counts))
        _tell(merge.out, shards, whole_run.stale_rows, counts, screen)
    return 0


def _paths(name: str, fetched: ExitStack, screen: Screen) -> list[Path]:
    """The shard itself, those in a folder, or a run below a URL, fetched for as long as it is needed."""
    if is_url(name):
        folder = fetched.enter_context(scratch())
        with screen.waiting(f"Fetching {name}"):
            return [rows_into(Objects(name), folder)]
    path = Path(name)
    if not os.path.isdir(path):
        return [path]
    found = shards_in(path)
    if not found:
        raise OutputError(f"{quoted(path)} has no parts of a batch. Name the folder that -o had, or the files.")
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


def _check_files(out: Path, shards: Sequence[Shard]) -> None:
    """Raises a UsageError where one file is named twice, as OUT or as a SHARD, also under different names."""
    taken = {_identity(out)}
    for shard in shards:
        files = {_identity(path) for path in (shard.path, shard.journal, shard.jobs and shard.jobs.path) if path}
        if _identity(out) in files:
            raise UsageError(f"{quoted(out)} is one of the shards' files and can't be the output. Name another one.")
        if files & taken:
            raise UsageError(f"{quoted(shard.path)} is named twice. Name each shard once.")
        taken |= files


def _identity(path: Path) -> object:
    """What two names of one file have in common."""
    with as_output_error(path, "read"):
        facts = path.stat() if path.exists() else None
        return (facts.st_dev, facts.st_ino) if facts else os.path.realpath(path)


def _counted(rows: Iterable[Mapping[str, Any]], counts: Counter[str]) -> Iterator[Mapping[str, Any]]:
    """The same rows; `counts` gets how many are answers, how many errors."""
    for row in rows:
        counts["answer" if row.get("error") is None else "error"] += 1
        yield row


def _write(out: Path, rows: Iterator[Mapping[str, Any]]) -> None:
    """Under the lock of the file that is replaced, so that no batch may be writing to it."""
    if out.exists():
        with Journal.open(out) as journal:
            journal.rewrite(rows)
    else:
        files.atomic_write(out, map(line_of, rows))


def _tell(out: Path, shards: Sequence[Shard], stale_rows: int, counts: Counter[str], screen: Screen) -> None:
    bare = listed([one_line(str(shard.path)) for shard in shards if not shard.jobs])
    if bare:
        screen.notice(f"vllava: No list of jobs, .jobs, is beside {bare}: jobs without a row can't be seen.")
    if stale_rows:
        screen.notice(f"vllava: {counted(stale_rows, 'row')} of clips that changed since, or of other runs, left out.")
    jobs, of = counted(counts.total(), "job"), counted(len(shards), "shard")
    answers, errors = counted(counts["answer"], "answer"), counted(counts["error"], "error")
    screen.notice(f"vllava: {jobs} of {of}: {answers}, {errors}.")
    if counts["error"]:
        name = one_line(str(out))
        screen.notice(f"vllava: The same batch with --retry-errors and -o {name} tries the errors again.")
