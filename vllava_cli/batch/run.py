"""`vllava batch`: finds the jobs, skips those that are done, answers the rest, a row for each whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

from vllava_cli.batch import job_files, job_list, output, progress
from vllava_cli.batch.clip_jobs import units_of
from vllava_cli.batch.columns import check_fields, further_fields
from vllava_cli.batch.jobs import Job, Wanted, made, settings_of, signature
from vllava_cli.batch.progress import Tally
from vllava_cli.batch.request import Batch, Inputs
from vllava_cli.batch.rows import About
from vllava_cli.batch.work import Work
from vllava_cli.errors import INTERRUPTED, UsageError
from vllava_cli.interrupt import sigint_flag
from vllava_cli.media import inputs
from vllava_cli.media.remote.policy import scheme_of
from vllava_cli.media.remote.urls import without_secrets
from vllava_cli.screen import Screen
from vllava_cli.times import BEGAN_S, Stopwatch

if TYPE_CHECKING:
    from vllava_cli.nouns import Source


def run(batch: Batch, screen: Screen) -> int:
    """Returns the exit code: 0, 1 if a job has failed, 130 after Ctrl-C. Errors: any VllavaError."""
    watch = Stopwatch(began_s=BEGAN_S)
    watch.lap("start")
    code = _run(batch, screen, watch)
    watch.lap("finishing")
    screen.detail(f"took {watch.account()}.")
    return code


def _run(batch: Batch, screen: Screen, watch: Stopwatch) -> int:
    tally = Tally()
    source = source_of(batch, screen)
    about = about_of(batch, source)
    every, complaints = jobs_of(batch, about, screen)
    jobs = [job for job in every if batch.shard.has(job.id)] if batch.shard else every
    _check_local(jobs)
    opening = (
        nullcontext(output.foreseen(batch.destination))
        if batch.is_dry
        else output.opened(batch.destination, jobs, about, screen, every=every)
    )
    with opening as out, sigint_flag(is_early=lambda: not tally.has_begun) as is_interrupted:
        todo = [job for job in jobs if not out.is_done(job)]
        tally.total, tally.skipped = len(jobs), len(jobs) - len(todo)
        tally.skipped_errors = sum(out.had_failed(job) for job in jobs)
        tally.unknown = unknown_of(batch, source, has_rows=bool(out.before))
        work = Work(
            batch=batch,
            source=source,
            about=about,
            out=out,
            tally=tally,
            screen=screen,
            is_interrupted=is_interrupted,
            watch=watch,
        )
        watch.lap("jobs")
        try:
            work.do(units_of(todo))
        except KeyboardInterrupt:
            if not batch.is_dry:
                progress.tell_end(tally, screen, is_interrupted=True, can_resume=out.is_kept)
            return INTERRUPTED
        out.finish(jobs)
    is_cut = is_interrupted() and (tally.left > 0 or batch.is_dry)
    if not batch.is_dry:
        progress.tell_end(tally, screen, is_interrupted=is_cut, can_resume=out.is_kept)
    return INTERRUPTED if is_cut else 1 if complaints or tally.failed else 0


def _check_local(jobs: Iterable[Job]) -> None:
    """Errors: UsageError for a URL."""
    for job in jobs:
        scheme = scheme_of(job.path) if "://" in job.path else None
        if scheme:
            raise UsageError(f"{without_secrets(job.path)} is a URL: add --ray --allow {scheme}, or copy it here.")


def source_of(batch: Batch, screen: Screen) -> Source:
    """The checkpoint; a dry run looks for it on this disk alone. Errors: any VllavaError."""
    from vllava_cli.engine.adapter import foreseen, locate

    if batch.is_dry:
        return foreseen(batch.wishes, screen.log)
    return locate(batch.wishes, screen.log)


def unknown_of(batch: Batch, source: Source, *, has_rows: bool) -> str:
    """What can't be known of the jobs where the checkpoint isn't here, a sentence; "" where that is nothing."""
    from vllava_cli.nouns import UNKNOWN_REVISION

    whats = ["done"] * has_rows + ["in the shard"] * bool(batch.shard)
    if source.revision != UNKNOWN_REVISION or not whats:
        return ""
    names = " and ".join(filter(None, (batch.wishes.model, batch.wishes.adapter)))
    return f"which jobs are {' or '.join(whats)}: their ids depend on the revision of {names}, which isn't here"


def about_of(batch: Batch, source: Source) -> About:
    """What all rows of a run have in common."""
    settings = settings_of(batch.wishes, batch.framing, batch.sampling, source.adapter)
    return About(
        model=source.model,
        revision=source.revision,
        choices=batch.sampling.choices,
        signature=signature(batch.wishes.model, source.revision, settings),
    )


def jobs_of(batch: Batch, about: About, screen: Screen) -> tuple[list[Job], int]:
    """The jobs of all shards, and how many faults of folders were told; the list of this shard is written."""
    complaints: list[str] = []
    every = made(_wanted(batch.inputs, complaints.append, screen), about.signature)
    for complaint in complaints:
        screen.error(complaint)
    check_fields(batch.destination.fields, every, batch.sampling.choices)
    progress.tell_unused(further_fields(every), screen)
    path = batch.destination.path
    if batch.shard and path and not batch.is_dry:
        job_list.write(job_list.path_of(path), every, batch.shard)
    return every, len(complaints)


def _wanted(given: Inputs, tell: Callable[[str], None], screen: Screen) -> Iterator[Wanted]:
    stdin = sys.stdin.buffer if sys.stdin else None
    if given.jobs:
        yield from job_files.wanted(
            given.jobs, stdin=stdin, videos=given.videos, questions=given.questions, notice=screen.notice
        )
        return
    paths = inputs.paths(given.paths, stdin=stdin, is_recursive=given.is_recursive, is_null=given.is_null, tell=tell)
    for path in paths:
        for question in given.questions:
            yield Wanted(path=path, question=question)
