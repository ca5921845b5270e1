"""Turns a stored picture the way its display matrix says; pure."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """What brings the stored picture upright: mirrored left to right, then turned clockwise by `rotation` degrees."""

    rotation: int = 0
    is_mirrored: bool = False


def orientation(matrix: bytes | None) -> Orientation:
    """Reads a display matrix: nine 32-bit numbers a b u c d v x y w map (x, y) to (ax + cy, bx + dy), y downwards.

    a = 0, b = 1, c = -1, d = 0 → 90 degrees clockwise. Angles between the right ones are rounded to the nearest.
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


def upright(pixels: npt.NDArray[np.uint8], turn: Orientation) -> npt.NDArray[np.uint8]:
    """pixels [T, H, W, 3] → [T, H, W, 3], or [T, W, H, 3] after 90 or 270 degrees."""
    if turn == Orientation():
        return pixels
    if turn.is_mirrored:
        pixels = pixels[:, :, ::-1]
    turned = np.rot90(pixels, k=-turn.rotation // 90, axes=(1, 2))
    return np.ascontiguousarray(turned)
