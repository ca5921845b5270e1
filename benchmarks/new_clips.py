"""Clips that no server has seen: a demo clip with a small patch of a random colour in a corner, in another size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random

import av
import numpy as np
import numpy.typing as npt

PATCH = 8
"""The side of the patch, in pixels: large enough to survive coding, too small to be asked about."""


@dataclass(frozen=True, kw_only=True)
class ClipForm:
    """The size, the rate and the length of a new clip."""

    width: int
    height: int
    fps: int
    seconds: float

    @property
    def text(self) -> str:
        return f"{self.width}x{self.height}, {self.seconds:g} s"


SMALL = ClipForm(width=192, height=192, fps=24, seconds=2.5)
"""The demo's own form."""
ORDINARY = ClipForm(width=640, height=360, fps=25, seconds=10)


def new_clip(clip: Path, form: ClipForm, random: Random) -> bytes:
    """Returns the content of an MP4 that shows a clip in the middle of its frames; the patch makes its pixels new."""
    frames, file = shown(clip, form), BytesIO()
    colour = np.frombuffer(random.randbytes(3), np.uint8)
    left = (form.width - min(form.width, form.height)) // 2  # in the square that the model sees
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=form.fps, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = form.width, form.height, "yuv420p"
        for number in range(round(form.fps * form.seconds)):
            image = frames[number * len(frames) // round(form.fps * form.seconds)].copy()
            image[:PATCH, left : left + PATCH] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


@cache
def shown(clip: Path, form: ClipForm) -> npt.NDArray[np.uint8]:
    """Returns the frames [T, height, width, 3] of a clip, scaled to the height, on its own background."""
    with av.open(str(clip)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    side = min(form.width, form.height)
    rows, columns = (np.arange(side) * size // side for size in frames.shape[1:3])
    left = (form.width - side) // 2
    canvas = np.empty((len(frames), form.height, form.width, 3), np.uint8)
    canvas[:] = frames[0, 0, 0]
    canvas[:, :, left : left + side] = frames[:, rows][:, :, columns]
    return canvas
