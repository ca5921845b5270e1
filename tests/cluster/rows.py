"""Jobs and their rows, without a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.commands.batch.parts import answer
from vllava_cli.commands.batch.rows import About, Fault, Outcome, row_of
from vllava_cli.demo import CHECKPOINT
from vllava_cli.jobs import Job, Wanted, made
from vllava_cli.media.recipe import read_video_recipe

ABOUT = About(model="demo", revision=None, precision="fp32")
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
