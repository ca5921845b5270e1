"""What there is to do, by clips: all questions about one clip are answered with one decode and one look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.jobs import Job


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A clip and the jobs about it, in their order."""

    path: Path
    jobs: tuple[Job, ...]

    def questions(self) -> list[tuple[str, tuple[Job, ...]]]:
        """Each question once, with the jobs that ask it: jobs "a", "b", "a" → ("a", two jobs), ("b", one)."""
        asked: dict[str, list[Job]] = {}
        for job in self.jobs:
            asked.setdefault(job.question, []).append(job)
        return [(question, tuple(jobs)) for question, jobs in asked.items()]


def units_of(jobs: Iterable[Job]) -> list[Unit]:
    """In the order in which the clips come first: jobs about a, b, a → (a, a), (b)."""
    by_path: dict[str, list[Job]] = {}
    for job in jobs:
        by_path.setdefault(job.path, []).append(job)
    return [Unit(path=Path(path), jobs=tuple(about)) for path, about in by_path.items()]
