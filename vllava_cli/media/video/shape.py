"""Finds how a video's stored frames are shown, and shows them so: cropped, stretched to their shape, then upright.

FFmpeg says what shape a pixel has, but PyAV doesn't pass on the cropping that a container asks for: two boxes of the
header are read here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from vllava_cli.media.container import DECODE_ERRORS, check_size
from vllava_cli.media.mp4_boxes import Span, boxes, inside
from vllava_cli.media.pictures import Orientation, Pixels, upright
from vllava_cli.nouns import Clip

_MOST_ASPECT = 16
"""Pixels that are wider or higher than this aren't stretched: such a ratio is a mistake."""
_LEAST_STRETCH = Fraction(1, 100)
"""A frame isn't stretched by less: such a ratio comes from a size that was rounded, 426x240 with pixels of 640:639."""
_SQUARE_PIXELS = ("gif", "apng")
"""Formats of images, which every browser shows with square pixels, whatever they say."""
_MOST_PARTS = 256
"""The most elements of a Matroska file that are looked at in one place."""
_VIDEO_HEAD = 78
"""The bytes of a video's sample entry before the boxes in it."""
_CROPS = {0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"}

Size = tuple[int, int]
"""(width, height)"""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The pixels that are cut off at each side of a stored frame."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


@dataclass(frozen=True, kw_only=True)
class Display:
    """How stored frames are shown: their edges are cut off, then they are stretched as `aspect`, width:height, asks."""

    edges: Edges = Edges()
    aspect: Fraction | None = None
    """The shape of a stored pixel; None where it is square, nothing says it, or it can't be right."""
    is_as_stored: bool = False
    """True if the user asks for the stored pixels: the frames are only turned then."""

    def box(self, stored: Size) -> tuple[int, int, int, int]:
        """Returns (left, top, right, bottom) of the part that is shown; the whole frame if nothing would be left."""
        (width, height), edges = stored, Edges() if self.is_as_stored else self.edges
        box = edges.left, edges.top, width - edges.right, height - edges.bottom
        return box if box[0] < box[2] and box[1] < box[3] else (0, 0, width, height)

    def described(self, clip: Clip) -> Clip:
        """Returns a stored clip's facts with the shape of its pixels and the part that its container asks to show."""
        asked, aspect = replace(self, is_as_stored=False), self.aspect
        left, top, right, bottom = asked.box((clip.width, clip.height))
        is_cropped = (right - left, bottom - top) != (clip.width, clip.height)
        return replace(
            clip,
            sample_aspect_ratio=f"{aspect.numerator}:{aspect.denominator}" if aspect else None,
            crop=f"{right - left}x{bottom - top}+{left}+{top}" if is_cropped else None,
        )

    def size(self, stored: Size) -> Size:
        """Returns the size as shown, before rotation: (720, 576) with pixels of 64:45 → (1024, 576).

        The side that is too short is stretched, so that no detail is lost: (720, 480) with pixels of 8:9 → (720, 540).
        """
        left, top, right, bottom = self.box(stored)
        width, height = right - left, bottom - top
        aspect = Fraction(1) if self.is_as_stored or not self.aspect else self.aspect
        if abs(aspect - 1) < _LEAST_STRETCH:
            return width, height
        return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))

    def shown(self, frames: Pixels, turn: Orientation) -> Pixels:
        """Shows stored frames: [T, H, W, 3] → [T, H', W', 3]; returns the same array if nothing changes."""
        stored = frames.shape[2], frames.shape[1]
        if (self.size(stored), self.box(stored)) != (stored, (0, 0, *stored)):
            left, top, right, bottom = self.box(stored)
            frames = frames[:, top:bottom, left:right]
            frames = np.stack([_resized(frame, self.size(stored)) for frame in frames])
        return upright(frames, turn)


def display_of(path: Path, container: InputContainer, stream: VideoStream, *, is_as_stored: bool = False) -> Display:
    """Reads how the frames of a video are to be shown. Errors: MediaError if they would be too large."""
    stored = stream.codec_context.width, stream.codec_context.height
    edges, has_aspect = _edges(path, container, stream)
    ratio = stream.sample_aspect_ratio if has_aspect and container.format.name not in _SQUARE_PIXELS else None
    is_right = ratio is not None and Fraction(1, _MOST_ASPECT) <= ratio <= _MOST_ASPECT
    display = Display(edges=edges, aspect=ratio if is_right and ratio != 1 else None, is_as_stored=is_as_stored)
    check_size(path, *display.size(stored))
    return display


