"""Lets the ways take turns on a file that was made here, as `vllava bench --frames-only` does, and on short ones."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.footage import Footage
from vllava_cli.media.measuring.race import FFMPEG, FLOORS, LOOP, OURS, TORCHCODEC, Race, race
from vllava_cli.media.measuring.turn import turn
from vllava_cli.nouns import DecodeLimits

_ROOT = Path(__file__).parents[1]
_ENDLESS_S = 4000
"""The documentation's loop isn't run on files that are longer."""
WAYS = (LOOP, OURS, TORCHCODEC, FFMPEG, *FLOORS)
_LIMITS = DecodeLimits(timeout_s=3600)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What all ways made of one file."""

    footage: Footage
    race: Race


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


def race_file(path: Path, footage: Footage, repeat: int) -> Row:
    """Each way as often as `repeat` says; those that fail or are slow have one turn."""
    ways = [way for way in WAYS if way != LOOP or footage.seconds < _ENDLESS_S]
    runners = {way: partial(turn, way, path, _LIMITS, is_interrupted=_never) for way in ways}
    return Row(footage=footage, race=Race(results=race(runners, repeat, is_interrupted=_never)))


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


def _run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=_ROOT, capture_output=True, text=True, check=False
    )


def _never() -> bool:
    return False
