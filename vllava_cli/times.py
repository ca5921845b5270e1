"""Reads and writes times, makes the framing that times name, and measures how long the parts of a command take."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from vllava_cli.errors import UsageError
from vllava_cli.nouns import WHITE, Fit, Framing, Pick

BEGAN_S = time.perf_counter() - time.process_time()
"""The moment when this process began: its CPU time until this import was Python's own start."""
TOLD_AFTER_S = 3.0
"""Before that, nobody can tell how long the rest of a work takes."""
_LEAST_S = 0.005


def time_of(text: str) -> float:
    """Reads a time as seconds: "90", "1:30", "0:01:30.5", "90s" or "1m30s". Errors: UsageError."""
    if units := re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d*)?)s)?", text, re.ASCII):
        text = ":".join(number or "0" for number in units.groups()) if text else text
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or any(not 0 <= number < float("inf") for number in numbers):
        raise UsageError(f"{text!r} is not a time: give seconds (90.5) or h:m:s (0:01:30.5).")
    return sum(number * 60.0**power for power, number in enumerate(reversed(numbers)))


def times_of(text: str) -> tuple[float, ...]:
    """Reads times as seconds: "1.5,3,0:12" → (1.5, 3.0, 12.0). Errors: UsageError."""
    return tuple(time_of(part.strip()) for part in text.split(","))


def framing_of(
    start_s: float | None,
    end_s: float | None,
    *,
    at_s: tuple[float, ...] | None,
    fit: Fit,
    most: int,
    background: str = WHITE,
    is_as_stored: bool = False,
    pick: Pick = "uniform",
) -> Framing:
    """Makes the framing of --start, --end and --at; --at names at most `most` times. Errors: UsageError."""
    if at_s and (start_s is not None or end_s is not None):
        raise UsageError("--at can't be combined with --start and --end. Leave them out.")
    if at_s and pick != "uniform":
        raise UsageError(f"--pick {pick} can't be combined with --at, which names the frames. Leave one out.")
    if at_s and len(at_s) > most:
        raise UsageError(f"--at names {len(at_s)} times, more than the {most} that can be shown. Name fewer.")
    if start_s is not None and end_s is not None and start_s >= end_s:
        raise UsageError(f"The part from {start_s:g} s to {end_s:g} s is empty: --end must come after --start.")
    return Framing(
        start_s=start_s,
        end_s=end_s,
        at_s=tuple(at_s or ()),
        fit=fit,
        background=background,
        is_as_stored=is_as_stored,
        pick=pick,
    )


def whole_ms(seconds: float) -> int:
    """Returns whole milliseconds, rounded down, so that a time never passes a clip's end: 1.2349 → 1234."""
    return round(seconds * 10_000) // 10


def stamp(seconds: float, point: str = ".") -> str:
    """Writes a time with milliseconds: 3723.5 → "01:02:03.500"."""
    whole, ms = divmod(whole_ms(seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{ms:03d}"


def span(start_s: float, end_s: float) -> str:
    """Writes a stretch of time; a time has milliseconds only if it isn't whole: "00:00:30-00:01:05.040"."""
    return "-".join(stamp(time_s).removesuffix(".000") for time_s in (start_s, end_s))


def roughly(seconds: float) -> str:
    """Writes an estimated time: 7.3 → "7 s", 200 → "3 min", 9000 → "2.5 h", 300000 → "3.5 days"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


class Activity:
    """Work that is going on, in words, for somebody who waits."""

    def __init__(self) -> None:
        self._what, self._unit = "", ""
        self._done = self._total = 0
        self._began_s = time.monotonic()

    def begin(self, what: str, *, total: int = 0, unit: str = "") -> None:
        """Begins another work, which takes `total` steps of this unit: "reading", 2069, "tokens"."""
        self._what, self._total, self._unit, self._done = what, total, unit, 0
        self._began_s = time.monotonic()

    def advance(self, share: float) -> None:
        """Notes the share of the work that is done, from 0 to 1."""
        self._done = round(share * self._total)

    @property
    def text(self) -> str:
        """Says what is done: "reading: 1,024 of 2,069 tokens, about 3 min left"; the time only once it can be told."""
        if not self._done:
            return self._what
        spent_s = time.monotonic() - self._began_s
        left = f", about {roughly(spent_s * (self._total / self._done - 1))} left" if spent_s > TOLD_AFTER_S else ""
        return f"{self._what}: {self._done:,} of {self._total:,} {self._unit}{left}"


class Stopwatch:
    """Measures the parts of a command. Each begins when the part before it ends, so that they add up to the whole."""

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter, began_s: float | None = None) -> None:
        self._clock = clock
        self._last_s = clock() if began_s is None else began_s
        self.parts: dict[str, float] = {}
        """Seconds by the names of parts, in the order in which they came first."""

    def lap(self, part: str, seconds: float | None = None) -> float:
        """Ends a part and returns its seconds. If `seconds` is given, any time beyond it counts for the next part."""
        if seconds is None:
            seconds = self._clock() - self._last_s
        self._last_s += seconds
        self.parts[part] = self.parts.get(part, 0.0) + seconds
        return seconds

    def account(self) -> str:
        """Writes "4.21 s: start 0.15, imports 4.06". A part that rounds to 0.00 isn't named, but counts in the sum."""
        named = ", ".join(f"{part} {seconds:.2f}" for part, seconds in self.parts.items() if seconds >= _LEAST_S)
        return f"{sum(self.parts.values()):.2f} s" + (f": {named}" if named else "")
