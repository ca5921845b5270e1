"""Checks jobs against the options of their run: their choices, the parts of clips that they name, and their URLs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.batch.jobs import CHOICES, WINDOW_KEYS, Job, JobRequest, freed
from vllava_cli.cues.formats import CUE_FORMATS
from vllava_cli.errors import UsageError, quoted
from vllava_cli.media.remote.policy import allowed, scheme_of, without_secrets
from vllava_cli.nouns import WINDOW_FLAGS, counted
from vllava_cli.prompt import MOST_LETTERS

if TYPE_CHECKING:
    from vllava_cli.batch.divide import Division
    from vllava_cli.batch.request import BatchRequest
    from vllava_cli.engine.tokens import Tokens
    from vllava_cli.screen import Screen


def with_own_names(requests: list[JobRequest], batch: BatchRequest) -> list[JobRequest]:
    """Frees the names of the fields that rows about parts of clips, or with choices of their own, need themselves.

    Errors: UsageError if clips with parts of their own are to be divided into windows.
    """
    has_parts, has_choices = any(each.window for each in requests), any(each.choices for each in requests)
    if has_parts and batch.windowing:
        name, flag = next(each.path for each in requests if each.window), WINDOW_FLAGS[batch.windowing.by]
        part = f"a job is about a part of {quoted(Path(name))}"
        raise UsageError(f"{flag} divides whole clips, and {part}. Leave {flag} out, or the times of the jobs.")
    names = (*(WINDOW_KEYS if has_parts else ()), *((CHOICES,) if has_choices or batch.has_letters else ()))
    return [freed(each, names) for each in requests] if names else requests


def check_choices(batch: BatchRequest, jobs: Sequence[Job]) -> None:
    """Raises a UsageError for an option about choices where there are none, or more of them than letters."""
    flag = "--choice-style letter" if batch.has_letters else "--calibrate" if batch.sampling.is_calibrated else ""
    if not flag or not jobs:
        return
    most = max(len(job.choices or batch.sampling.choices) for job in jobs)
    if not most:
        raise UsageError(f"{flag} needs choices, and no job has any: add --choices, or leave it out.")
    if batch.has_letters and most > MOST_LETTERS:
        raise UsageError(f"--choice-style letter has {MOST_LETTERS} letters, and there are {most} choices: give fewer.")


def choice_faults(tokens: Tokens, jobs: Iterable[Job], batch: BatchRequest) -> str:
    """Says how many jobs have choices of their own that the model can't tell apart, and what the first fault is.

    Returns "" if there is no such job. Errors: UsageError if the choices of the run can't be compared.
    """
    if batch.has_letters:
        return ""
    if batch.sampling.choices:
        tokens.option_ids(batch.sampling.choices)
    known: dict[tuple[str, ...], str] = {(): ""}
    bad: list[Job] = []
    for job in jobs:
        if job.choices not in known:
            known[job.choices] = _fault(tokens, job.choices)
        bad += [job] * bool(known[job.choices])
    if not bad:
        return ""
    those = f"those of {bad[0].question!r} about {quoted(Path(bad[0].path))}: {known[bad[0].choices]}"
    return f"vllava: the choices of {counted(len(bad), 'job')} can't be compared, as {those}"


def check_schemes(batch: BatchRequest, jobs: Sequence[Job]) -> None:
    """Raises a UsageError for a URL that may not be fetched, before anything is fetched."""
    schemes = allowed(batch.ray.allowed).schemes if batch.ray else ()
    for job in jobs:
        scheme = scheme_of(job.path) if "://" in job.path else None
        if scheme and not batch.ray:
            raise UsageError(f"{without_secrets(job.path)} is a URL: add --ray --allow {scheme}, or copy it here.")
        if scheme and scheme not in schemes:
            raise UsageError(f"{without_secrets(job.path)} may not be fetched: add --allow {scheme} to permit it.")


def with_times(batch: BatchRequest, jobs: list[Job], division: Division, screen: Screen) -> list[Job]:
    """Returns the jobs without those about images, if nothing but cues beside clips is made of the answers.

    Errors: UsageError for an image where another output is about times.
    """
    to, images = batch.destination, {path for path, found in division.windows.items() if not found.windows}
    if images and (to.has_cues or to.is_in_order):
        raise UsageError(f"{quoted(Path(min(images)))} is an image, which has no time. Leave the windows out.")
    if not images or to.beside not in CUE_FORMATS:
        return jobs
    screen.notice(f"vllava: {counted(len(images), 'image')} without cues: an image has no time.")
    return jobs if to.path else [job for job in jobs if job.path not in images]


def _fault(tokens: Tokens, choices: Sequence[str]) -> str:
    try:
        tokens.option_ids(choices)
    except UsageError as exc:
        return str(exc)
    return ""
