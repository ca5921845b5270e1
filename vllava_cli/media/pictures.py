"""Decoded frames → upright RGB: converts them as transformers' documentation does, then applies the display matrix."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How to bring a stored picture upright: mirror it left to right, then turn it clockwise by `rotation` degrees."""

    rotation: int = 0
    is_mirrored: bool = False

    def turned(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the size of a stored picture once it is upright: (1920, 1080) → (1080, 1920) after 90 degrees."""
        return size[::-1] if self.rotation in (90, 270) else size


class Converter:
    """Converts frames to RGB exactly as `frame.to_ndarray(format="rgb24")` does; each thread needs its own converter.

    `to_ndarray` makes its tables anew for every frame, which takes longer than converting a small picture. A converter
    makes them once.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def write(self, frame: VideoFrame, target: Pixels) -> None:
        """Writes a frame as RGB into `target`, [H, W, 3]; a frame of another size is scaled to it."""
        height, width, _ = target.shape
        if (frame.width, frame.height) == (width, height):
            picture = self._reformatter.reformat(frame, format="rgb24")
        else:
            picture = self._reformatter.reformat(frame, format="rgb24", width=width, height=height)
        plane = picture.planes[0]
        rows = np.frombuffer(cast("bytes", plane), np.uint8).reshape(-1, plane.line_size)
        target.reshape(height, width * 3)[...] = rows[:height, : width * 3]


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


def _unnamed(kinds: type[Type], value: int) -> Type:
    """Makes an enum member for a kind of side data that PyAV's table lacks: 31 → Type.KIND_31."""
    kind: Any = object.__new__(kinds)
    kind._name_, kind._value_ = f"KIND_{value}", value
    return cast(Type, kind)
