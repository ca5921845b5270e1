"""Counts the jobs of a run and writes its messages: progress, unreadable clips, the plan of a dry run, the outcome."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli.batch.clip_names import FoundClips
from vllava_cli.batch.executors import Counters
from vllava_cli.batch.merge import first_of
from vllava_cli.batch.preflight import Headers
from vllava_cli.batch.request import BatchRequest
from vllava_cli.batch.rows import JobError
from vllava_cli.errors import UsageError, quoted
from vllava_cli.nouns import counted
from vllava_cli.screen import Screen, one_line

MOST_MISSING, MOST_LETTERS = 3, 60
"""So many clips that weren't found are named, and so much of each name."""
MOST_NAMED = 5
"""How many unreadable clips are named in the message; the rows have them all."""


@dataclass(kw_only=True)
class Progress:
    """The counts of the jobs of a run."""

    total: int = 0
    """Jobs that were asked for."""
    skipped: int = 0
    """Jobs that were done before."""
    skipped_errors: int = 0
    """Skipped jobs whose row is an error."""
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """The number of errors of each kind in this run."""
    started_s: float = field(default_factory=time.perf_counter)
    ready_s: float | None = None
    """When the model was ready."""
    at_ready: int = 0
    """Jobs that got their row before the model was ready; they don't count for the speed."""
    subtitles: str = ""
    """Which clips have subtitle files, for the plan of a dry run."""
    unknown: str = ""
    """What a dry run can't know of the jobs, and why."""

    def begin(self) -> None:
        """Notes that the model is ready; speed is measured from then on."""
        if self.ready_s is None:
            self.ready_s, self.at_ready = time.perf_counter(), self.now

    @property
    def has_begun(self) -> bool:
        """True once `begin` was called: the model may be at work."""
        return self.ready_s is not None

    @property
    def done(self) -> int:
        """The number of jobs that have a row now."""
        return self.skipped + self.now

    @property
    def now(self) -> int:
        """The number of jobs that got their row in this run."""
        return self.answered + self.errors.total()

    @property
    def left(self) -> int:
        return self.total - self.done

    @property
    def failed(self) -> int:
        """The number of jobs whose row is an error."""
        return self.skipped_errors + self.errors.total()

    def note(self, kind: str | None) -> None:
        """Counts a job that got its row; `kind` is the kind of its error, None for an answer."""
        if kind:
            self.errors[kind] += 1
        else:
            self.answered += 1

    def parts(self, counters: Counters, *, now_s: float, waiting_for: str = "loading the model") -> list[str]:
        """Returns the parts of the line that shows the progress; parts that aren't known yet are left out.

        ["0/100", "loading the model"], then ["0/100", "reading the first clips; Ctrl-C stops"], then
        ["12/100", "3.2 clips/s", "0:27 left", "1 error", "GPU 14.2 GiB"]
        """
        since_s = now_s - (self.ready_s or now_s)
        since = self.now - self.at_ready
        parts = [f"{self.done:,}/{self.total:,}"]
        if not self.has_begun:
            parts.append(waiting_for)
        elif not since:
            parts.append("reading the first clips; Ctrl-C stops")
        if counters.clips and since_s > 0:
            pace = counters.clips / since_s
            parts.append(f"{pace:.1f} clips/s" if pace >= 1 else f"{1 / pace:.1f} s/clip")
        if since and since_s > 0 and self.left:
            parts.append(f"{clock(self.left * since_s / since)} left")
        if self.failed:
            parts.append(counted(self.failed, "error"))
        if counters.used_bytes:
            parts.append(f"GPU {counters.used_bytes / 2**30:.1f} GiB")
        return parts


def clock(seconds: float) -> str:
    """Formats a duration: 27 → "0:27", 3723 → "1:02:03", 200000 → "2 d 7:33:20"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    far = f"{days} d " if days else ""
    return far + (f"{hours}:{minutes:02d}:{rest:02d}" if hours or days else f"{minutes}:{rest:02d}")


def report_unreadable(bad: Sequence[JobError], total: int, screen: Screen, *, has_rows: bool = True) -> None:
    """Names the first few of the clips whose headers can't be read, with the reasons."""
    if not bad:
        return
    screen.notice(f"vllava: {len(bad):,} of {counted(total, 'clip')} can't be read:")
    for error in bad[:MOST_NAMED]:
        screen.notice(f"  {error.message}")
    if len(bad) > MOST_NAMED:
        screen.notice(f"  … and {len(bad) - MOST_NAMED:,} more{'; their rows say why' if has_rows else ''}.")


