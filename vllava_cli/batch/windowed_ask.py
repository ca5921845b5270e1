"""`vllava ask --every`: a batch about one clip, whose texts are shown in time order and can be summed up."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from vllava_cli.batch import run as batch_run
from vllava_cli.batch.progress import Progress
from vllava_cli.batch.request import BatchRequest, Destination, Inputs
from vllava_cli.batch.rows import Format
from vllava_cli.batch.run import Ends
from vllava_cli.batch.summary import Summary
from vllava_cli.commands.asked import Ask
from vllava_cli.errors import OutputError, UsageError, quoted
from vllava_cli.nouns import STDIN, Windowing, counted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import as_output_error

_ENDINGS = (".srt", ".vtt", ".ffmeta", ".csv", ".tsv", ".jsonl", ".txt")


@dataclass(frozen=True, kw_only=True)
class WindowedAsk:
    """The request of one `vllava ask --every`, and what it adds to a question about a whole clip."""

    ask: Ask
    windowing: Windowing
    output: str | None = None
    format: Format | None = None
    is_overwriting: bool = False
    is_merging: bool = True
    summary: str | None = None
    """A question about the texts; None asks none."""
    is_dry: bool = False


def run(wanted: WindowedAsk, screen: Screen) -> int:
    """Returns the exit code: 0, 1 if a window has failed, 130 after Ctrl-C. Errors: any VllavaError.

    A file's journal is removed once all its windows are answered.
    """
    to = destination_of(wanted)
    batch = request_of(wanted, to)
    journal = to.journal_of(to.path) if to.path else None
    if to.path and journal:
        _check_file(to.path, journal, is_overwriting=wanted.is_overwriting)
    conclude = None
    if wanted.summary is not None:
        sampling = replace(batch.sampling, choices=(), is_calibrated=False)
        conclude = Summary(question=wanted.summary, sampling=sampling, destination=to, screen=screen).sum_up
    code = batch_run.run(batch, screen, Ends(report=_report, conclude=conclude))
    if journal and code == 0 and not wanted.is_dry:
        with as_output_error(journal, "removed"):
            journal.unlink(missing_ok=True)
    return code


def request_of(wanted: WindowedAsk, destination: Destination) -> BatchRequest:
    """Makes the batch that answers. Errors: UsageError for anything but one file."""
    ask = wanted.ask
    clip, *others = ask.clips
    if others:
        named = f"Windows are those of one clip, and {len(ask.clips)} are named"
        raise UsageError(f"{named}: ask about one, or use vllava batch --every.")
    if clip == Path(STDIN):
        raise UsageError("A clip on stdin can't be divided into windows: save it to a file, and name that.")
    if os.path.isdir(clip):
        raise UsageError(f"{quoted(clip)} is a folder. Name a video, or use vllava batch --every for those in it.")
    return BatchRequest(
        inputs=Inputs(paths=(str(clip),), questions=(ask.question,)),
        wishes=ask.wishes,
        framing=ask.framing,
        sampling=ask.sampling,
        limits=ask.limits,
        destination=destination,
        windowing=wanted.windowing,
        is_dry=wanted.is_dry,
        has_clip_cache=ask.has_clip_cache,
        server=ask.server,
        agreeing=ask.agreeing,
        subs=ask.subs,
    )


def destination_of(wanted: WindowedAsk) -> Destination:
    """Makes the destination: lines for people on stdout, or what --json, --format and -o say. Errors: UsageError."""
    path = Path(wanted.output) if wanted.output and wanted.output != STDIN else None
    ending = path.suffix.lower() if path else ""
    is_json = wanted.ask.output == "json"
    if is_json and (path or wanted.format):
        raise UsageError("--json prints rows on stdout. Leave it out, or leave out -o and --format.")
    if path and not wanted.format and ending not in _ENDINGS:
        raise UsageError(f"{quoted(path)} has no ending of {', '.join(_ENDINGS)}: take one, or give --format.")
    form = cast(
        Format | Literal["lines"],
        wanted.format or ("jsonl" if is_json else "lines" if ending in ("", ".txt") else ending[1:]),
    )
    if wanted.summary is not None and not wanted.summary.strip():
        raise UsageError("The question of --summary is empty: give it a text, or leave it out.")
    if wanted.summary is not None and not path and form not in ("lines", "jsonl"):
        raise UsageError(f"--summary has no place in {form}: name a file with -o, and stdout gets the summary.")
    if wanted.is_overwriting and not path:
        raise UsageError("--overwrite needs a file: name it with -o FILE.")
    return Destination(
        path=path,
        format=form,
        is_in_order=True,
        is_merging=wanted.is_merging,
        is_overwriting=wanted.is_overwriting,
        is_retrying=path is not None and not wanted.is_overwriting,
    )


def _check_file(path: Path, journal: Path, *, is_overwriting: bool) -> None:
    """Raises an OutputError if a finished file is there that isn't to be overwritten."""
    with as_output_error(path):
        is_finished = path.exists() and path.stat().st_size > 0 and not journal.exists()
    if is_finished and not is_overwriting:
        raise OutputError(f"{quoted(path)} is already there. Give --overwrite to replace it, or name another file.")


def _report(progress: Progress, screen: Screen, *, is_interrupted: bool, can_resume: bool) -> None:
    """Says how many windows have failed or are left; nothing if all are answered."""
    again = " The same command tries again." if can_resume else ""
    if progress.failed and progress.total > 1:
        screen.error(f"{progress.failed:,} of {counted(progress.total, 'window')} failed.{again}")
    if is_interrupted and progress.left:
        resume = " The same command goes on with them." if can_resume else ""
        screen.error(f"Interrupted with {counted(progress.left, 'window')} left.{resume}")
