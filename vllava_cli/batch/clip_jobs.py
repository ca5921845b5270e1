"""What there is to do, by clips: all questions about one clip are answered with one decode and one look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.batch.jobs import Job


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A clip and the jobs about it, at least one, in their order."""

    jobs: tuple[Job, ...]

    @property
    def path(self) -> Path:
        return Path(self.jobs[0].path)

    def questions(self) -> list[tuple[str, tuple[Job, ...]]]:
        """Each question once, with the jobs that ask it: jobs "a", "b", "a" → ("a", two jobs), ("b", one)."""
        asked: dict[str, list[Job]] = {}
        for job in self.jobs:
            asked.setdefault(job.question, []).append(job)
        return [(question, tuple(jobs)) for question, jobs in asked.items()]


def units_of(jobs: Iterable[Job]) -> list[Unit]:
    """In the order in which the clips come first: jobs about a, b, a → (a, a), (b)."""
    return list(each_unit(jobs))


def each_unit(jobs: Iterable[Job]) -> Iterator[Unit]:
    """The same, for a million clips: each is made when it is its turn."""
    by_path: dict[str, list[Job]] = {}
    for job in jobs:
        about = by_path.get(job.path)
        if about is None:
            by_path[job.path] = [job]  # a list that grows by `append` has room for four at once
        else:
            about.append(job)
    for about in by_path.values():
        yield Unit(jobs=tuple(about))
