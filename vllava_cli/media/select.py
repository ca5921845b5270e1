"""Decides which frames the model sees; pure arithmetic on counts and times, no file is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from vllava_cli.answers import MOST_SAMPLES
from vllava_cli.errors import MediaError, TrimError, UsageError
from vllava_cli.nouns import FRAMES_PER_CLIP, Fit, Frames, Framing


def pick(frame_count: int, wanted: int = FRAMES_PER_CLIP, *, shift: float = 0.0) -> tuple[int, ...]:
    """Returns the reference positions `int(i * n / 8)` of n frames: pick(60) → (0, 7, 15, 22, 30, 37, 45, 52).

    If there are fewer frames than wanted, each is repeated evenly, in order: pick(3) → (0, 0, 0, 1, 1, 1, 2, 2).
    `shift` moves them by this share of a step, `int((i + shift) * n / 8)`: pick(60, shift=0.4) → (3, 10, 18, …).
    """
    if frame_count < 1 or wanted < 1:
        raise ValueError(f"{wanted} of {frame_count} frames can't be picked")
    share = Fraction(shift).limit_denominator(MOST_SAMPLES)  # 0.6 isn't quite 3/5, and could miss a frame
    return tuple(math.floor((i + share) * frame_count / wanted) for i in range(wanted))


def check_trim(framing: Framing) -> None:
    """Raises a `UsageError` for times that are wrong for any clip, such as an --end that isn't after --start."""
    for option, time_s in (("--start", framing.start_s), ("--end", framing.end_s)):
        if time_s is not None and not (math.isfinite(time_s) and time_s >= 0):
            raise UsageError(f"{option} is {time_s:g} seconds. Give a time of 0 or more.")
    for time_s in framing.at_s:
        if not (math.isfinite(time_s) and time_s >= 0):
            raise UsageError(f"--at has {time_s:g} seconds. Give times from 0 on.")
    if framing.at_s and (framing.start_s is not None or framing.end_s is not None):
        raise UsageError("--at can't be combined with --start and --end. Leave them out.")
    if framing.at_s and framing.pick != "uniform":
        raise UsageError(f"--pick {framing.pick} can't be combined with --at, which names the frames. Leave one out.")
    start_s = framing.start_s or 0.0
    if framing.end_s is not None and framing.end_s <= start_s:
        raise UsageError(f"--end {framing.end_s:g} s is not after --start {start_s:g} s. Give a later --end.")


def reference(frame_count: int, *, reported: int = 0, shift: float = 0.0) -> tuple[int, ...]:
    """Returns the eight positions in a file of `frame_count` frames, of which the container reports `reported`, or 0.

    As in the documentation's loop, the reported number counts, but only if the file has no more frames than that, and
    if it has all eight. reference(60) → (0, 7, …, 52) · reference(60, reported=64) → (0, 8, …, 56) ·
    reference(60, reported=25) → pick(60) · reference(40, reported=64) → pick(40). `shift` is that of `pick`.
    """
    stated = pick(reported, shift=shift) if reported >= frame_count else ()
    return stated if stated and stated[-1] < frame_count else pick(frame_count, shift=shift)


def choose(
    times_s: Sequence[float], framing: Framing, *, duration_s: float, name: str, reported: int = 0
) -> tuple[int, ...]:
    """Returns the positions in `times_s` of the frames that a framing asks for: eight, or one for each of its times."""
    if framing.at_s:
        return tuple(shown_at(times_s, time_s, duration_s=duration_s, name=name) for time_s in framing.at_s)
    if framing.start_s is None and framing.end_s is None:
        return reference(len(times_s), reported=reported, shift=framing.shift)
    playing = in_play(times_s, framing, duration_s=duration_s, name=name)
    return tuple(playing[position] for position in pick(len(playing), shift=framing.shift))


