"""What the shards of a batch leave behind, as files, without a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.batch.jobs import list_path, write_lists
from vllava_cli.storage.jsonl import line_of


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as a list wants it."""

    path: str
    question: str = "What happens?"

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.path}\0{self.question}".encode(errors="surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The `number`-th shard, from 1, `of` so many."""

    number: int
    of: int

    def has(self, id: str) -> bool:
        return int(id, 16) % self.of == self.number - 1


def jobs(count: int) -> list[Job]:
    return [Job(path=f"{number}.mp4") for number in range(count)]


def row(job: Job, *, error: str | None = None) -> dict[str, object]:
    """What a batch writes, in short."""
    fault = {"kind": error, "message": "It failed."} if error else None
    answer = None if error else f"{job.path} moves."
    return {"id": job.id, "path": job.path, "question": job.question, "answer": answer, "error": fault}


def write_rows(path: Path, rows: Iterable[dict[str, object]]) -> Path:
    path.write_bytes(b"".join(map(line_of, rows)))
    return path


def write_shards(all_jobs: Sequence[Job], of: int) -> list[Path]:
    """1.jsonl with 1.jsonl.jobs, 2.jsonl with … in the current folder, each with all of its rows."""
    parts = [Part(number=number, of=of) for number in range(1, of + 1)]
    for part in parts:
        path = Path(f"{part.number}.jsonl")
        write_rows(path, (row(job) for job in all_jobs if part.has(job.id)))
        write_lists({part.number: list_path(path)}, of, all_jobs)  # type: ignore[arg-type]
    return [Path(f"{part.number}.jsonl") for part in parts]