def report_unused(names: Sequence[str], screen: Screen) -> None:
    """Says which fields of the jobs are only copied into the rows: a user may have meant one as an option."""
    if names:
        are = "is" if len(names) == 1 else "are"
        screen.notice(f"vllava: {first_of(names, most=MOST_NAMED)} in the jobs {are} passed through, not used.")


def report_found(found: FoundClips, batch: BatchRequest, screen: Screen) -> None:
    """Says how many clips of a jobs file were found and which not; if all were, only in a dry run or with --verbose.

    Errors: UsageError where there are clips and none was found, but not with --ray: the cluster may have them.
    """
    where = first_of([quoted(Path(folder)) for folder in found.folders], most=MOST_MISSING)
    missing = first_of([_short(name) for name in found.missing], most=MOST_MISSING)
    for folder, reason in found.unreadable[:MOST_NAMED]:
        screen.notice(f"vllava: {quoted(Path(folder))} can't be read: {reason}. Clips in it aren't found.")
    if found.missing and len(found.missing) == found.total and not batch.ray:
        there = first_of([_short(name) for name in found.there], most=MOST_MISSING) or "no clip"
        none = "The clip is not" if found.total == 1 else f"None of {found.total:,} clips is"
        raise UsageError(
            f"{none} in {where}: the jobs name {missing}, and there is {there}. Give --videos the folder of the clips."
        )
    if found.total and (found.missing or batch.is_dry or screen.is_verbose):
        count = f"{found.total - len(found.missing):,} of {counted(found.total, 'clip')} found in {where}"
        screen.notice(f"vllava: {count}{'; not found: ' * bool(missing)}{missing}.")


def _short(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= MOST_LETTERS else f"…{name[-MOST_LETTERS:]}"


def report_plan(progress: Progress, headers: Headers | None, screen: Screen) -> None:
    """Writes the answer of a dry run to stdout; `headers` is None if no clip was opened."""
    jobs = [f"{'at most ' if progress.unknown else ''}{progress.left:,} to answer"]
    jobs += [f"{progress.skipped:,} done before"] if progress.skipped else []
    jobs += [f"{progress.errors.total():,} about clips that can't be read"] if progress.errors else []
    rows = [("jobs", f"{progress.total:,}: {', '.join(jobs)}")]
    if headers:
        clips = [
            counted(number, noun) for number, noun in ((headers.videos, "video"), (headers.images, "image")) if number
        ]
        clips += [f"{headers.unopened:,} that took too long to open"] if headers.unopened else []
        clips += [f"{len(headers.bad):,} that can't be read"] if headers.bad else []
        unknown = f", and {counted(headers.unknown, 'video')} of unknown length" if headers.unknown else ""
        rows += [("clips", ", ".join(clips) or "none"), ("duration", clock(headers.duration_s) + unknown)]
        rows += [("windows", f"{headers.windows:,}")] if headers.windows else []
    rows += [("subtitles", progress.subtitles)] if progress.subtitles else []
    rows += [("unknown", progress.unknown)] if progress.unknown else []
    screen.facts(rows, is_answer=True)


def report_end(progress: Progress, screen: Screen, *, is_interrupted: bool, can_resume: bool) -> None:
    """Writes the summary of a run; with --quiet only errors and jobs that are left."""
    took = clock(time.perf_counter() - progress.started_s)
    answered = f"{progress.answered:,} of {counted(progress.total, 'job')} answered in {took}"
    skipped = f", {progress.skipped:,} done before and skipped" if progress.skipped else ""
    screen.notice(f"vllava: {answered}{skipped}." if progress.total else "vllava: there are no jobs.")
    if failed := progress.failed:
        kinds = [f"{count:,} {kind}" for kind, count in progress.errors.most_common()]
        kinds += [f"{progress.skipped_errors:,} in an earlier run"] if progress.skipped_errors else []
        again = f" --retry-errors tries {'it' if failed == 1 else 'them'} again." if can_resume else ""
        screen.error(f"{counted(failed, 'job')} of {progress.total:,} failed: {', '.join(kinds)}.{again}")
    if left := progress.left:
        why = "Interrupted" if is_interrupted else "Stopped by --fail-fast"
        resume = "Without -o FILE nothing is saved, so the run can't be resumed."
        if can_resume:
            resume = f"The same command goes on with {'it' if left == 1 else 'them'}."
        screen.error(f"{why} with {counted(left, 'job')} left. {resume}")
