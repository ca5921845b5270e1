"""What every way gives, and the plain means that the others share: a file just opened, a frame just converted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from vllava_cli.media.container import OPTIONS
from vllava_cli.media.pictures import orientation_of, upright

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Eight:
    """RGB and seconds; `matrix` is the display matrix that the pictures weren't turned by."""

    pictures: Sequence[Picture]
    times_s: Sequence[float]
    """Empty for a way that tells none."""
    matrix: bytes | None = None

    @property
    def digest(self) -> str:
        """Of the pixels, turned upright: SHA-256 in hexadecimal digits."""
        turn, found = orientation_of(self.matrix), hashlib.sha256()
        for picture in self.pictures:
            found.update(np.ascontiguousarray(upright(picture[np.newaxis], turn)).tobytes())
        return found.hexdigest()

    @property
    def offsets_s(self) -> list[float]:
        """From the first frame on."""
        return [time_s - self.times_s[0] for time_s in self.times_s]


def bare(path: Path) -> InputContainer:
    """As the documentation opens it, but no playlist and no other host: the file may be anyone's."""
    return av.open(f"file:{path.absolute()}", "r", options=dict(OPTIONS))


def rgb(frame: av.VideoFrame) -> Picture:
    return cast("Picture", frame.to_ndarray(format="rgb24"))
