"""Reels with known cuts and known still stretches, written with any encoder, and the timeline of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

from tests.clips import GIF, MJPEG, MPEG4, VP9, Encoding, Pixels
from vllava_cli.media.container import opened, video_stream
from vllava_cli.media.video.index import PacketIndex
from vllava_cli.media.video.mp4_index import Mp4Index
from vllava_cli.media.video.seek import Timeline

FPS = 10
ENCODINGS = {
    "auto.mp4": Encoding(),
    "even.mp4": Encoding(options={"g": "25", "sc_threshold": "0", "bf": "2"}),
    "endless.mkv": Encoding(options={"g": "9999", "sc_threshold": "0"}),
    "vp9.webm": VP9,
    "mpeg4.avi": Encoding(codec="mpeg4", options={"g": "20"}),
    "mpeg2.ts": Encoding(codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "mjpeg.avi": MJPEG,
}
__all__ = ["ENCODINGS", "FPS", "GIF", "MPEG4", "drawn", "scene", "timeline_of", "write"]


def drawn(back: int, x: float, side: int = 12) -> Pixels:
    """A grey picture with an orange square whose left edge is at x, a part of a pixel if need be: [72, 96, 3]."""
    cover = np.clip(np.arange(96) + 1 - x, 0, 1) * np.clip(x + side - np.arange(96), 0, 1)
    image = np.full((72, 96, 3), back, np.float64)
    image[20 : 20 + side] += cover[None, :, None] * (np.array([240, 130, 10]) - back)
    return image.round().astype(np.uint8)


def scene(number: int, frames: int) -> list[Pixels]:
    """A square that moves by a pixel a frame, on a background that tells the number."""
    return [drawn(40 + 70 * (number % 4), 5 + 3 * (number % 4) + index) for index in range(frames)]


def write(path: Path, pictures: Iterable[Pixels], encoding: Encoding) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoding.codec, rate=FPS, options=dict(encoding.options))
        stream.width, stream.height, stream.pix_fmt = 96, 72, encoding.pix_fmt
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@contextmanager
def timeline_of(path: Path) -> Iterator[Timeline]:
    with opened(path) as container:
        stream = video_stream(container, path)
        index = Mp4Index(container, stream, path) if path.suffix == ".mp4" else PacketIndex(container, stream)
        yield Timeline(path, index, container, stream)
