"""Reads images with Pillow: stills, animations that FFmpeg can't read (WebP, AVIF), and folders of pictures as clips.

`look` tells still images, animations and videos apart by their content. Pillow uses only the plugins named here, so
that a file can't choose a plugin that starts other programs.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from vllava_cli.errors import MediaError, os_reason, quoted
from vllava_cli.media.container import check_size
from vllava_cli.media.file_check import IMAGE_SUFFIXES, MAX_PIXELS, VIDEO_SUFFIXES, check_file
from vllava_cli.media.pictures import Orientation, Pixels, upright
from vllava_cli.media.select import choose
from vllava_cli.nouns import Clip, Frames, Framing

Look = Literal["still", "animation", "video"]

_FORMATS = ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif", "Ppm")
for _format in _FORMATS:  # an import registers the plugin; if one is missing, Pillow imports all of them
    import_module(f"PIL.{_format}ImagePlugin")
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

MAX_ENTRIES = 100_000
_PICTURES = (*(suffix for suffix in IMAGE_SUFFIXES if suffix != ".heic"), ".pgm", ".pnm", ".ppm")
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|P[1-6]\s|RIFF....WEBP|....ftyp(avi[fs]|mif1|msf1)", re.DOTALL
)
_TICK_S = 0.0015
"""Steps that differ by less are equal: an animation's times are whole milliseconds."""

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
    """Reads an image as one upright RGB frame at 0 s; as `Image.convert("RGB")` does, it drops transparency."""
    check_file(path)
    with opened_image(path) as image:
        stored, turn = stored_image(path, image), turn_of(image)
        loaded = rgb(image)[np.newaxis]
        pixels = upright(loaded, turn_of(image))  # not `turn`: Pillow turns a TIFF by itself while it loads it
    pages, (_, height, width, _) = stored.frame_count, pixels.shape
    fault = f"Only the first of the {pages} pages of {quoted(path)} is used."
    faults = (fault,) if stored.codec == "tiff" and pages > 1 else ()
    clip = replace(stored, width=width, height=height, frame_count=1, rotation=turn.rotation, faults=faults)
    return Frames(clip=clip, pixels=pixels, times_s=(0.0,))


def read_animation(path: Path, framing: Framing) -> Frames:
    """Reads the frames that a framing asks for; each is drawn over the frames before it.

    Their times follow from the durations in the file. Errors: MediaError.
    """
    with opened_image(path) as image:
        starts_s, duration_s = _starts(image, path)
        chosen = choose(starts_s, framing, duration_s=duration_s, name=quoted(path))
        frames: dict[int, Pixels] = {}
        for index in sorted(set(chosen)):
            image.seek(index)
            frames[index] = rgb(image)
        stored = stored_image(path, image)
    decoded, expected = len(starts_s), stored.frame_count
    fault = f"{decoded} of {expected} frames of {quoted(path)} could be decoded: the file is truncated or damaged."
    clip = replace(
        stored,
        kind="video",
        frame_count=decoded,
        duration_s=duration_s,
        fps=decoded / duration_s if duration_s else None,
        is_rate_constant=bool(np.ptp(np.diff((*starts_s, duration_s))) < _TICK_S),
        way="decode",
        way_reason="Decoded in full: each frame of an animation is drawn over those before it.",
        faults=(fault,) if decoded < expected else (),
    )
    pixels = np.stack([frames[index] for index in chosen])
    return Frames(clip=clip, pixels=pixels, times_s=tuple(starts_s[index] for index in chosen))


def read_folder(path: Path, framing: Framing) -> Frames:
    """Reads a folder of pictures as a clip that shows each picture for one second.

    Reads only the pictures that the framing asks for, and scales them to the size of the one that sorts first.
    """
    pictures, others = _listing(path)
    count = len(pictures)
    chosen = choose(range(count), framing, duration_s=count, name=quoted(path))
    stills = {index: read_still(pictures[index]) for index in sorted(set(chosen))}
    first = stills[min(stills)].clip
    clip = replace(
        first,
        path=path,
        kind="video",
        frame_count=count,
        duration_s=float(count),
        fps=1.0,
        container="folder",
        is_rate_constant=True,
        rotation=0,
        way="seek",
        way_reason="Each picture is a file of its own: only those that are shown are read.",
        faults=tuple(_faults(path, others, [still.clip for still in stills.values()])),
    )
    pixels = np.stack([_scaled(stills[index], first) for index in chosen])
    return Frames(clip=clip, pixels=pixels, times_s=tuple(float(index) for index in chosen))


def folder_pictures(path: Path) -> tuple[Path, ...]:
    """Returns the pictures directly in a folder, in the order in which they are shown. Errors: MediaError."""
    return _listing(path)[0]


