"""When the frames of a video are shown, for how long, and at which rate: arithmetic on time stamps, in ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import nlargest
from itertools import pairwise

JUMP_S = 0.5
"""A frame that is this much earlier than frames before it begins another part, with a clock of its own."""
_RECENT = 64
_STEADY_S = 0.0015
"""Steps between frames that differ by less are equal: many containers round to milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Presentation:
    """The times of a video's frames in seconds, the time at which the last one ends, and the frames a second."""

    times_s: tuple[float, ...]
    duration_s: float
    fps: float
    is_rate_constant: bool
    start: int
    """The tick from which the times count."""

    @classmethod
    def of(
        cls, stamps: Sequence[int], *, base: Fraction, rate: Fraction, own: int, end: int = 0, start: int | None = None
    ) -> Presentation:
        """Makes it of time stamps that never fall, each a number of ticks of `base` seconds.

        The times count from `start`, or from the first frame. `rate` is used if all frames come at once. For `own` and
        `end`, see `last_duration`.
        """
        first, last = stamps[0], stamps[-1]
        start = first if start is None else start
        fps = (len(stamps) - 1) / float((last - first) * base) if last > first else float(rate)
        shown_s = float(last_duration(last, stamps[-2:][0], own=own, end=end) * base)
        return cls(
            times_s=tuple(float((stamp - start) * base) for stamp in stamps),
            duration_s=float((last - start) * base) + (shown_s or 1 / fps),
            fps=fps,
            is_rate_constant=is_steady([after - before for before, after in pairwise(stamps)], float(base)),
            start=start,
        )


def is_steady(steps: Sequence[int], tick_s: float) -> bool:
    """Returns True if frames so many ticks apart come at a constant rate; the ticks may have rounded their times.

    Ticks of 1 ms: [33, 34, 33] → True, [33, 67] → False. Ticks of a thirtieth of a second: [1, 2, 1] → False.
    """
    least, most = (min(steps), max(steps)) if len(steps) else (0, 0)
    return (most - least) * tick_s < _STEADY_S or (most - least <= 1 and least >= 2)


def last_duration(last: int, before: int, *, own: int, end: int) -> int:
    """Returns how long the last frame is shown, in ticks; 0 if nothing tells.

    `last` and `before` are the times of the last two frames, `own` is the duration in the last one's packet, and `end`
    is where the container says that the video ends. An MP4 with B-frames keeps the durations of other frames in its
    packets, and FFmpeg guesses those of a Matroska file from the average rate. So the container's end counts before
    them, unless it is much later than the last frame: then the sound is longer, or the file was cut.
    """
    left = end - last
    if 0 < left <= max(own, last - before):
        return left
    return own or last - before


def in_order(stamps: Sequence[int], *, jump: int, restart: float) -> list[int]:
    """Returns the times of frames, in the order in which they are shown, as times that never fall.

    Where a time is `jump` or more earlier than three before it, another part begins, such as the second of two files
    that were joined: it is put behind the first part. FFmpeg takes some of these falls for an overrun of the clock;
    then the time is `restart` or more later. Other disorder is sorted: an AVI has the times of decoding, and a damaged
    file may show a frame too early. With jump 1: [0, 1, 2, 3, 0, 1] → [0, 1, 2, 3, 4, 5] · [0, 2, 1] → [0, 1, 2]
    """
    if all(0 <= after - before < restart for before, after in pairwise(stamps)):
        return list(stamps)
    found, part = list[int](), list[int]()
    for stamp in stamps:
        falls = len(part) > 2 and nlargest(3, part[-_RECENT:])[-1] >= stamp + jump
        if falls or (part and stamp - part[-1] >= restart):
            found, part = _joined(found, part), []
        part.append(stamp)
    return _joined(found, part)


def _joined(found: list[int], part: Sequence[int]) -> list[int]:
    """Puts a part of a file behind the parts before it, one step after their last frame."""
    ordered = sorted(part)
    if not found:
        return ordered
    start = found[-1] + next((found[-1] - other for other in reversed(found) if other < found[-1]), 0)
    return found + [start + stamp - ordered[0] for stamp in ordered]
