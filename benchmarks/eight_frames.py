"""The eight frames that every decoder gives, and the plain means that the others share to open and convert."""

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
class EightFrames:
    """RGB and seconds; `matrix` is the display matrix by which the pictures weren't rotated."""

    pictures: Sequence[Picture]
    times_s: Sequence[float]
    """Empty for a decoder that reports none."""
    matrix: bytes | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the upright pixels, in hexadecimal digits."""
        rotation, found = orientation_of(self.matrix), hashlib.sha256()
        for picture in self.pictures:
            found.update(np.ascontiguousarray(upright(picture[np.newaxis], rotation)).tobytes())
        return found.hexdigest()

    @property
    def offsets_s(self) -> list[float]:
        """Seconds from the first frame on."""
        return [time_s - self.times_s[0] for time_s in self.times_s]


def open_plainly(path: Path) -> InputContainer:
    """Opens a file as the documentation does, but no playlist and no other host: the file may be anyone's."""
    return av.open(f"file:{path.absolute()}", "r", options=dict(OPTIONS))


def rgb(frame: av.VideoFrame) -> Picture:
    """[H, W, 3] by PyAV's own conversion."""
    return cast("Picture", frame.to_ndarray(format="rgb24"))
