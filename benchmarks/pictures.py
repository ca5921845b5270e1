"""Pictures that cost an encoder about what real ones do: textures that move across each other, cuts, and grain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]


def pictures(count: int, width: int, height: int, *, scene_frames: int) -> Iterator[Picture]:
    """[H, W, 3] each, always the same ones; a cut after every `scene_frames`."""
    random = np.random.default_rng(7)
    for first in range(0, count, scene_frames):
        scene = _Scene(random, width, height)
        for index in range(min(scene_frames, count - first)):
            yield scene.picture(index)


class _Scene:
    """A background that pans, a smaller texture that crosses it, and noise over both that is new in each frame."""

    def __init__(self, random: np.random.Generator, width: int, height: int) -> None:
        self._random, self._width, self._height = random, width, height
        self._back = _texture(random, height + 256, width + 256)
        self._front = _texture(random, height // 3, width // 4)
        self._grain = random.normal(0, 5, (height + 64, width + 64, 1)).astype(np.int16)
        self._step = random.integers(-2, 3, 4)

    def picture(self, index: int) -> Picture:
        down, right, *crossing = (self._step * index).tolist()
        image = _window(self._back, 128 + _within(down), 128 + _within(right), self._height, self._width).copy()
        self._cross(image, *crossing)
        top, left = self._random.integers(0, 64, 2).tolist()
        image += _window(self._grain, top, left, self._height, self._width)
        return image.clip(0, 255).astype(np.uint8)

    def _cross(self, image: npt.NDArray[np.int16], down: int, right: int) -> None:
        high, wide = self._front.shape[:2]
        top = (self._height // 3 + down) % (self._height - high)
        left = (self._width // 3 + 2 * right) % (self._width - wide)
        image[top : top + high, left : left + wide] = self._front


def _within(shift: int) -> int:
    return max(-127, min(127, shift))


def _window(image: npt.NDArray[np.int16], top: int, left: int, height: int, width: int) -> npt.NDArray[np.int16]:
    return image[top : top + height, left : left + width]


def _texture(random: np.random.Generator, height: int, width: int) -> npt.NDArray[np.int16]:
    """Noise of several sizes, the coarse ones strongest, as in pictures of the world."""
    total = np.zeros((height, width, 3), np.float32)
    for size, weight in ((128, 70), (32, 30), (8, 12), (2, 5)):
        coarse = random.normal(0, weight, (height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += _enlarged(coarse, size)[:height, :width]
    return (total + 128).astype(np.int16)


def _enlarged(coarse: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Scaled up linearly: [h, w, 3] → [(h - 1) * size, (w - 1) * size, 3]."""
    part = np.arange(size, dtype=np.float32)[:, None] / size
    rows = coarse[:-1, None] * (1 - part[..., None]) + coarse[1:, None] * part[..., None]
    rows = rows.reshape(-1, *coarse.shape[1:])
    columns = rows[:, :-1, None] * (1 - part) + rows[:, 1:, None] * part
    return np.ascontiguousarray(columns.reshape(rows.shape[0], -1, 3))
