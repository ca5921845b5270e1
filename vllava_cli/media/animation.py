"""Animated WebP and AVIF, decoded by Pillow: FFmpeg can't read the first and sees one picture in the second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.images import IMAGE_ERRORS, opened_image, rgb
from vllava_cli.media.select import choose
from vllava_cli.nouns import Clip, Frames, Framing

_TICK_S = 0.0015
"""Times are kept in whole milliseconds."""


def sample_animation(path: Path, framing: Framing) -> Frames:
    """The eight reference frames of an animation, each composed over those before it; durations give the times."""
    with opened_image(path) as image:
        starts_s, duration_s = _survey(image, path)
        chosen = choose(starts_s, framing, duration_s=duration_s, name=quoted(path))
        frames = {index: _frame(image, index) for index in sorted(set(chosen))}
        pixels = np.stack([frames[index] for index in chosen])
        clip = _clip(path, image, starts_s, duration_s)
    return Frames(clip=clip, pixels=pixels, times_s=tuple(starts_s[index] for index in chosen))


def _clip(path: Path, image: Image.Image, starts_s: Sequence[float], duration_s: float) -> Clip:
    decoded, expected = len(starts_s), getattr(image, "n_frames", 1)
    fault = f"{decoded} of {expected} frames of {quoted(path)} could be decoded: the file is truncated or damaged."
    return Clip(
        path=path,
        kind="video",
        width=image.width,
        height=image.height,
        frame_count=decoded,
        duration_s=duration_s,
        fps=decoded / duration_s if duration_s else None,
        codec=(image.format or "").lower(),
        container=(image.format or "").lower(),
        pixel_format=image.mode.lower(),
        is_rate_constant=bool(np.ptp(np.diff((*starts_s, duration_s))) < _TICK_S),
        way="decode",
        way_reason="Decoded through: each frame of an animation is drawn over those before it.",
        faults=(fault,) if decoded < expected else (),
    )


def _survey(image: Image.Image, path: Path) -> tuple[tuple[float, ...], float]:
    """Seconds at which each decodable frame starts, and the last one ends: 0.1 s and 0.2 s long → ((0.0, 0.1), 0.3)."""
    starts_ms = [0]
    for index in range(getattr(image, "n_frames", 1)):
        try:
            image.seek(index)
            image.load()
        except IMAGE_ERRORS:
            break
        starts_ms.append(starts_ms[-1] + int(image.info.get("duration", 0)))
    if len(starts_ms) == 1:
        raise MediaError(f"No frame of {quoted(path)} could be decoded: it is damaged. Copy or download it again.")
    return tuple(start_ms / 1000 for start_ms in starts_ms[:-1]), starts_ms[-1] / 1000


def _frame(image: Image.Image, index: int) -> npt.NDArray[np.uint8]:
    image.seek(index)
    return rgb(image)
