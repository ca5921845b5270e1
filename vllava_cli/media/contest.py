"""How long it takes to read the frames of a clip that the model sees, in the bounded process that reads them always."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.measures import Line, Measured
from vllava_cli.media.spool import Reader
from vllava_cli.nouns import DecodeLimits, Framing


@dataclass(frozen=True, kw_only=True)
class FramesReport:
    """What was measured, and the bars: (what was promised, whether it was kept)."""

    lines: tuple[Line, ...]
    bars: tuple[tuple[str, bool], ...]


def frames_line(path: Path, limits: DecodeLimits, *, repeat: int, is_interrupted: Callable[[], bool]) -> Line:
    """After a warm-up. Raises KeyboardInterrupt between two readings; errors: MediaError."""
    seconds: list[float] = []
    with Reader(limits) as reader:
        for _ in range(repeat + 1):
            if is_interrupted():
                raise KeyboardInterrupt
            started_s = time.perf_counter()
            reader.sample(path, Framing())
            seconds.append(time.perf_counter() - started_s)
    note = "How long a full decode takes, and the least that would do, is not measured."
    return Line(name="frames", unit="s", ours=Measured(values=tuple(seconds[1:])), note=note)


def frames_report(path: Path, limits: DecodeLimits, *, repeat: int, is_interrupted: Callable[[], bool]) -> FramesReport:
    """As `frames_line`."""
    return FramesReport(lines=(frames_line(path, limits, repeat=repeat, is_interrupted=is_interrupted),), bars=())
