"""Jobs and their rows, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.batch.parts import Reading, answer
from vllava_cli.batch.executors.ray_actors import StageSetup
from vllava_cli.batch.jobs import Job, JobRequest, make_jobs
from vllava_cli.batch.output import Output, opened
from vllava_cli.batch.request import BatchRequest, Destination, Inputs, RayOptions
from vllava_cli.batch.rows import JobError, Result, RunInfo, row_of
from vllava_cli.demo import CHECKPOINT
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import Framing, Sampling, Source, Wishes

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
