"""After a run: the ids in the output, read again, held against the jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.batch.jobs import Job
from vllava_cli.errors import quoted

MOST_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """What is not as it should be: each job with one row, and no row that nobody asked for."""

    missing: tuple[Job, ...] = ()
    twice: tuple[str, ...] = ()
    """Ids."""
    foreign: tuple[str, ...] = ()
    """Ids of rows that came in this run and are no job's."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.twice or self.foreign)

    def told(self) -> Iterator[str]:
        """Sentences, with the first ten of each kind named."""
        names = [f"{job.id} {quoted(Path(job.path))} {job.question!r}" for job in self.missing]
        kinds = (("without a row", names), ("with two rows", self.twice), ("that nobody asked for", self.foreign))
        for what, found in kinds:
            if found:
                more = len(found) - MOST_NAMED
                rest = f" … and {more:,} more" if more > 0 else ""
                yield f"{len(found):,} {what}: {', '.join(found[:MOST_NAMED])}{rest}."


def mismatch(jobs: Sequence[Job], ids: Iterable[bytes], before: Collection[bytes]) -> Mismatch:
    """`ids` are those of all rows now, `before` those that were there when the run began."""
    is_seen = dict.fromkeys((bytes.fromhex(job.id) for job in jobs), False)
    twice, foreign = [], []
    for id in ids:
        was_seen = is_seen.get(id)
        if was_seen:
            twice.append(id.hex())
        elif was_seen is None and id not in before:
            foreign.append(id.hex())
        is_seen[id] = True
    missing = tuple(job for job in jobs if not is_seen[bytes.fromhex(job.id)])
    return Mismatch(missing=missing, twice=tuple(twice), foreign=tuple(foreign))
