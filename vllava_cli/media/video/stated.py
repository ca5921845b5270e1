"""Reads what a container states about its video: the number of frames, the rate and the end, none of which may be true.

`stored_clip` puts them into a `Clip`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

from vllava_cli.media.container import codec_name, has_alpha_beside
from vllava_cli.media.mp4_boxes import has_fragments
from vllava_cli.media.tone_map import TRANSFERS
from vllava_cli.nouns import Clip

UNKNOWN_RATE = Fraction(25)
_RAW = ("h264", "hevc", "m4v", "mpegvideo", "h263", "mjpeg")
"""FFmpeg's names of formats that are nothing but a coded stream: FFmpeg gives each the times of 25 frames a second."""
MPEG = ("mpegts", "mpeg")
"""FFmpeg's names of MPEG's own containers, whose clock has 33 bits, and in which seeking by time is a guess."""
_RESTART_S = (1 << 32) / 90_000
_LEAD_S = 0.1
_MICROSECONDS = 1_000_000


def stored_clip(container: InputContainer, stream: VideoStream, path: Path) -> Clip:
    """Returns a video's facts as its container states them; the size is as stored, before rotation.

    `frame_count` is the number of frames that the container announces, 0 if it announces none. Some containers have
    several short names in FFmpeg; the ending of the file's name chooses among them: "mov,mp4,…" and a.mp4 → "mp4".
    """
    context, names = stream.codec_context, container.format.name.split(",")
    ending = path.suffix.lower().removeprefix(".")
    return Clip(
        path=path,
        kind="video",
        width=context.width,
        height=context.height,
        frame_count=_announced(container, stream, path),
        codec=codec_name(stream),
        container=ending if ending in names else names[0],
        pixel_format="yuva420p" if has_alpha_beside(stream) else context.pix_fmt or "",
        transfer=TRANSFERS.get(context.color_trc),
    )


def reported_frames(container: InputContainer, stream: VideoStream, *, hidden: int) -> int:
    """Returns the number of frames from which the documentation's loop counts, without those that an edit list hides.

    `hidden` of the packets are there but aren't shown. A mov or mp4 lacks others in FFmpeg's index.
    """
    listed = len(stream.index_entries) if "mov" in container.format.name else stream.frames
    return max(0, min(stream.frames, listed) - hidden)


def declared_rate(container: InputContainer, stream: VideoStream) -> Fraction:
    """Returns the frames a second that the container states, or the coded stream itself if there is no container."""
    if has_no_clock(container):
        return stream.guessed_rate or UNKNOWN_RATE
    return stream.average_rate or stream.guessed_rate or UNKNOWN_RATE


def has_no_clock(container: InputContainer) -> bool:
    """Returns True if the file has no time stamps of its own."""
    return container.format.name in _RAW


def clock_restart(container: InputContainer, base: Fraction) -> float:
    """Returns the step between two frames, in ticks, from which on the clock must have begun anew between them.

    FFmpeg takes a fall of MPEG's clock for its overrun if the rest is less than half of its range, 13 hours.
    """
    return _RESTART_S / base if container.format.name in MPEG else math.inf


def origin(container: InputContainer, stream: VideoStream, first: int) -> int:
    """Returns the time from which a clip's times count, in the stream's time base: that of its first frame, `first`.

    If the sound begins a tenth of a second before the video or earlier, times count from there, as in a player.
    """
    if not container.streams.audio or container.start_time is None or not stream.time_base:
        return first
    start = round(Fraction(container.start_time, _MICROSECONDS) / stream.time_base)
    return start if (first - start) * stream.time_base >= _LEAD_S else first


def declared_end(container: InputContainer, stream: VideoStream) -> int:
    """Returns the time at which the video ends by its container's word, in the stream's time base; 0 if it has none."""
    if stream.duration:
        return (stream.start_time or 0) + stream.duration
    if not container.duration or not stream.time_base:
        return 0
    end_s = Fraction((container.start_time or 0) + container.duration, _MICROSECONDS)
    return round(end_s / stream.time_base)


def _announced(container: InputContainer, stream: VideoStream, path: Path) -> int:
    """Counts FFmpeg's index of a mov, which leaves out what an edit list cuts and may lack fragments.

    An AVI counts dropped frames as well: gaps in its index. If the gap at its end is the largest, frames are missing.
    """
    entries = stream.index_entries
    if "mov" in container.format.name:
        return 0 if len(entries) == stream.frames and has_fragments(path) else len(entries)
    if container.format.name != "avi" or len(entries) < 2 or len(entries) >= stream.frames:
        return stream.frames
    times = [*(entry.timestamp for entry in entries), stream.frames]
    *gaps, last_gap = (after - before - 1 for before, after in pairwise(times))
    return len(entries) + (last_gap if last_gap > max(gaps) else 0)
