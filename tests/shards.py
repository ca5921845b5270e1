"""What the shards of a batch leave behind, as files, without a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.batch.parts import job
from vllava_cli.batch.jobs import Job, Shard, list_path, write_lists
from vllava_cli.storage.jsonl import line_of


def asking(path: str, question: str = "What happens?") -> Job:
    return job(path, question)


def jobs(count: int) -> list[Job]:
    return [asking(f"{number}.mp4") for number in range(count)]


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
    parts = [Shard(number=number, of=of) for number in range(1, of + 1)]
    for part in parts:
        path = Path(f"{part.number}.jsonl")
        write_rows(path, (row(job) for job in all_jobs if part.has(job.id)))
        write_lists({part.number: list_path(path)}, of, all_jobs)
    return [Path(f"{part.number}.jsonl") for part in parts]
