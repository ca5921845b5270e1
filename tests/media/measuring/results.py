"""A short clip, and what races about it found: numbers that were made up."""

from __future__ import annotations

from pathlib import Path

from vllava_cli.media.measuring.race import FLOORS, Result
from vllava_cli.nouns import Clip

TIMES_S = tuple(float(index) for index in range(8))
RIGHT, WRONG = "a" * 64, "b" * 64
FLOOR, FLOOR_THREADS = FLOORS
SHORT = Clip(
    path=Path("a.mp4"),
    kind="video",
    width=640,
    height=480,
    frame_count=100,
    duration_s=10.0,
    codec="h264",
    container="mp4",
)


def result(*seconds: float, digest: str = RIGHT, times_s: tuple[float, ...] = TIMES_S) -> Result:
    return Result(seconds=seconds, mib=80.0, digest=digest, times_s=times_s)
