"""What is simulated, as values: so many jobs, service times, a cluster. Every process of a run makes the same of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vllava_cli.batch.jobs import Job, JobRequest, make_jobs, signature
from vllava_cli.batch.rows import RunInfo
from vllava_cli.commands.bench_report import read_record
from vllava_cli.engine.measuring.figures import Figure
from vllava_cli.errors import OutputError, quoted

ABOUT = RunInfo(model="simulated/no-model", revision="0" * 40)
QUESTIONS = ("What happens in this video?", "How many people are seen?", "Where was it filmed?", "What is odd?")
CLIPS_PER_FOLDER = 1000
ERRORS_OF_1000, TWICE_OF_1000 = 10, 1


@dataclass(frozen=True, kw_only=True)
class Service:
    """Means; each clip takes from half to one and a half times as long."""

    decode_s: float = 2.0
    """One clip on one CPU, as for some minutes of 1080p."""
    answer_s: float = 0.5
    """One question on one engine, in a batch: what 7 billion parameters in fp16 may take on a large GPU."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The cluster; numbers of examples."""

    actors: int = 8
    decoders: int = 64
    batch: int = 16
    """Clips that an engine is given at once."""
    deaths: int = 8
    """Actors that end in the middle of a batch, or after its rows went out."""
    restart_s: float = 60.0
    """From the end of an actor until another one has its engine."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole simulated run."""

    jobs: int = 1_000_000
    questions: int = 1
    """About each clip."""
    service: Service = Service()
    fleet: Fleet = Fleet()

    @property
    def rows_at_once(self) -> int:
        """As ray_driver.MOST_TAKEN, or so few that a small run has steps as well."""
        return max(1, min(1000, self.jobs // 20))

    def wanted(self) -> Iterator[JobRequest]:
        """As a list of jobs gives them: "/data/clips/0012/clip-0012345.mp4"; there are no such files."""
        for number in range(self.jobs):
            clip, question = divmod(number, self.questions)
            path = f"/data/clips/{clip // CLIPS_PER_FOLDER:04}/clip-{clip:07}.mp4"
            yield JobRequest(path=path, question=QUESTIONS[question])

    def made(self) -> list[Job]:
        return make_jobs(self.wanted(), signature(ABOUT.model, ABOUT.revision, {"precision": "fp16"}))

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Plan:
        row = json.loads(text)
        return cls(**row | {"service": Service(**row["service"]), "fleet": Fleet(**row["fleet"])})


def fails(id: str) -> bool:
    """Whether the row of a job is an error: one in a hundred, the same ones in each run."""
    return int(id[:8], 16) % 1000 < ERRORS_OF_1000


def comes_twice(id: str) -> bool:
    return int(id[8:16], 16) % 1000 < TWICE_OF_1000


def of_bench(path: Path, service: Service, batch: int) -> Service:
    """The times that `vllava bench --save` measured, the others as they were. Errors: OutputError."""
    record = read_record(path)
    trial = next((trial for trial in record.trials if not trial.fault), None)
    lines, tokens = trial.lines if trial else (), record.task.new_tokens
    frames_s, first_ms, rate = _median(lines, "frames"), _median(lines, "first token"), _rate(lines, batch)
    if first_ms is None or rate is None:
        raise OutputError(f"{quoted(path)} doesn't say how long an answer takes. Name what vllava bench --save wrote.")
    measured = replace(service, answer_s=first_ms / 1000 + tokens / rate)
    return measured if frames_s is None else replace(measured, decode_s=frames_s)


def _rate(lines: tuple[Figure, ...], batch: int) -> float | None:
    """Tokens a second of all rows of a batch together, of the largest one that was measured up to this size."""
    sizes = {int(found[1]): line.name for line in lines if (found := re.fullmatch(r"decode, batch (\d+)", line.name))}
    fitting = [size for size in sorted(sizes) if size <= batch]
    return _median(lines, sizes[fitting[-1]]) if fitting else None


def _median(lines: tuple[Figure, ...], name: str) -> float | None:
    found = next((line.ours for line in lines if line.name == name), None)
    return found.median if found and found.median > 0 else None
