"""`header` reads a file's facts without decoding anything: in a millisecond or two, whatever its length."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

from vllava_cli.errors import MediaError
from vllava_cli.media.container import opened, stored_clip, video_stream
from vllava_cli.media.file_check import check_file
from vllava_cli.media.images import look, opened_image, stored_image, turn_of
from vllava_cli.nouns import Clip

_MICROSECONDS = 1_000_000


def header(path: Path) -> Clip:
    """The facts in a file's header; 0, None or "" for what it doesn't have, and no way.

    A video's width and height are as stored; its frames are counted only by some containers. Errors: the MediaErrors
    of `sample` for what can't be opened, and one for a folder. What lies damaged behind the header isn't seen.
    """
    check_file(path)
    match look(path):
        case "still":
            return _still(path)
        case "animation":
            return _animation(path)
        case "video":
            return _undecoded(path) or _video(path, has_decoders=True)


def _undecoded(path: Path) -> Clip | None:
    """None where a decoder may know better: the header tells no size, or a wrong one."""
    try:
        clip = _video(path, has_decoders=False)
    except MediaError:
        return None
    return clip if clip.width and clip.height else None


def _still(path: Path) -> Clip:
    with opened_image(path) as image:
        stored, turn = stored_image(path, image), turn_of(image)
        has_own_turn = stored.codec == "tiff"  # Pillow turns its size by itself
        width, height = image.size if has_own_turn else turn.turned(image.size)
        return replace(stored, width=width, height=height, frame_count=1, rotation=turn.rotation)


def _animation(path: Path) -> Clip:
    with opened_image(path) as image:
        return replace(stored_image(path, image), kind="video")


def _video(path: Path, *, has_decoders: bool) -> Clip:
    with opened(path, has_decoders=has_decoders) as container:
        stream = video_stream(container, path)
        return replace(
            stored_clip(container, stream, path),
            duration_s=_duration_s(container, stream),
            fps=_positive(stream.average_rate or stream.guessed_rate),
        )


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """The stream's own length where the container has one for each stream, else that of the whole file."""
    own = stream.duration * stream.time_base if stream.duration and stream.time_base else None
    return _positive(own) or _positive(container.duration and container.duration / _MICROSECONDS)


def _positive(number: float | Fraction | None) -> float | None:
    value = float(number) if number else 0.0
    return value if 0 < value < math.inf else None
