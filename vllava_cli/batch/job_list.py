"""The list of a shard's jobs, FILE.jobs beside the output FILE: JSON lines, whole, there before the first answer.

By it `vllava merge` knows what must have a row. The lists of one run agree in `of`, `all_jobs` and `checksum`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from vllava_cli.errors import OutputError, quoted
from vllava_cli.nouns import counted
from vllava_cli.storage import files
from vllava_cli.storage.jsonl import line_of, read_rows

ID_DIGITS = 32


class Job(Protocol):
    """What a list needs of a job."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str | Path: ...
    @property
    def question(self) -> str: ...


class Shard(Protocol):
    """What a list needs of a shard: the `number`-th, from 1, `of` so many; `has` says whose ids are in it."""

    @property
    def number(self) -> int: ...
    @property
    def of(self) -> int: ...
    def has(self, id: str, /) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedJob:
    """A row of a list; the id as 16 bytes."""

    id: bytes
    path: str
    question: str


@dataclass(frozen=True, kw_only=True)
class JobList:
    """The first row of a list."""

    path: Path
    shard: int
    of: int
    jobs: int
    """In this list."""
    all_jobs: int
    """In the lists of all shards."""
    checksum: str
    """The sum of the ids of all shards, in hex digits: as many jobs as in another run need not be the same ones."""

    def listed(self) -> Iterator[ListedJob]:
        """Its jobs, read anew each time. Errors: OutputError."""
        rows = read_rows(self.path)
        next(rows, None)
        count = 0
        for count, row in enumerate(rows, 1):
            yield _job(row, self.path, count + 1)
        if count != self.jobs:
            _refuse(self.path, f"it has {counted(count, 'job')} instead of {self.jobs:,}")


def path_of(output: Path) -> Path:
    """a/b.jsonl → a/b.jsonl.jobs"""
    return output.with_name(f"{output.name}.jobs")


def id_of(row: Mapping[str, object]) -> bytes | None:
    """The 16 bytes of a row's id, None where it has none."""
    text = row.get("id")
    if not isinstance(text, str) or len(text) != ID_DIGITS:
        return None
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(found) * 2 == ID_DIGITS else None


def write(path: Path, jobs: Collection[Job], shard: Shard) -> None:
    """Writes the list of one shard; `jobs` are those of all. Errors: OutputError."""
    its = [job for job in jobs if shard.has(job.id)]
    header = {"type": "jobs", "shard": shard.number, "of": shard.of, "jobs": len(its), **_all(jobs)}
    files.atomic_write(path, map(line_of, _rows(header, its)))


def write_all(paths: Sequence[Path], jobs: Collection[Job]) -> None:
    """Writes the lists of all shards, one for each path. Errors: OutputError."""
    of, every = len(paths), _all(jobs)
    shares: list[list[Job]] = [[] for _ in paths]
    for job in jobs:
        shares[int(job.id, 16) % of].append(job)
    for number, (path, its) in enumerate(zip(paths, shares, strict=True), 1):
        header = {"type": "jobs", "shard": number, "of": of, "jobs": len(its), **every}
        files.atomic_write(path, map(line_of, _rows(header, its)))


def read(path: Path) -> JobList:
    """Errors: OutputError where it can't be read or is no list."""
    header = next(read_rows(path), {})
    numbers = [header.get(name) for name in ("shard", "of", "jobs", "all_jobs")]
    shard, of, jobs, all_jobs = (number if type(number) is int else -1 for number in numbers)
    checksum = header.get("checksum")
    is_sound = header.get("type") == "jobs" and 1 <= shard <= of and 0 <= jobs <= all_jobs
    if not is_sound or not isinstance(checksum, str):
        _refuse(path, "its first row doesn't say whose jobs it lists")
    return JobList(path=path, shard=shard, of=of, jobs=jobs, all_jobs=all_jobs, checksum=checksum)


def _all(jobs: Collection[Job]) -> dict[str, object]:
    """What all lists of a run agree in."""
    checksum = sum(int(job.id, 16) for job in jobs) % (1 << 128)
    return {"all_jobs": len(jobs), "checksum": f"{checksum:032x}"}


def _rows(header: Mapping[str, object], jobs: Iterable[Job]) -> Iterator[Mapping[str, object]]:
    yield header
    for job in jobs:
        yield {"id": job.id, "path": str(job.path), "question": job.question}


def _job(row: Mapping[str, object], path: Path, line: int) -> ListedJob:
    id, clip, question = id_of(row), row.get("path"), row.get("question")
    if id is None or not isinstance(clip, str) or not isinstance(question, str):
        _refuse(path, f"line {line} is no job")
    return ListedJob(id=id, path=clip, question=question)


def _refuse(path: Path, fault: str) -> NoReturn:
    raise OutputError(f"{quoted(path)} can't be used as a list of jobs: {fault}. Run that shard of vllava batch again.")
