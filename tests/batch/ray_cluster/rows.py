"""Jobs and their rows, without a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.batch.parts import answer
from vllava_cli.batch.jobs import Job, Wanted, made
from vllava_cli.batch.ray_cluster.setup import Setup
from vllava_cli.batch.request import Batch, Inputs
from vllava_cli.batch.rows import About, Fault, Outcome, row_of
from vllava_cli.demo import CHECKPOINT
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import Framing, Sampling, Source, Wishes

ABOUT = About(model="demo", revision=None)
RECIPE = read_video_recipe(CHECKPOINT)


def jobs(count: int, *, question: str = "Why?", **fields: object) -> list[Job]:
    return made([Wanted(path=f"{number}.mp4", question=question, fields=fields) for number in range(count)], "settings")


def rows(of: Iterable[Job], *, failing: Iterable[str] = (), about: About = ABOUT) -> list[dict[str, Any]]:
    """An answer each, or an error for those paths."""
    bad = set(failing)
    fault = Fault(kind="unreadable", message="It can't be read.")
    return [
        row_of(Outcome(job=job, fault=fault) if job.path in bad else Outcome(job=job, answer=answer()), about)
        for job in of
    ]


def batch_of(**changes: Any) -> Batch:
    """By the demo model."""
    plain = {"inputs": Inputs(), "wishes": Wishes(model="demo"), "framing": Framing(), "sampling": Sampling()}
    return Batch(**(plain | changes))


def setup_of(folder: Path, batch: Batch | None = None, *, allowed: tuple[str, ...] = ()) -> Setup:
    """With a driver in that folder."""
    return Setup(
        batch=batch or batch_of(),
        source=Source(model="demo", folder=CHECKPOINT),
        about=ABOUT,
        longest=4,
        folder=str(folder),
        recipe=RECIPE,
        allowed=allowed,
    )
