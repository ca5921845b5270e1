"""Rows of clips that are others now than when they were asked about: how many, and what becomes of them.

A clip with another time of change, but as many bytes and the same SHA-256 as its row says, is the same clip: its row
becomes that of the job that asks the same now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vllava_cli.batch.jobs import CLIP_STATE, Job, has_changed
from vllava_cli.commands.provenance import MADE_WITH
from vllava_cli.errors import quoted
from vllava_cli.media.fingerprint import Fingerprint, differs
from vllava_cli.screen import Screen

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StaleRows:
    """Rows by their ids."""

    changed: Collection[str] = ()
    touched: Mapping[str, Job] = field(default_factory=dict)
    """Only the time of change of their clips is another; with the jobs that they are rows of."""

    def settled(self, rows: Iterable[Row], *, is_pruning: bool) -> Iterator[Row]:
        """All rows with the ids of now; those of changed clips only where they aren't pruned."""
        for row in rows:
            if job := self.touched.get(row["id"]):
                yield {**row, "id": job.id, CLIP_STATE: job.state}
            elif not is_pruning or row["id"] not in self.changed:
                yield row

    def report(self, path: Path, screen: Screen, *, is_pruning: bool) -> None:
        """Says what became of the stale rows in the file."""
        end = ("it was", "they were") if is_pruning else ("--prune drops it", "--prune drops them")
        fate = tuple(f"{words} dropped" if is_pruning else words for words in end)
        for count, what, ends in (
            (len(self.touched), "has another time of change and the same bytes", ("it counts", "they count")),
            (len(self.changed), "has changed since", fate),
        ):
            if count == 1:
                screen.notice(f"vllava: 1 row in {quoted(path)} is of a clip that {what}: {ends[0]}.")
            elif count:
                clips = what.replace("has ", "have ", 1)
                screen.notice(f"vllava: {count:,} rows in {quoted(path)} are of clips that {clips}: {ends[1]}.")


class _Lone(NamedTuple):
    """A row whose id is no job's; the print is that of its clip, as far as it is known."""

    id: str
    state: object
    print: Fingerprint | None


def stale(rows: Iterable[Row], jobs: Collection[Job], every: Sequence[Job], signature: str) -> StaleRows:
    """Finds the stale rows; `jobs` are those of this shard, `every` those of all shards.

    Rows of other clips, questions and settings aren't, nor are those of a clip that is missing now. Where it decides, a
    clip is hashed.
    """
    current = {job.id for job in every}
    known: set[str] = set()
    asked: dict[tuple[str, str], list[_Lone]] = defaultdict(list)
    for row in rows:
        known.add(row["id"])
        if row["id"] not in current:
            asked[row["path"], row["question"]].append(_Lone(row["id"], row.get(CLIP_STATE), _print_of(row)))
    free = {job.id for job in jobs} - known if asked else set()
    changed, touched = set[str](), dict[str, Job]()
    is_same: dict[tuple[str, Fingerprint], bool] = {}
    for job in every if asked else ():
        for lone in asked.get((job.path, job.question), ()):
            if job.size < 0 or job.id_at(lone.state, signature) != lone.id:
                continue
            if job.id in free and _is_same(job, lone, is_same):
                free.remove(job.id)
                touched[lone.id] = job
            else:
                changed.add(lone.id)
    return StaleRows(changed=changed, touched=touched)


def _is_same(job: Job, lone: _Lone, known: dict[tuple[str, Fingerprint], bool]) -> bool:
    """True if the clip has the bytes that its row says; a clip of another size isn't read."""
    if lone.print is None or not isinstance(lone.state, dict) or lone.state.get("bytes") != job.size:
        return False
    key = job.path, lone.print
    if key not in known:
        known[key] = differs(Path(job.path), lone.print) is None and not has_changed(job)
    return known[key]


def _print_of(row: Row) -> Fingerprint | None:
    """None for an error, and where the clip wasn't hashed."""
    try:
        (clip,) = row[MADE_WITH]["clips"]
        return Fingerprint(bytes=clip["bytes"], sha256=clip["sha256"]) if clip["sha256"] else None
    except (KeyError, TypeError, ValueError):
        return None