def natural(name: str) -> tuple[list[str | int], str]:
    """Makes a key that sorts names as people count: natural("b.png") < natural("B2.png") < natural("b10.png")."""
    parts = re.split(r"(\d+)", Path(name).stem.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def look(path: Path) -> Look:
    """Finds the kind of a file by its content; an "animation" moves like a video, but FFmpeg can't decode it."""
    try:
        with opened_image(path) as image:
            if image.format not in ("GIF", "PNG", "WEBP", "AVIF") or not _has_second_frame(image):
                return "still"
            return "animation" if image.format in ("WEBP", "AVIF") else "video"
    except MediaError as exc:
        if isinstance(exc.__cause__, UnidentifiedImageError):
            return "video"
        raise


def _has_second_frame(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except IMAGE_ERRORS:
        return False
    return True


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Opens an image without decoding it. Errors: MediaError, from `UnidentifiedImageError` if the file is no image."""
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
    except IMAGE_ERRORS as exc:
        raise MediaError(f"{quoted(path)} is a truncated or damaged image. Copy or download it again.") from exc


def stored_image(path: Path, image: Image.Image) -> Clip:
    """Returns an image's facts from its header: the size as stored, and the number of all its frames or pages."""
    codec = (image.format or "").lower()
    return Clip(
        path=path,
        kind="image",
        width=image.width,
        height=image.height,
        frame_count=getattr(image, "n_frames", 1),
        codec=codec,
        container=codec,
        pixel_format=image.mode.lower(),
    )


def rgb(image: Image.Image) -> Pixels:
    """Converts an image to [H, W, 3]. 16-bit grey is reduced to its high byte; Pillow alone turns most of it white."""
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("RGB"))
    grey = np.asarray(image).astype(np.int64).clip(0, 65535)
    if image.mode != "I" or grey.max() > 255:
        grey >>= 8
    return np.repeat(grey.astype(np.uint8)[..., np.newaxis], 3, axis=2)


def turn_of(image: Image.Image) -> Orientation:
    """Reads EXIF's orientation, 1 to 8; if the EXIF block is damaged, the picture is used as it is stored."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except IMAGE_ERRORS:
        value = 1
    return _TURNS.get(value, Orientation())


def _starts(image: Image.Image, path: Path) -> tuple[tuple[float, ...], float]:
    """Returns the seconds at which each decodable frame starts, and the second at which the last one ends.

    Frames of 0.1 s and 0.2 s → ((0.0, 0.1), 0.3). Errors: MediaError if no frame can be decoded.
    """
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


def _listing(path: Path) -> tuple[tuple[Path, ...], int]:
    """Returns the pictures directly in a folder, in order, and the number of other entries; ignores hidden entries."""
    try:
        with os.scandir(path) as entries:
            visible = list(islice((entry for entry in entries if not entry.name.startswith(".")), MAX_ENTRIES + 1))
    except OSError as exc:
        raise MediaError(f"{quoted(path)} can't be read: {os_reason(exc)}. Check the folder.") from exc
    if len(visible) > MAX_ENTRIES:
        raise MediaError(
            f"{quoted(path)} has more than {MAX_ENTRIES:,} entries. Move the pictures to show into a smaller folder."
        )
    names = sorted((entry.name for entry in visible if _is_picture(entry)), key=natural)
    if names:
        return tuple(path / name for name in names), len(visible) - len(names)
    if any(entry.name.lower().endswith(VIDEO_SUFFIXES) for entry in visible):
        raise MediaError(f"{quoted(path)} has videos but no pictures in it. Name the videos themselves.")
    raise MediaError(f"{quoted(path)} is a folder. Name the video or image files in it.")


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """Checks the name's ending, then the first bytes. A file without read permission passes, and fails if shown."""
    if not entry.name.lower().endswith(_PICTURES):
        return False
    try:
        if not stat.S_ISREG(entry.stat().st_mode):
            return False
        with Path(entry.path).open("rb") as file:
            return bool(_SIGNATURES.match(file.read(12)))
    except PermissionError:
        return True
    except OSError:
        return False


def _scaled(still: Frames, first: Clip) -> Pixels:
    pixels: Pixels = still.pixels[0]
    if (still.clip.width, still.clip.height) == (first.width, first.height):
        return pixels
    return rgb(Image.fromarray(pixels).resize((first.width, first.height), Image.Resampling.BICUBIC))


def _faults(path: Path, others: int, read: Sequence[Clip]) -> Iterator[str]:
    if others:
        entries = "1 entry" if others == 1 else f"{others} entries"
        yield f"{entries} of {quoted(path)} left out: not a picture."
    first = read[0]
    scaled = sum((clip.width, clip.height) != (first.width, first.height) for clip in read)
    if scaled:
        yield (
            f"{scaled} of the {len(read)} pictures read from {quoted(path)} were scaled to the size of the first, "
            f"{first.width}x{first.height}."
        )
    for clip in read:
        yield from clip.faults
