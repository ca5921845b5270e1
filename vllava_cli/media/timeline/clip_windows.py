"""Finds the windows of an open clip: even stretches of its time, its scenes, or the chapters that the file names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from vllava_cli.errors import MediaError, UsageError, quoted
from vllava_cli.media.select import check_trim, past_the_end
from vllava_cli.media.timeline.open_clip import OpenClip
from vllava_cli.media.timeline.windows import MOST_WINDOWS, chapter_windows, even_count, even_windows, scene_windows
from vllava_cli.nouns import ClipWindows, Framing, Window, Windowing


def clip_windows(clip: OpenClip, windowing: Windowing, framing: Framing) -> ClipWindows:
    """Divides a clip, or the part of it that `framing` names. An image has no windows. Errors: MediaError, UsageError.

    The facts of the clip are those that are found with the first frame of the part.
    """
    check_trim(framing)
    if framing.at_s:
        raise UsageError("--at can't be combined with --every, --scenes and --at-chapters. Leave it out.")
    if not clip.duration_s:
        return ClipWindows(clip=clip.frames(framing).clip)
    start_s, end_s = framing.start_s or 0.0, min(framing.end_s or math.inf, clip.duration_s)
    if start_s >= end_s:
        raise past_the_end("--start", start_s, duration_s=clip.duration_s, name=quoted(clip.path))
    found = _divided(clip, windowing, start_s, end_s)
    windows = tuple(
        window if clip.has_frame(window.start_s, window.end_s) else replace(window, is_held=True) for window in found
    )
    windows = clip.with_stillness(windows) if windowing.tells_still else windows
    first = replace(framing, start_s=None, end_s=None, at_s=(start_s,))
    facts = replace(clip.frames(first).clip, duration_s=clip.duration_s)
    return ClipWindows(clip=facts, windows=windows)


def _divided(clip: OpenClip, windowing: Windowing, start_s: float, end_s: float) -> Sequence[Window]:
    name = quoted(clip.path)
    if windowing.by == "every":
        count = even_count(windowing, start_s, end_s)
        if count > MOST_WINDOWS:
            many = f"{name} has {count:,} windows of {windowing.every_s:g} s, more than {MOST_WINDOWS:,}"
            raise MediaError(
                f"{many}. Give a longer time to --every{' or a shorter --overlap' * (windowing.overlap_s > 0)}."
            )
        return even_windows(windowing, start_s, end_s)
    if windowing.by == "scenes":
        return scene_windows(clip.scene_starts(start_s, end_s), end_s)
    chapters = clip.chapters()
    if not chapters:
        raise MediaError(f"{name} names no chapters. Divide it with --every 30s or --scenes instead.")
    windows = chapter_windows(chapters[:MOST_WINDOWS], start_s, end_s)
    if not windows:
        raise MediaError(f"{name} has no chapter between {start_s:g} s and {end_s:g} s. Choose a longer part.")
    return windows