def _resized(frame: Pixels, size: Size) -> Pixels:
    if (frame.shape[1], frame.shape[0]) == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def _edges(path: Path, container: InputContainer, stream: VideoStream) -> tuple[Edges, bool]:
    """Reads the cropping that a header asks for; False if FFmpeg's ratio follows from the size without the cropping."""
    name = container.format.name
    if "mov" not in name and "matroska" not in name:
        return Edges(), True
    try:
        with path.open("rb") as file:
            whole = 0, os.fstat(file.fileno()).st_size
            if "mov" in name:
                return _clean_aperture(file, whole, stream)
            moving = [other for other in container.streams.video if not other.disposition & Disposition.attached_pic]
            found = list(_pixel_crops(file, whole))
            return (found[moving.index(stream)] if len(found) == len(moving) else Edges()), True
    except (*DECODE_ERRORS, ArithmeticError, StopIteration, struct.error):
        return Edges(), True


def _clean_aperture(file: BinaryIO, whole: Span, stream: VideoStream) -> tuple[Edges, bool]:
    """Reads `clap` in a track's first sample description, ISO/IEC 14496-12, 12.1.4, in an MP4 or MOV.

    Its width, height and the offset of its middle are fractions. `pasp`, beside it, has the shape of a pixel.
    """
    for track in inside(file, whole, b"moov", b"trak"):
        if _track_id(file, track) == stream.id:
            for start, end in inside(file, track, b"mdia", b"minf", b"stbl", b"stsd"):
                entry = next(boxes(file, (start + 8, end))).content
                found = {box.kind: box.content for box in boxes(file, (entry[0] + _VIDEO_HEAD, entry[1]))}
                if b"clap" not in found:
                    return Edges(), True
                file.seek(found[b"clap"][0])
                numbers = struct.unpack(">IIIIiIiI", file.read(32))
                width, height, across, down = (Fraction(*numbers[place : place + 2]) for place in (0, 2, 4, 6))
                left, right = _margins(stream.codec_context.width, width, across)
                top, bottom = _margins(stream.codec_context.height, height, down)
                is_right = min(left, right, top, bottom) >= 0
                edges = Edges(top=top, bottom=bottom, left=left, right=right) if is_right else Edges()
                return edges, not is_right or b"pasp" in found
    return Edges(), True


def _margins(stored: int, kept: Fraction, offset: Fraction) -> tuple[int, int]:
    """Returns what is cut off before and behind the part that is kept: (720, 704, 0) → (8, 8)."""
    before = round((stored - kept) / 2 + offset)
    return before, stored - round(kept) - before


def _track_id(file: BinaryIO, track: Span) -> int:
    for start, _ in inside(file, track, b"tkhd"):
        file.seek(start)
        head = file.read(24)
        return int(struct.unpack_from(">I", head, 20 if head[0] else 12)[0])
    return -1


def _pixel_crops(file: BinaryIO, whole: Span) -> Iterator[Edges]:
    """Yields the PixelCrop values of each video track of a Matroska or WebM file, RFC 9559, 5.1.4.1.28."""
    for segment in _elements_of(file, whole, 0x18538067):
        for tracks in _elements_of(file, segment, 0x1654AE6B):
            for entry in _elements_of(file, tracks, 0xAE):
                for video in _elements_of(file, entry, 0xE0):
                    found = {
                        _CROPS[kind]: _number(file, span) for kind, span in _elements(file, video) if kind in _CROPS
                    }
                    yield Edges(**found)
            return


def _elements_of(file: BinaryIO, around: Span, wanted: int) -> Iterator[Span]:
    return (span for kind, span in _elements(file, around) if kind == wanted)


def _elements(file: BinaryIO, around: Span) -> Iterator[tuple[int, Span]]:
    """Yields the elements in a part of a Matroska file, by their numbers, each with its content's span."""
    at, end = around
    for _ in range(_MOST_PARTS):
        if at + 2 > end:
            return
        file.seek(at)
        head = file.read(12)
        kind_bytes = 9 - head[0].bit_length()
        size_bytes = 9 - head[kind_bytes].bit_length()
        if kind_bytes > 4 or size_bytes > 8:
            return
        most = (1 << 7 * size_bytes) - 1
        size_end = kind_bytes + size_bytes
        size, start = int.from_bytes(head[kind_bytes:size_end], "big") & most, at + size_end
        at = end if size == most else start + size  # all ones: the size isn't known, as in a live recording
        yield int.from_bytes(head[:kind_bytes], "big"), (start, max(start, min(at, end)))


def _number(file: BinaryIO, span: Span) -> int:
    file.seek(span[0])
    return int.from_bytes(file.read(min(span[1] - span[0], 8)), "big")
