"""Divides the time of a clip into windows: pure arithmetic on seconds."""

from __future__ import annotations

import math

from vllava_cli.nouns import Window, Windowing

SHORTEST = 1 / 3
"""A last window that is shorter than this share of the others joins the one before it."""


def even_windows(windowing: Windowing, start_s: float, end_s: float) -> tuple[Window, ...]:
    """Returns windows of `every_s` seconds from `start_s` to `end_s`, each beginning `overlap_s` before the last ends.

    every 30 s in 65 s → 0-30, 30-65 · in 75 s → 0-30, 30-60, 60-75 · with 5 s of overlap in 60 s → 0-30, 25-60
    """
    step_s = windowing.every_s - windowing.overlap_s
    count = max(1, math.ceil((end_s - start_s - windowing.overlap_s) / step_s - 1e-9))
    starts = [start_s + number * step_s for number in range(count)]
    if len(starts) > 1 and end_s - starts[-1] - windowing.overlap_s < SHORTEST * windowing.every_s:
        starts.pop()
    ends = [*(start + windowing.every_s for start in starts[:-1]), end_s]
    return tuple(Window(start_s=start, end_s=end) for start, end in zip(starts, ends, strict=True))
