"""`sample` returns a file's eight frames, exactly those that a full decode gives at the reference positions.

`probe` returns a file's facts, which `sample` finds on the way; `header` only the facts that need no decoding.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.container import opened, video_stream
from vllava_cli.media.file_check import check_file
from vllava_cli.media.image_formats import heif_places, turns_itself
from vllava_cli.media.images import (
    listing_of,
    look,
    opened_image,
    read_animation,
    read_burst,
    read_folder,
    read_still,
    slides_clip,
    stored_image,
    to_first,
    turn_of,
)
from vllava_cli.media.mp4_boxes import stream_part
from vllava_cli.media.select import check_trim
from vllava_cli.media.timeline.picks import picked
from vllava_cli.media.video.full_decode import decode_all
from vllava_cli.media.video.seek import sample_video
from vllava_cli.media.video.stated import declared_rate, origin, stored_clip
from vllava_cli.nouns import Clip, Frames, Framing

_MICROSECONDS = 1_000_000
_MOST_FPS = 10_000
"""A header that states more frames a second than this states the ticks of its clock."""


def sample(path: Path, framing: Framing) -> Frames:
    """Returns eight frames of a video or one of an image, [T, H, W, 3] RGB, upright; the content decides which it is.

    `at_s` asks for one frame at each of its times instead, in the order given. Times don't apply to images. A folder of
    pictures is a video. Errors: MediaError for a file that can't be used, UsageError for a wrong trim.
    """
    return _read(path, framing)


def probe(path: Path, *, is_full: bool = False) -> Clip:
    """Returns the facts of a file, as `sample` finds them; `is_full` decodes every frame of a video instead."""
    if is_full and not os.path.isdir(path):
        check_file(path)
        with memory_faults(path):
            if look(path) == "video":
                return replace(decode_all(path, Framing()).clip, way_reason="Every frame was decoded, as was asked.")
    return _read(path, Framing(), tells_rate=True).clip


def header(path: Path) -> Clip:
    """Reads the facts in a file's header, in a millisecond or two. A fact that it doesn't have is 0, None or "".

    `way` is always None. A video's width and height are as stored, before rotation; its frames are counted only by some
    containers; a folder's are those of its first picture. Errors: MediaError for what `sample` couldn't open. Damage
    after the header isn't noticed.
    """
    if os.path.isdir(path):
        pictures, _ = listing_of(path)
        return replace(slides_clip(header(pictures[0]), len(pictures)), path=path, container="folder")
    check_file(path)
    kind = look(path)
    if kind == "video":
        return _undecoded(path) or _video_header(path, has_decoders=True)
    with opened_image(path) as image:
        to_first(image)
        stored, turn = stored_image(path, image), turn_of(image)
        if kind == "animation":
            return replace(stored, kind="video")
        if kind == "burst":
            return slides_clip(stored, len(heif_places(image)))
        width, height = image.size if turns_itself(image) else turn.turned(image.size)
        return replace(stored, width=width, height=height, frame_count=1, rotation=turn.rotation)


def _read(path: Path, framing: Framing, *, tells_rate: bool = False) -> Frames:
    check_trim(framing)
    with memory_faults(path):
        if os.path.isdir(path):
            return _read_pictures(read_folder, path, framing)
        check_file(path)
        match look(path):
            case "still":
                return read_still(path, framing.background)
            case "animation":
                return _read_pictures(read_animation, path, framing)
            case "burst":
                return _read_pictures(read_burst, path, framing)
            case "video":
                return sample_video(path, framing, tells_rate=tells_rate)


def _read_pictures(read: Callable[[Path, Framing], Frames], path: Path, framing: Framing) -> Frames:
    named, reasons = picked(path, None, framing)
    return replace(read(path, named), reasons=reasons)


@contextmanager
def memory_faults(path: Path) -> Iterator[None]:
    """Turns a lack of memory into a MediaError that names the file."""
    try:
        yield
    except MemoryError as exc:
        raise MediaError(f"{quoted(path)} needs more memory than there is. Scale it down first.") from exc


def _undecoded(path: Path) -> Clip | None:
    """Reads a video's header without opening its codec; None if the width or height isn't in it or can't be right."""
    try:
        clip = _video_header(path, has_decoders=False)
    except MediaError:
        return None
    return clip if min(clip.width, clip.height) > 0 else None


def _video_header(path: Path, *, has_decoders: bool) -> Clip:
    """Reads a video's header. The duration is the stream's own if the container has it, else that of the whole file."""
    with opened(path, has_decoders=has_decoders) as container:
        stream = video_stream(container, path)
        base, start = stream.time_base or Fraction(1), stream.start_time or 0
        own_s = (start + stream.duration - origin(container, stream, start)) * base if stream.duration else None
        stored = stored_clip(container, stream, path)
        if part := "" if stored.frame_count else stream_part(path):
            raise MediaError(part)
        return replace(
            stored,
            duration_s=_positive(own_s) or _positive(container.duration and container.duration / _MICROSECONDS),
            fps=_positive(declared_rate(container, stream), most=_MOST_FPS),
        )


def _positive(number: float | Fraction | None, *, most: float = math.inf) -> float | None:
    value = float(number) if number else 0.0
    return value if 0 < value < most else None
