"""Images, read with Pillow; `look` tells by content whether a file is a still image, an animation or a video.

Pillow runs with the plugins named here only, so that a file can't choose one that starts other programs.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.container import MAX_PIXELS, check_size
from vllava_cli.media.files import check_file
from vllava_cli.media.upright import Orientation, upright
from vllava_cli.nouns import Clip, Frames

Look = Literal["still", "animation", "video"]

# BackgroundImport a plugin registers it; Pillow would import all of them for a format that is missing.
_PLUGINS = (
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    GifImagePlugin,
    BmpImagePlugin,
    TiffImagePlugin,
    AvifImagePlugin,
    PpmImagePlugin,
)
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Orientation(is_mirrored=True),
    3: Orientation(rotation=180),
    4: Orientation(rotation=180, is_mirrored=True),
    5: Orientation(rotation=270, is_mirrored=True),
    6: Orientation(rotation=90),
    7: Orientation(rotation=90, is_mirrored=True),
    8: Orientation(rotation=270),
}

IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def read_still(path: Path) -> Frames:
    """The image as one upright RGB frame at 0 s, as `Image.convert("RGB")` has it: transparency is dropped."""
    check_file(path)
    with opened_image(path) as image:
        pages, pixel_format = getattr(image, "n_frames", 1), image.mode.lower()
        codec = (image.format or "").lower()
        turn = turn_of(image)
        loaded = rgb(image)[np.newaxis]
        pixels = upright(loaded, turn_of(image))  # again, because Pillow turns a TIFF by itself while it loads it
    faults = (
        (f"Only the first of the {pages} pages of {quoted(path)} is used.",) if codec == "tiff" and pages > 1 else ()
    )
    _, height, width, _ = pixels.shape
    clip = Clip(
        path=path,
        kind="image",
        width=width,
        height=height,
        frame_count=1,
        codec=codec,
        container=codec,
        pixel_format=pixel_format,
        rotation=turn.rotation,
        faults=faults,
    )
    return Frames(clip=clip, pixels=pixels, times_s=(0.0,))


def look(path: Path) -> Look:
    """Tells the kinds apart by content: an animation moves like a video, but FFmpeg can't decode it."""
    try:
        with opened_image(path) as image:
            if image.format not in ("GIF", "PNG", "WEBP", "AVIF") or not _has_second_frame(image):
                return "still"
            return "animation" if image.format in ("WEBP", "AVIF") else "video"
    except UnidentifiedImageError:
        return "video"


def _has_second_frame(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except IMAGE_ERRORS:
        return False
    return True


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """The image, not yet decoded. `UnidentifiedImageError`: no image; `MediaError`: a damaged or huge one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                check_size(path, image.width, image.height)
                yield image
    except Image.DecompressionBombError as exc:
        raise MediaError(
            f"{quoted(path)} is larger than {MAX_PIXELS // 1_000_000} million pixels. Scale it down first."
        ) from exc
    except UnidentifiedImageError:
        raise
    except IMAGE_ERRORS as exc:
        raise MediaError(f"{quoted(path)} is a truncated or damaged image. Copy or download it again.") from exc


def rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """[H, W, 3]. Sixteen-bit grey is reduced to its high byte; Pillow alone would turn most of it white."""
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("RGB"))
    grey = np.asarray(image).astype(np.int64).clip(0, 65535)
    if image.mode != "I" or grey.max() > 255:
        grey >>= 8
    return np.repeat(grey.astype(np.uint8)[..., np.newaxis], 3, axis=2)


def turn_of(image: Image.Image) -> Orientation:
    """EXIF's orientation, 1 to 8; a damaged EXIF block doesn't make the picture unusable."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except IMAGE_ERRORS:
        value = 1
    return _TURNS.get(value, Orientation())
