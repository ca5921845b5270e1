"""One decoded frame → RGB, by the conversion of transformers' documentation; and the display matrix it carries."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

Pixels = npt.NDArray[np.uint8]


class Converter:
    """Frames → RGB, just as `frame.to_ndarray(format="rgb24")` has it; one for each thread.

    That makes its tables anew for every frame, which takes longer than a small picture does; here they are kept.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def write(self, frame: VideoFrame, target: Pixels) -> None:
        """Fills `target`, [H, W, 3]; a frame of another size is scaled to it."""
        height, width, _ = target.shape
        if (frame.width, frame.height) == (width, height):
            picture = self._reformatter.reformat(frame, format="rgb24")
        else:
            picture = self._reformatter.reformat(frame, format="rgb24", width=width, height=height)
        plane = picture.planes[0]
        rows = np.frombuffer(cast("bytes", plane), np.uint8).reshape(-1, plane.line_size)
        target.reshape(height, width * 3)[...] = rows[:height, : width * 3]


def matrix_of(frame: VideoFrame) -> bytes | None:
    """The display matrix, 36 bytes, whatever else a decoder attached to the frame.

    PyAV before 19 names each kind of side data from a table, and lists none of a frame's where one is newer than that.
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


def _unnamed(kinds: type[Type], value: int) -> Type:
    """A kind of side data that PyAV's table lacks: 31 → Type.KIND_31."""
    kind: Any = object.__new__(kinds)
    kind._name_, kind._value_ = f"KIND_{value}", value
    return cast(Type, kind)
