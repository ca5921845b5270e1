"""What a run tells on stderr: where it stands, what can't be read, and what became of it. Counts here, no deciding."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllava_cli.batch.counters import Meter
from vllava_cli.batch.preflight import Found
from vllava_cli.batch.rows import Fault
from vllava_cli.nouns import counted
from vllava_cli.screen import Screen

MOST_TOLD = 5
"""How many clips are named that can't be read; the rows have them all."""

_NOTHING_KEPT = "Nothing is kept to go on from without -o FILE."


@dataclass(kw_only=True)
class Tally:
    """The counts of a run."""

    total: int = 0
    """Jobs that were asked for."""
    skipped: int = 0
    """Those that were done before."""
    skipped_errors: int = 0
    """Those of them whose row is an error."""
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Of this run, by kind."""
    started_s: float = field(default_factory=time.perf_counter)
    ready_s: float | None = None
    """When the model was ready."""
    at_ready: int = 0
    """Jobs that had got their row in this run by then: headers cost no answer."""
    unknown: str = ""
    """What a dry run can't know of the jobs, and why."""

    def begin(self) -> None:
        """The model is ready: what comes is measured from here on."""
        if self.ready_s is None:
            self.ready_s, self.at_ready = time.perf_counter(), self.now

    @property
    def has_begun(self) -> bool:
        """Whether the model may be at work."""
        return self.ready_s is not None

    @property
    def done(self) -> int:
        """Jobs that have a row now."""
        return self.skipped + self.now

    @property
    def now(self) -> int:
        """Jobs that got their row in this run."""
        return self.answered + self.errors.total()

    @property
    def left(self) -> int:
        return self.total - self.done

    @property
    def failed(self) -> int:
        """Jobs whose row is an error."""
        return self.skipped_errors + self.errors.total()

    def note(self, error: str | None) -> None:
        """A job has its row; `error` is the kind of its error."""
        if error:
            self.errors[error] += 1
        else:
            self.answered += 1


def standing(tally: Tally, meter: Meter, *, now_s: float) -> list[str]:
    """["12/100", "3.2 clips/s", "0:27 left", "1 error", "GPU 14.2 GiB"], without what isn't known yet.

    Before the first answer: ["0/100", "loading the model"], then ["0/100", "reading the first clips; Ctrl-C stops"].
    """
    since_s = now_s - (tally.ready_s or now_s)
    since = tally.now - tally.at_ready
    parts = [f"{tally.done:,}/{tally.total:,}"]
    if not tally.has_begun:
        parts.append("loading the model")
    elif not since:
        parts.append("reading the first clips; Ctrl-C stops")
    if meter.clips and since_s > 0:
        parts.append(_pace(meter.clips, since_s))
    if since and since_s > 0 and tally.left:
        parts.append(f"{clock(tally.left * since_s / since)} left")
    if tally.failed:
        parts.append(counted(tally.failed, "error"))
    if meter.used_bytes:
        parts.append(f"GPU {meter.used_bytes / 2**30:.1f} GiB")
    return parts


def clock(seconds: float) -> str:
    """27 → "0:27", 3723 → "1:02:03", 200000 → "2 d 7:33:20"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    far = f"{days} d " if days else ""
    return far + (f"{hours}:{minutes:02d}:{rest:02d}" if hours or days else f"{minutes}:{rest:02d}")


def tell_unreadable(bad: Sequence[Fault], total: int, screen: Screen, *, has_rows: bool = True) -> None:
    """What the preflight found."""
    if not bad:
        return
    screen.notice(f"vllava: {len(bad):,} of {counted(total, 'clip')} can't be read:")
    for fault in bad[:MOST_TOLD]:
        screen.notice(f"  {fault.message}")
    if len(bad) > MOST_TOLD:
        screen.notice(f"  … and {len(bad) - MOST_TOLD:,} more{'; their rows say why' if has_rows else ''}.")


def tell_unused(names: Sequence[str], screen: Screen) -> None:
    """Says which fields of the jobs change nothing: some are called like an option."""
    shown = ", ".join(names[:MOST_TOLD]) + (f" and {len(names) - MOST_TOLD:,} more" if len(names) > MOST_TOLD else "")
    if names:
        are = "is" if len(names) == 1 else "are"
        screen.notice(f"vllava: {shown} in the jobs {are} passed through, not used.")


def tell_plan(tally: Tally, found: Found | None, screen: Screen) -> None:
    """What --dry-run says, as the answer; nothing is found where no header was opened."""
    jobs = [f"{'at most ' if tally.unknown else ''}{tally.left:,} to answer"]
    jobs += [f"{tally.skipped:,} done before"] if tally.skipped else []
    jobs += [f"{tally.errors.total():,} about clips that can't be read"] if tally.errors else []
    rows = [("jobs", f"{tally.total:,}: {', '.join(jobs)}")]
    rows += _clip_rows(found) if found else []
    rows += [("unknown", tally.unknown)] if tally.unknown else []
    screen.facts(rows, is_answer=True)


def _clip_rows(found: Found) -> list[tuple[str, str]]:
    images = len(found.good) - found.videos - found.unopened
    kinds = ((found.videos, "video"), (images, "image"))
    clips = [counted(number, noun) for number, noun in kinds if number]
    clips += [f"{found.unopened:,} that took too long to open"] if found.unopened else []
    clips += [f"{len(found.bad):,} that can't be read"] if found.bad else []
    unknown = f", and {counted(found.unknown, 'video')} of unknown length" if found.unknown else ""
    return [("clips", ", ".join(clips) or "none"), ("duration", clock(found.duration_s) + unknown)]


def tell_end(tally: Tally, screen: Screen, *, is_interrupted: bool, can_resume: bool) -> None:
    """The summary; errors also with --quiet."""
    took = clock(time.perf_counter() - tally.started_s)
    answered = f"{tally.answered:,} of {counted(tally.total, 'job')} answered in {took}"
    skipped = f", {tally.skipped:,} done before and skipped" if tally.skipped else ""
    screen.notice(f"vllava: {answered}{skipped}." if tally.total else "vllava: there are no jobs.")
    if tally.failed:
        again = f" --retry-errors tries {_them(tally.failed)} again." if can_resume else ""
        screen.error(f"{counted(tally.failed, 'job')} of {tally.total:,} failed: {_kinds(tally)}.{again}")
    if tally.left:
        why = "Interrupted" if is_interrupted else "Stopped by --fail-fast"
        way = f"The same command goes on with {_them(tally.left)}." if can_resume else _NOTHING_KEPT
        screen.error(f"{why} with {counted(tally.left, 'job')} left. {way}")


def tell_stats(stats: dict[str, float], screen: Screen) -> None:
    """One line for programs, also with --quiet: it was asked for."""
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in stats.items()}
    screen.notice(f"vllava: stats: {json.dumps(rounded)}", is_asked=True)


def _them(number: int) -> str:
    return "it" if number == 1 else "them"


def _pace(clips: int, seconds: float) -> str:
    """ "3.2 clips/s", or what one takes where that is more than a second: "12.5 s/clip"."""
    return f"{clips / seconds:.1f} clips/s" if clips >= seconds else f"{seconds / clips:.1f} s/clip"


def _kinds(tally: Tally) -> str:
    """ "2 unreadable, 1 missing, 4 in an earlier run" """
    kinds = [f"{count:,} {kind}" for kind, count in tally.errors.most_common()]
    if tally.skipped_errors:
        kinds.append(f"{tally.skipped_errors:,} in an earlier run")
    return ", ".join(kinds)
