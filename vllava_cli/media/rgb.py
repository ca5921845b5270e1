"""One decoded frame → RGB, by the conversion of transformers' documentation; and the display matrix it carries."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

Pixels = npt.NDArray[np.uint8]


def rgb(frame: VideoFrame, *, width: int = 0, height: int = 0) -> Pixels:
    """[H, W, 3]; scaled to another size only where one is given that differs from the frame's own."""
    if not width or (frame.width, frame.height) == (width, height):
        return cast("Pixels", frame.to_ndarray(format="rgb24"))
    return cast("Pixels", frame.to_ndarray(format="rgb24", width=width, height=height))


def matrix_of(frame: VideoFrame) -> bytes | None:
    try:
        return bytes(cast("Any", frame.side_data)["DISPLAYMATRIX"])
    except KeyError:
        return None
