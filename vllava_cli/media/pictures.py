"""Decoded frames → upright RGB: converts them as transformers' documentation does, then applies the display matrix."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import ImageColor

from vllava_cli.media.tone_map import TRANSFERS, write_sdr
from vllava_cli.nouns import Framing

Pixels = npt.NDArray[np.uint8]
_BAND = 256
"""The rows of a picture that are laid over a background at once, which bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How to bring a stored picture upright: mirror it left to right, then turn it clockwise by `rotation` degrees."""

    rotation: int = 0
    is_mirrored: bool = False

    def turned(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the size of a stored picture once it is upright: (1920, 1080) → (1080, 1920) after 90 degrees."""
        return size[::-1] if self.rotation in (90, 270) else size


_PADDING = ("rawvideo", "huffyuv", "ffvhuff")
"""Codecs whose fourth byte of a pixel may stand there only to make it four: then it is 0 everywhere."""


class Converter:
    """Converts frames to RGB exactly as `frame.to_ndarray(format="rgb24")` does; each thread needs its own converter.

    HDR frames are tone-mapped, unless they are wanted as stored. Transparent frames are laid over a background, as
    browsers and editors do. `to_ndarray` makes its tables anew for every frame, which takes longer than converting a
    small picture. A converter makes them once.
    """

    def __init__(self, framing: Framing, codec: str = "") -> None:
        self._framing, self._may_pad = framing, codec in _PADDING
        self._reformatter, self._alpha_reformatter = VideoReformatter(), VideoReformatter()

    def write(self, frame: VideoFrame, target: Pixels) -> None:
        """Writes a frame as RGB into `target`, [H, W, 3]."""
        height, width, _ = target.shape
        if frame.color_trc in TRANSFERS and not self._framing.is_as_stored:
            write_sdr(frame, target, self._reformatter)
        else:
            plane = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
            rows = np.frombuffer(cast("bytes", plane), np.uint8).reshape(-1, plane.line_size)
            target.reshape(height, width * 3)[...] = rows[:height, : width * 3]
        if _has_alpha(frame.format.name) and not self._framing.is_as_stored:
            plane = self._alpha_reformatter.reformat(frame, format="rgba", threads=1).planes[0]
            rows = np.frombuffer(cast("bytes", plane), np.uint8).reshape(-1, plane.line_size)
            alpha = rows[:height, 3 : width * 4 : 4, np.newaxis]
            is_padding = self._may_pad and not alpha.any()
            if not is_padding and alpha.min() < 255:
                target[...] = over(np.concatenate((target, alpha), axis=2), self._framing.background)


@cache
def _has_alpha(name: str) -> bool:
    """Returns True if a pixel format, "yuva444p10le", says how transparent each pixel is."""
    pixel_format = VideoFormat(name, 16, 16)
    return pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components)


class Turns:
    """The display matrices of a stream's frames, in the order in which they are shown.

    In H.264 and HEVC a message between frames may say how they are turned; FFmpeg attaches the matrix to one frame, but
    it holds until the next message.
    """

    def __init__(self) -> None:
        self._last: bytes | None = None
        self._rotation: int | None = None
        """FFmpeg's angle of the last matrix that was read; None before the first frame."""

    def of(self, frame: VideoFrame) -> bytes | None:
        """Returns the matrix that holds for the next frame, None if none does.

        Only frames with another angle than the last one are read: PyAV keeps those that are read in memory for a while.
        """
        if frame.rotation != self._rotation:
            found = matrix_of(frame)
            if found or self._rotation is None:
                self._last, self._rotation = found, frame.rotation
        return self._last


def matrix_of(frame: VideoFrame) -> bytes | None:
    """Returns a frame's display matrix, 36 bytes, or None; other side data of the frame doesn't matter.

    PyAV before 19 names each kind of side data by a table. If a frame has a kind that isn't in the table, `side_data`
    fails until that kind gets a name.
    """
    try:
        attached = frame.side_data
    except ValueError:
        Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment]
        attached = frame.side_data
    try:
        return bytes(cast("Any", attached)["DISPLAYMATRIX"])
    except KeyError:
        return None


def orientation_of(matrix: bytes | None) -> Orientation:
    """Reads a display matrix: nine 32-bit numbers a b u c d v x y w map (x, y) to (ax + cy, bx + dy), y downwards.

    a = 0, b = 1, c = -1, d = 0 → 90 degrees clockwise. Other angles are rounded to the nearest multiple of 90 degrees.
    """
    if matrix is None or len(matrix) != 36:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if a * d == b * c:
        return Orientation()
    is_mirrored = a * d < b * c
    sign = -1 if is_mirrored else 1
    quarters = round(math.degrees(math.atan2(sign * b, sign * a)) / 90)
    return Orientation(rotation=quarters % 4 * 90, is_mirrored=is_mirrored)


def upright(pixels: Pixels, turn: Orientation) -> Pixels:
    """Brings stored pictures upright: [T, H, W, 3] → [T, H, W, 3], or [T, W, H, 3] after 90 or 270 degrees."""
    if turn == Orientation():
        return pixels
    if turn.is_mirrored:
        pixels = pixels[:, :, ::-1]
    turned = np.rot90(pixels, k=-turn.rotation // 90, axes=(1, 2))
    return np.ascontiguousarray(turned)


def colour_code(text: str) -> str:
    """Writes a colour as "#rrggbb": "navy" → "#000080". Errors: ValueError."""
    red, green, blue = ImageColor.getrgb(text)[:3]
    return f"#{red:02x}{green:02x}{blue:02x}"


def over(pixels: Pixels, background: str) -> Pixels:
    """Lays a picture with transparency over a background, "#rrggbb": [H, W, 4] → [H, W, 3]."""
    behind = np.frombuffer(bytes.fromhex(background.removeprefix("#")), np.uint8).astype(np.uint16)
    opaque = np.ascontiguousarray(pixels[..., :3])
    for top in range(0, len(pixels), _BAND):
        band = pixels[top : top + _BAND]
        alpha = band[..., 3:].astype(np.uint16)
        if alpha.min() < 255:
            opaque[top : top + _BAND] = (band[..., :3] * alpha + behind * (255 - alpha) + 127) // 255
    return opaque


def _unnamed(kinds: type[Type], value: int) -> Type:
    """Makes an enum member for a kind of side data that PyAV's table lacks: 31 → Type.KIND_31."""
    kind: Any = object.__new__(kinds)
    kind._name_, kind._value_ = f"KIND_{value}", value
    return cast(Type, kind)
