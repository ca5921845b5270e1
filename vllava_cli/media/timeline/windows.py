"""Divides the time of a clip into windows: pure arithmetic on seconds."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

from vllava_cli.nouns import Window, Windowing

SHORTEST = 1 / 3
"""A last window joins the one before it if it adds less than this share of what the others add."""
MOST_WINDOWS = 100_000
LONGEST_TITLE = 120
_DIGITS = 9
"""Times are rounded, so that a window that begins at 3 * 0.1 s has the frame at 0.3 s."""


def even_count(windowing: Windowing, start_s: float, end_s: float) -> int:
    """Returns about how many windows `even_windows` makes: one more, if a short one joins the one before it."""
    step_s = windowing.every_s - windowing.overlap_s
    return max(1, math.ceil((end_s - start_s - windowing.overlap_s) / step_s - 1e-9))


def even_windows(windowing: Windowing, start_s: float, end_s: float) -> tuple[Window, ...]:
    """Returns windows of `every_s` seconds from `start_s` to `end_s`, each beginning `overlap_s` before the last ends.

    every 30 s in 65 s → 0-30, 30-65 · in 75 s → 0-30, 30-60, 60-75 · with 5 s of overlap in 60 s → 0-30, 25-60
    """
    step_s = windowing.every_s - windowing.overlap_s
    count = even_count(windowing, start_s, end_s)
    starts = [round(start_s + number * step_s, _DIGITS) for number in range(count)]
    if len(starts) > 1 and end_s - starts[-1] - windowing.overlap_s < SHORTEST * step_s:
        starts.pop()
    ends = [*(min(round(start + windowing.overlap_s, _DIGITS), end_s) for start in starts[1:]), end_s]
    return tuple(Window(start_s=start, end_s=end) for start, end in zip(starts, ends, strict=True))


def scene_windows(starts_s: Sequence[float], end_s: float) -> tuple[Window, ...]:
    """Returns a window from each start to the next: scene_windows((0, 3), 10) → 0-3, 3-10."""
    return tuple(Window(start_s=start, end_s=end) for start, end in pairwise((*starts_s, end_s)))


def chapter_windows(chapters: Iterable[Window], start_s: float, end_s: float) -> tuple[Window, ...]:
    """Returns the chapters in a part of a clip, in order, with titles of one line; what lies between them has none.

    A chapter ends where the next one begins. Of those that begin at the same time, the shortest counts.
    0-60, 40-80 "B", 40-90 "C" from 30 s on → 30-40, 40-80 "B"
    """
    found: list[Window] = []
    whole = (chapter for chapter in chapters if chapter.start_s < chapter.end_s)
    ordered = sorted(whole, key=lambda chapter: (chapter.start_s, chapter.end_s))
    firsts = [each for place, each in enumerate(ordered) if not place or ordered[place - 1].start_s < each.start_s]
    for chapter, after_s in zip(firsts, [*(each.start_s for each in firsts[1:]), math.inf], strict=True):
        first, last = max(start_s, chapter.start_s), min(end_s, chapter.end_s, after_s)
        if first < last:
            found.append(Window(start_s=first, end_s=last, title=clean_title(chapter.title)))
    return tuple(found)


def clean_title(title: str) -> str:
    """Returns a title on one line, at most `LONGEST_TITLE` characters, without control characters: "A\\nB" → "A B"."""
    kinds = ((char, unicodedata.category(char)) for char in title)
    plain = "".join("" if kind in ("Cf", "Cs") else " " if kind == "Cc" else char for char, kind in kinds)
    return " ".join(plain.split())[:LONGEST_TITLE].rstrip()
