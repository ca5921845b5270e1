"""Looks at all frames of a clip that has no index: a folder, an animation, a video that must be decoded in full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vllava_cli.media.images import every_picture, look
from vllava_cli.media.pictures import Pixels
from vllava_cli.media.timeline.key_frames import HEIGHT, WIDTH, Look, Shrinker
from vllava_cli.media.video.full_decode import all_frames


def all_looks(path: Path) -> Iterator[Look]:
    """Yields a look at each frame of a clip, in order. Errors: MediaError."""
    if not path.is_dir() and look(path) == "video":
        shrinker = Shrinker()
        for time_s, frame in all_frames(path):
            yield Look(time_s=time_s, picture=shrinker.small(frame))
        return
    for time_s, pixels in every_picture(path):
        yield Look(time_s=time_s, picture=_small(pixels))


def _small(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BOX))
