"""Scenes → video files and pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from training.render import draw
from training.world import Scene

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How `encode` writes a video; the name's suffix decides the container."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    suffix: str = ".mp4"
    options: dict[str, str] = field(default_factory=dict)


def drawn(scene: Scene, count: int, height: int, width: int) -> NDArray[np.float32]:
    """`count` frames [T, H, W, 3] at equal distances, 0..255, not yet rounded."""
    times = np.arange(count, dtype=np.float32) / count
    pixels: NDArray[np.float32] = draw([scene], height, width, times)[0].permute(0, 2, 3, 1).numpy()
    return pixels


def rounded(pixels: NDArray[np.float32]) -> Pixels:
    return pixels.round().clip(0, 255).astype(np.uint8)


def encode(path: Path, pixels: Pixels, fps: int, encoding: Encoding) -> None:
    """Writes frames [T, H, W, 3] as a video."""
    with av.open(str(path), "w") as container:
        stream = cast("VideoStream", container.add_stream(encoding.codec, rate=fps, options=dict(encoding.options)))
        height, width = pixels.shape[1:3]
        stream.height, stream.width, stream.pix_fmt = height, width, encoding.pix_fmt
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def save_picture(path: Path, pixels: Pixels) -> None:
    """Writes [H, W, 3] as the image file that the suffix names."""
    Image.fromarray(pixels).save(path)
