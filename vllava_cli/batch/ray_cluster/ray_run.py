"""`vllava batch --ray`: the same jobs, ids and rows, answered by a cluster; this process hands out and writes down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from vllava_cli.batch import progress
from vllava_cli.batch.output import Destination
from vllava_cli.batch.progress import Tally
from vllava_cli.batch.ray_cluster import parts
from vllava_cli.batch.ray_cluster.ray_request import ClusterBatch
from vllava_cli.batch.ray_cluster.ray_work import Work
from vllava_cli.batch.ray_cluster.reconcile import mismatch
from vllava_cli.batch.ray_cluster.setup import Setup
from vllava_cli.batch.request import Inputs
from vllava_cli.batch.rows import About
from vllava_cli.batch.run import about_of, jobs_of, source_of, unknown_of
from vllava_cli.errors import INTERRUPTED, UsageError
from vllava_cli.interrupt import sigint_flag
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.media.remote.policy import allowed, scheme_of
from vllava_cli.media.remote.urls import without_secrets
from vllava_cli.screen import Screen

if TYPE_CHECKING:
    from vllava_cli.batch.jobs import Job
    from vllava_cli.batch.ray_cluster.parts import Parts
    from vllava_cli.nouns import Source


def run(cluster: ClusterBatch, screen: Screen) -> int:
    """Returns the exit code: 0, 1 if a job has failed or lacks its row, 130 after Ctrl-C. Errors: any VllavaError."""
    batch, tally = cluster.batch, Tally()
    source = source_of(batch, screen)
    about = about_of(batch, source)
    jobs, complaints = jobs_of(batch, about, screen)
    _check_schemes(cluster, jobs)
    with (
        parts.opened(cluster.output, jobs, about, is_dry=batch.is_dry) as out,
        sigint_flag(is_early=lambda: not tally.has_begun) as is_interrupted,
    ):
        todo = [job for job in jobs if not out.is_done(job)]
        tally.total, tally.skipped = len(jobs), len(jobs) - len(todo)
        tally.skipped_errors = sum(out.had_failed(job) for job in jobs)
        if batch.is_dry:
            tally.unknown = unknown_of(batch, source, has_rows=bool(out.before))
            progress.tell_plan(tally, None, screen)
            return 1 if complaints else 0
        setup = _setup(cluster, source, about, todo)
        work = Work(cluster=cluster, setup=setup, out=out, tally=tally, screen=screen, is_interrupted=is_interrupted)
        with suppress(KeyboardInterrupt):
            work.do(todo)
        out.finish(jobs)
        is_cut = is_interrupted() and tally.left > 0
        progress.tell_end(tally, screen, is_interrupted=is_cut, can_resume=True)
        if is_cut:
            return INTERRUPTED
        is_whole = tally.left > 0 or _is_whole(out, jobs, screen)
    return 1 if complaints or tally.failed or not is_whole else 0


def _check_schemes(cluster: ClusterBatch, jobs: Sequence[Job]) -> None:
    """What isn't allowed is told before a cluster is asked, once. Errors: UsageError."""
    may = allowed(cluster.allowed).schemes
    for job in jobs:
        scheme = scheme_of(job.path) if "://" in job.path else None
        if scheme and scheme not in may:
            raise UsageError(f"{without_secrets(job.path)} may not be fetched: add --allow {scheme}, if it is meant.")


def _is_whole(out: Parts, jobs: Sequence[Job], screen: Screen) -> bool:
    """Whether what is kept has each job once; where it hasn't, says what is wrong with it."""
    with screen.waiting("Reconciling the rows with the jobs"):
        found = mismatch(jobs, out.ids(), out.before)
    for sentence in found.told():
        screen.error(f"The rows don't match the jobs: {sentence}")
    return not found


def _setup(cluster: ClusterBatch, source: Source, about: About, todo: Sequence[Job]) -> Setup:
    """Without what only this process needs: the words that name a million clips, and where rows go.

    Errors: CheckpointError.
    """
    return Setup(
        batch=replace(cluster.batch, inputs=Inputs(), destination=Destination()),
        source=source,
        about=about,
        longest=max((len(job.question) for job in todo), default=0),
        folder=os.getcwd(),  # noqa: PTH109  (its name is all that is needed)
        recipe=read_video_recipe(source.folder),
        allowed=cluster.allowed,
    )
