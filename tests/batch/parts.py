"""Small parts for the tests of a batch: jobs, answers, results, and a screen that can be read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllava_cli.answers import Answer, Sampling, Stats
from vllava_cli.batch.executors.ray_actors import StageSetup
from vllava_cli.batch.jobs import ClipJobs, Job, JobRequest, make_jobs
from vllava_cli.batch.output import Output, opened
from vllava_cli.batch.request import BatchRequest, Destination, Inputs, RayOptions
from vllava_cli.batch.rows import ErrorKind, JobError, Result, RunInfo, row_of
from vllava_cli.commands.provenance import Loaded, Making, ShownClip
from vllava_cli.demo import CHECKPOINT
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import Framing, Source, Wishes
from vllava_cli.screen import Screen

STATS = Stats(prompt_tokens=150, reused_tokens=0, new_tokens=7, first_token_s=0.1, decode_s=0.2)


def job(path: str = "a.mp4", question: str = "Why?", *, id: str | None = None, **fields: object) -> Job:
    """A job about a file that isn't there; its id is made of both words."""
    key = hashlib.sha256(f"{path} {question}".encode(errors="surrogateescape")).hexdigest()[:32]
    return Job(id=id or key, path=path, question=question, size=-1, mtime_ns=-1, fields=fields)


def clip_jobs(path: str, *questions: str) -> ClipJobs:
    return ClipJobs(jobs=tuple(job(path, question) for question in questions or ("Why?",)))


def answer(text: str = "A dog.", *, probabilities: tuple[float, ...] = (), stats: Stats = STATS) -> Answer:
    return Answer(text=text, stop_reason="end", stats=stats, probabilities=probabilities)


LOADED = Loaded(
    model="demo",
    revision=None,
    device="cpu",
    precision="fp32",
    dtype="float32",
    quantisation=None,
    attention="sdpa",
    versions=(("vllava", "1.0"), ("torch", "2.13.0")),
)
MAKING = Making(
    loaded=LOADED,
    fit="crop",
    clips=(ShownClip(framing=Framing(), bytes=1234, sha256="0123456789abcdef" * 4),),
    sampling=Sampling(temperature=0.5, seed=7),
    prompt_sha256="fedcba9876543210" * 4,
    answer_ids=(319, 11203, 29889),
)


def good(about: Job | None = None) -> Result:
    return Result(job=about or job(), answer=answer())


def bad(about: Job | None = None, kind: ErrorKind = "unreadable") -> Result:
    return Result(job=about or job(), error=JobError(kind=kind, message=f"It is {kind}."))


class Terminal(io.StringIO):
    """80x24, as it doesn't tell its size."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@dataclass
class Reading:
    """A screen, and what it wrote."""

    out: io.StringIO = field(default_factory=io.StringIO)
    err: io.StringIO = field(default_factory=io.StringIO)
    is_quiet: bool = False
    is_verbose: bool = False

    def screen(self) -> Screen:
        return Screen(out=self.out, err=self.err, is_quiet=self.is_quiet, is_verbose=self.is_verbose)

    @property
    def said(self) -> tuple[str, str]:
        """(stdout, stderr)."""
        return self.out.getvalue(), self.err.getvalue()


ABOUT = RunInfo(model="demo", revision=None)
RECIPE = read_video_recipe(CHECKPOINT)


def jobs(count: int, *, question: str = "Why?", **fields: object) -> list[Job]:
    return make_jobs(
        [JobRequest(path=f"{number}.mp4", question=question, fields=fields) for number in range(count)], "settings"
    )


def rows(of: Iterable[Job], *, failing: Iterable[str] = (), about: RunInfo = ABOUT) -> list[dict[str, Any]]:
    """An answer each, or an error for those paths."""
    bad = set(failing)
    fault = JobError(kind="unreadable", message="It can't be read.")
    return [
        row_of(Result(job=job, error=fault) if job.path in bad else Result(job=job, answer=answer()), about)
        for job in of
    ]


def batch_of(**changes: Any) -> BatchRequest:
    """By the demo model."""
    plain = {"inputs": Inputs(), "wishes": Wishes(model="demo"), "framing": Framing(), "sampling": Sampling()}
    return BatchRequest(**(plain | changes))


def setup_of(folder: Path, batch: BatchRequest | None = None, *, allowed: tuple[str, ...] = ()) -> StageSetup:
    """With a driver in that folder."""
    return StageSetup(
        batch=batch or batch_of(ray=RayOptions(allowed=allowed)),
        source=Source(model="demo", folder=CHECKPOINT),
        longest=4,
        folder=str(folder),
        recipe=RECIPE,
    )


def opened_output(
    destination: Destination, of: Sequence[Job], about: RunInfo = ABOUT, *, is_dry: bool = False
) -> AbstractContextManager[Output]:
    return opened(destination, of, about, Reading().screen(), is_dry=is_dry)


def put(out: Output, rows: Iterable[dict[str, Any]]) -> None:
    """All at once, as a cluster gives them."""
    for row in rows:
        out.put(row)
    out.flush()
