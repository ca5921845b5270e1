"""Decides which frames the model sees; pure arithmetic on counts and times, no file is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vllava_cli.errors import MediaError, UsageError
from vllava_cli.nouns import FRAMES_PER_CLIP, Framing


def pick(frame_count: int, wanted: int = FRAMES_PER_CLIP) -> tuple[int, ...]:
    """The reference positions `int(i * n / 8)` of n frames: pick(60) → (0, 7, 15, 22, 30, 37, 45, 52).

    Fewer frames than wanted are each used, in order, repeated evenly: pick(3) → (0, 0, 0, 1, 1, 1, 2, 2).
    """
    if frame_count < 1 or wanted < 1:
        raise ValueError(f"{wanted} of {frame_count} frames can't be picked")
    return tuple(i * frame_count // wanted for i in range(wanted))


def check_trim(framing: Framing) -> None:
    """Raises a `UsageError` for a trim that is wrong whatever the clip is."""
    for option, time_s in (("--start", framing.start_s), ("--end", framing.end_s)):
        if time_s is not None and not (math.isfinite(time_s) and time_s >= 0):
            raise UsageError(f"{option} is {time_s:g} seconds. Give a time from 0 on.")
    start_s = framing.start_s or 0.0
    if framing.end_s is None or framing.end_s > start_s:
        return
    if framing.end_s == 0:
        raise UsageError("--end is 0 s: nothing lies before it. Give a later --end.")
    if framing.end_s == start_s:
        raise UsageError(f"--start and --end are both {start_s:g} s: nothing lies between. Give a later --end.")
    raise UsageError(f"--end {framing.end_s:g} s is before --start {start_s:g} s. Swap them.")


def in_play(times_s: Sequence[float], framing: Framing, *, duration_s: float, name: str) -> tuple[int, ...]:
    """Indices of the frames with start <= t < end, t counted from the clip's first frame.

    in_play([0.0, 0.5, 1.0, 1.5], start 0.5, end 1.5) → (1, 2). `name` is the clip's, as messages show it.
    """
    start_s = framing.start_s or 0.0
    end_s = math.inf if framing.end_s is None else framing.end_s
    indices = tuple(index for index, time_s in enumerate(times_s) if start_s <= time_s < end_s)
    if indices:
        return indices
    if start_s >= duration_s:
        raise MediaError(
            f"--start {start_s:g} s is past the end of {name}, which lasts {duration_s:.2f} s. Start earlier."
        )
    until = "the end" if framing.end_s is None else f"{end_s:g} s"
    raise MediaError(f"{name} has no frame between {start_s:g} s and {until}. Choose a longer part.")
