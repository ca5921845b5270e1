"""Lets the ways take turns on a file, and says of each what it took: A B C A B C …"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vllava_cli.media.measuring.turn import IsInterrupted, Turn
from vllava_cli.nouns import FRAMES_PER_CLIP

SLOW_S = 20.0
"""A way that takes longer than this has one turn."""
LOOP, OURS, GUARDED, TORCHCODEC, FFMPEG = "reference", "ours", "guarded", "torchcodec", "ffmpeg"
FLOORS = ("floor", "floor_threads")
_TICK_S = 0.002
"""Containers round times, to a millisecond at most."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What all turns of a way took, its highest memory, and what it gave; no seconds: it failed or wasn't run."""

    seconds: tuple[float, ...] = ()
    mib: float | None = None
    digest: str = ""
    times_s: tuple[float, ...] = ()
    """From the first frame on."""
    fault: str = ""
    stopped_at_s: float | None = None
    """How long it ran until it was stopped, without an end."""

    @property
    def median_s(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> Result:
        """One turn that failed doesn't undo the others, but frames that change from turn to turn are no answer."""
        good = [turn for turn in turns if turn.seconds is not None]
        if not good:
            stopped_s = max((turn.stopped_at_s for turn in turns if turn.stopped_at_s is not None), default=None)
            return cls(fault="".join(turn.fault for turn in turns), stopped_at_s=stopped_s)
        if len({turn.digest for turn in good}) > 1:
            return cls(fault="it gives other frames each time")
        return cls(
            seconds=tuple(turn.seconds for turn in good if turn.seconds is not None),
            mib=max((turn.mib for turn in good if turn.mib is not None), default=None),
            digest=good[0].digest,
            times_s=good[0].times_s,
        )


@dataclass(frozen=True, kw_only=True)
class Race:
    """What all ways made of one file; one that wasn't run has an empty result."""

    results: Mapping[str, Result]
    ours_way: str = OURS

    @property
    def ours(self) -> Result:
        return self.of(self.ours_way)

    @property
    def loop(self) -> Result:
        """The documentation's."""
        return self.of(LOOP)

    @property
    def truth(self) -> Result:
        """What the documentation's loop gave; where that takes too long, what plain decoding of the groups gave."""
        return next((self.of(way) for way in (LOOP, *FLOORS) if self.of(way).digest), Result())

    @property
    def is_identical(self) -> bool | None:
        """Whether ours are the right pixels at the right times; None where nothing tells."""
        truth = self.truth
        if not truth.digest or not self.ours.digest:
            return None
        return self.ours.digest == truth.digest and self.has_times_of(self.ours_way)

    @property
    def is_certain(self) -> bool:
        """Whether the truth is one: the loop's eight frames, or, where that gave none, a floor's that agree with ours.

        Of a file whose index lies or is missing the floor gets other frames, and is no measure for anything.
        """
        return len(self.loop.times_s) == FRAMES_PER_CLIP if self.loop.digest else bool(self.is_identical)

    @property
    def floor(self) -> Result:
        """The faster of the floor's two; one that gave other pixels doesn't count."""
        if not self.is_certain:
            return Result()
        floors = [self.of(way) for way in FLOORS if self.of(way).digest == self.truth.digest]
        return min(floors, key=lambda one: one.median_s or float("inf"), default=Result())

    def of(self, way: str) -> Result:
        return self.results.get(way, Result())

    def has_times_of(self, way: str) -> bool:
        """Whether a way gave the frames of the right times."""
        times_s, right_s = self.of(way).times_s, self.truth.times_s
        return len(times_s) == len(right_s) and all(
            abs(time_s - right) < _TICK_S for time_s, right in zip(times_s, right_s, strict=True)
        )

    def share_of(self, other: Result) -> float | None:
        """Our seconds over another's: 0.25 is four times as fast."""
        ours_s, other_s = self.ours.median_s, other.median_s
        return ours_s / other_s if ours_s and other_s else None


def race(runners: Mapping[str, Callable[[], Turn]], repeat: int, *, is_interrupted: IsInterrupted) -> dict[str, Result]:
    """Ways that fail or are slow have one turn. Raises KeyboardInterrupt between two turns."""
    found: dict[str, list[Turn]] = {way: [] for way in runners}
    for _ in range(repeat):
        for way, run in runners.items():
            if is_interrupted():
                raise KeyboardInterrupt
            if not any(turn.fault or (turn.seconds or 0.0) > SLOW_S for turn in found[way]):
                found[way].append(run())
    return {way: Result.of(turns) for way, turns in found.items()}