def shown_at(times_s: Sequence[float], time_s: float, *, duration_s: float, name: str) -> int:
    """Returns the position of the frame that a player shows at a time: shown_at([0.0, 0.5, 1.0], 0.7) → 1."""
    if time_s >= duration_s:
        raise past_the_end("--at", time_s, duration_s=duration_s, name=name)
    return max((index for index, start_s in enumerate(times_s) if start_s <= time_s), default=0)


def in_play(times_s: Sequence[float], framing: Framing, *, duration_s: float, name: str) -> tuple[int, ...]:
    """Returns the positions of the frames with start <= t < end; t counts from the clip's first frame.

    in_play([0.0, 0.5, 1.0, 1.5], start 0.5, end 1.5) → (1, 2). Messages call the clip `name`.
    """
    start_s = framing.start_s or 0.0
    end_s = math.inf if framing.end_s is None else framing.end_s
    indices = tuple(index for index, time_s in enumerate(times_s) if start_s <= time_s < end_s)
    if indices:
        return indices
    raise nothing_between(framing, duration_s=duration_s, name=name)


def nothing_between(framing: Framing, *, duration_s: float, name: str) -> TrimError:
    """Makes the error for a trim in which no frame lies."""
    start_s = framing.start_s or 0.0
    if start_s >= duration_s:
        return past_the_end("--start", start_s, duration_s=duration_s, name=name)
    until = "the end" if framing.end_s is None else f"{framing.end_s:g} s"
    return TrimError(f"{name} has no frame between {start_s:g} s and {until}. Choose a longer part.")


def past_the_end(option: str, time_s: float, *, duration_s: float, name: str) -> TrimError:
    """Makes the error for a time that isn't before the end of the clip."""
    remedy = "Start earlier." if option == "--start" else "Choose an earlier time."
    return TrimError(f"{option} {time_s:g} s is past the end of {name}, which lasts {duration_s:.2f} s. {remedy}")


def first_tick(time_s: float, base: Fraction, *, is_after: bool = False) -> int:
    """Returns the first tick of `base` seconds at `time_s` or later; with `is_after`, the first one after `time_s`.

    first_tick(0.1, Fraction(1, 10)) → 1, though 0.1 is a little more than a tenth.
    """

    def is_reached(tick: int) -> bool:
        tick_s = float(tick * base)
        return tick_s > time_s or (tick_s == time_s and not is_after)

    tick = math.ceil(Fraction(time_s) / base)
    while is_reached(tick - 1):
        tick -= 1
    while not is_reached(tick):
        tick += 1
    return tick


def spread(frames: Frames, fit: Fit, wanted: int = FRAMES_PER_CLIP) -> Frames:
    """Repeats frames evenly if there are fewer than the model sees; an image stays as it is.

    Errors: UsageError if there are more, and those of `check_shape`.
    """
    for width, height in frames.sizes or [(frames.clip.width, frames.clip.height)]:
        check_shape(width, height, fit)
    if frames.kind == "image" or len(frames.times_s) == wanted:
        return frames
    if len(frames.times_s) > wanted:
        raise UsageError(f"{len(frames.times_s)} frames are more than the {wanted} that the model sees. Name fewer.")
    places = list(pick(len(frames.times_s), wanted))
    times_s = tuple(frames.times_s[place] for place in places)
    sizes = tuple(frames.sizes[place] for place in places) if frames.sizes else ()
    reasons = tuple(frames.reasons[place] for place in places) if frames.reasons else ()
    return replace(frames, pixels=frames.pixels[places], times_s=times_s, sizes=sizes, reasons=reasons)


def check_shape(width: int, height: int, fit: Fit) -> None:
    """Raises a MediaError for a frame so long and thin that resizing it would fill the memory.

    "crop" resizes the whole frame to the short side before the square is cut; "pad" makes a square of its long side.
    """
    longest, shortest = max(width, height), min(width, height)
    if longest > {"crop": 1000 * shortest, "pad": 1 << 14, "squash": 1 << 18}[fit]:
        remedy = "Cut a part out of it, or scale it down"
        raise MediaError(f"A frame of {width}x{height} is too long and thin for --fit {fit}. {remedy}.")
