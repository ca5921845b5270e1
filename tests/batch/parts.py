"""Small parts for the tests of a batch: jobs, answers, results, and a screen that can be read."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field

from vllava_cli.batch.jobs import ClipJobs, Job
from vllava_cli.batch.rows import ErrorKind, JobError, Result
from vllava_cli.commands.provenance import Loaded, Making, ShownClip
from vllava_cli.nouns import Answer, Framing, Sampling, Stats
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


GREEDY = Sampling()


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
