"""Lets the ways take turns on a file, each time in a process of its own, and keeps the median of each."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.footage import Footage

_ROOT = Path(__file__).parents[1]
_SLOW_S = 20.0
"""A way that takes longer than this is measured once."""
_ENDLESS_S = 4000
"""The documentation's loop isn't run on files that are longer."""
_FLOORS = ("floor", "floor_threads")
WAYS = ("reference", "ours", "torchcodec", "ffmpeg", *_FLOORS)
_TICK_S = 0.002
"""Containers round times, to a millisecond at most."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The median of a way's seconds, its highest memory, and what it gave; None seconds: it failed or wasn't run."""

    seconds: float | None = None
    mib: float | None = None
    digest: str = ""
    times_s: tuple[float, ...] = ()
    """From the first frame on."""
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What all ways made of one file."""

    footage: Footage
    ways: dict[str, Measured]

    @property
    def ours(self) -> Measured:
        return self.ways["ours"]

    @property
    def truth(self) -> Measured:
        """What the documentation's loop gave; where that takes too long, what plain decoding of the groups gave."""
        return next((self.ways[way] for way in ("reference", *_FLOORS) if self.ways[way].digest), Measured())

    @property
    def is_identical(self) -> bool | None:
        """Whether ours are the right pixels at the right times; None where nothing tells."""
        truth = self.truth
        return (self.ours.digest == truth.digest and self.has_times_of("ours")) if truth.digest else None

    @property
    def floor_s(self) -> float | None:
        """The faster of the floor's two; one that gave other pixels doesn't count."""
        floors = [self.ways[way] for way in _FLOORS]
        return min((one.seconds for one in floors if one.seconds and one.digest == self.truth.digest), default=None)

    def has_times_of(self, way: str) -> bool:
        """Whether a way gave the frames of the right times."""
        times_s, right_s = self.ways[way].times_s, self.truth.times_s
        return len(times_s) == len(right_s) and all(
            abs(time_s - right) < _TICK_S for time_s, right in zip(times_s, right_s, strict=True)
        )

    def share_of(self, way: str) -> float | None:
        """Our seconds over another way's, "floor" being the faster one: 0.25 is four times as fast."""
        other_s = self.floor_s if way == "floor" else self.ways[way].seconds
        return self.ours.seconds / other_s if self.ours.seconds and other_s else None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Many short clips decoded one after the other, here and in the bounded process."""

    clips: int
    plain_s: float
    guarded_s: float
    start_s: float
    """What starting that process takes, once."""

    @property
    def cost(self) -> float:
        """Of safety, with the start: 0.05 is 5% more."""
        return (self.guarded_s + self.start_s) / self.plain_s - 1


def race(path: Path, footage: Footage, repeat: int) -> Row:
    """A B C A B C …; ways that fail or are slow have one turn."""
    ways = [way for way in WAYS if way != "reference" or footage.seconds < _ENDLESS_S]
    found: dict[str, list[Measured]] = {way: [] for way in WAYS}
    for _ in range(repeat):
        for way in ways:
            if not any(one.fault or (one.seconds or 0.0) > _SLOW_S for one in found[way]):
                found[way].append(_measured(way, path))
    return Row(footage=footage, ways={way: _median(measured) for way, measured in found.items()})


def race_folder(paths: Sequence[Path], repeat: int) -> Folder:
    """Plain, guarded, plain, guarded …; medians."""
    found: dict[str, list[dict[str, float]]] = {"plain": [], "guarded": []}
    for _ in range(repeat):
        for way, seen in found.items():
            done = _run("benchmarks.many", way, *map(str, paths))
            done.check_returncode()
            seen.append(json.loads(done.stdout))
    return Folder(
        clips=len(paths),
        plain_s=statistics.median(one["seconds"] for one in found["plain"]),
        guarded_s=statistics.median(one["seconds"] for one in found["guarded"]),
        start_s=statistics.median(one["start_s"] for one in found["guarded"]),
    )


def _measured(way: str, path: Path) -> Measured:
    done = _run("benchmarks.contestants", way, str(path))
    if done.returncode:
        return Measured(fault=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    row = cast("dict[str, Any]", json.loads(done.stdout))
    return Measured(**row | {"times_s": tuple(row["times_s"])})


def _run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=_ROOT, capture_output=True, text=True, check=False
    )


def _median(measured: Sequence[Measured]) -> Measured:
    good = [one for one in measured if one.seconds is not None]
    if not good:
        return Measured(fault="".join(one.fault for one in measured))
    if len({one.digest for one in good}) > 1:
        return Measured(fault="It gives other frames each time.")
    return Measured(
        seconds=statistics.median(one.seconds or 0.0 for one in good),
        mib=max((one.mib for one in good if one.mib is not None), default=None),
        digest=good[0].digest,
        times_s=good[0].times_s,
    )
