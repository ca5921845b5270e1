"""Reads images with Pillow: stills, animations that FFmpeg can't read (WebP, AVIF), and several pictures as clips.

`look` tells still images, animations and videos apart by their content. Several pictures are a folder of them, or one
HEIF file with a burst.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from vllava_cli.errors import DamagedError, MediaError, os_reason, quoted
from vllava_cli.media.container import check_size
from vllava_cli.media.file_check import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    RARE_IMAGE_SUFFIXES,
    RARE_VIDEO_SUFFIXES,
    VIDEO_SUFFIXES,
    check_file,
)
from vllava_cli.media.image_formats import (
    FORMATS,
    PICTURE,
    RefusedError,
    coded_size,
    heif_orientation,
    heif_places,
    heif_transfer,
    mpo_count,
    page_places,
    turns_itself,
)
from vllava_cli.media.motion_jpeg import is_motion_jpeg
from vllava_cli.media.pictures import Orientation, Pixels, over, upright
from vllava_cli.media.select import choose
from vllava_cli.media.tone_map import sdr_of
from vllava_cli.nouns import WHITE, Clip, Frames, Framing

Look = Literal["still", "animation", "burst", "video"]

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

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0

Listing = tuple[tuple[Path, ...], int]
"""The pictures of a folder, in order, and the number of its other entries."""
MAX_ENTRIES = 100_000
_PICTURES = (*IMAGE_SUFFIXES, *RARE_IMAGE_SUFFIXES)
_TICK_S = 0.0015
"""Steps that differ by less are equal: an animation's times are whole milliseconds."""
_SHORTEST_MS, _UNSTATED_MS = 10, 100
"""A frame of 10 ms or less is shown for 100 ms, as Firefox, Chromium and WebKit do."""

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


def read_still(path: Path, background: str = WHITE) -> Frames:
    """Reads an image as one upright RGB frame at 0 s; the background shows through where the image is transparent."""
    check_file(path)
    with opened_image(path) as image:
        pictures, noun = to_first(image)
        stored, turn = stored_image(path, image), turn_of(image)
        pixels = rgb(image, background)[np.newaxis]
        if not turns_itself(image):
            pixels = upright(pixels, turn)
    _, height, width, _ = pixels.shape
    notes = (f"Only the first of the {pictures} {noun} of {quoted(path)} is used.",) if pictures > 1 else ()
    clip = replace(stored, width=width, height=height, frame_count=1, rotation=turn.rotation, notes=notes)
    return Frames(clip=clip, pixels=pixels, times_s=(0.0,))


def read_animation(path: Path, framing: Framing) -> Frames:
    """Reads the frames that a framing asks for. Errors: MediaError."""
    with opened_image(path) as image:
        return Animation(image, path).frames(framing)


class Animation:
    """The frames of an animation, each drawn over those before it; their times follow from the durations in the file.

    Errors: MediaError, and those that `image_faults` turns into one.
    """

    def __init__(self, image: Image.Image, path: Path) -> None:
        """Decodes all frames once, for their times."""
        self._image, self._path = image, path
        self.starts_s, self.duration_s = _starts(image, path)

    def frames(self, framing: Framing) -> Frames:
        """Reads the frames that a framing asks for; frames behind those that were read last are reached from there."""
        path, image, starts_s, duration_s = self._path, self._image, self.starts_s, self.duration_s
        chosen = choose(starts_s, framing, duration_s=duration_s, name=quoted(path))
        frames: dict[int, Pixels] = {}
        for index in sorted(set(chosen)):
            image.seek(index)
            frames[index] = rgb(image, framing.background)
        stored, turn = stored_image(path, image), turn_of(image)
        decoded, expected = len(starts_s), stored.frame_count
        fault = f"{decoded} of {expected} frames of {quoted(path)} could be decoded: the file is truncated or damaged."
        pixels = upright(np.stack([frames[index] for index in chosen]), turn)
        clip = replace(
            stored,
            kind="video",
            width=pixels.shape[2],
            height=pixels.shape[1],
            frame_count=decoded,
            duration_s=duration_s,
            fps=decoded / duration_s,
            is_rate_constant=bool(np.ptp(np.diff((*starts_s, duration_s))) < _TICK_S),
            rotation=turn.rotation,
            way="decode",
            way_reason="Decoded in full: each frame of an animation is drawn over those before it.",
            faults=(fault,) if decoded < expected else (),
        )
        return Frames(clip=clip, pixels=pixels, times_s=tuple(starts_s[index] for index in chosen))


def read_burst(path: Path, framing: Framing) -> Frames:
    """Reads the pictures of an HEIF file as a clip that shows each for one second, like a folder of pictures."""
    with opened_image(path) as image:
        places = heif_places(image)
        chosen = choose(range(len(places)), framing, duration_s=len(places), name=quoted(path))
        stills = dict[int, Frames]()
        for index in sorted(set(chosen)):
            image.seek(places[index])
            check_size(path, *coded_size(image))
            stored, rotation = stored_image(path, image), turn_of(image).rotation
            pixels = rgb(image, framing.background)[np.newaxis]
            clip = replace(stored, height=pixels.shape[1], width=pixels.shape[2], rotation=rotation)
            stills[index] = Frames(clip=clip, pixels=pixels, times_s=(0.0,))
    return _slides(path, stills, chosen, count=len(places), reason="Only the pictures that are shown are decoded.")


def read_folder(path: Path, framing: Framing, listing: Listing | None = None) -> Frames:
    """Reads a folder of pictures as a clip that shows each picture for one second.

    Reads only the pictures that the framing asks for, and scales them to the size of the one that sorts first.
    `listing` is what is in the folder, if that is known already.
    """
    pictures, others = listing or listing_of(path)
    count = len(pictures)
    chosen = choose(range(count), framing, duration_s=count, name=quoted(path))
    stills = {index: read_still(pictures[index], framing.background) for index in sorted(set(chosen))}
    reason = "Each picture is a file of its own: only those that are shown are read."
    slides = _slides(path, stills, chosen, count=count, reason=reason)
    notes = (*_left_out(path, others), *slides.clip.notes)
    return replace(slides, clip=replace(slides.clip, container="folder", rotation=0, notes=notes))


def every_picture(path: Path) -> Iterator[tuple[float, Pixels]]:
    """Yields all pictures of an animation, a burst or a folder, each with its time, as stored. Errors: MediaError."""
    if os.path.isdir(path):
        for index, picture in enumerate(folder_pictures(path)):
            yield float(index), read_still(picture).pixels[0]
        return
    with opened_image(path) as image:
        is_burst = image.format == "HEIF"
        places = heif_places(image) if is_burst else ()
        starts_s = tuple(map(float, range(len(places)))) if is_burst else _starts(image, path)[0]
        for index, time_s in enumerate(starts_s):
            image.seek(places[index] if is_burst else index)
            check_size(path, *coded_size(image))
            yield time_s, rgb(image)


def slides_clip(first: Clip, count: int) -> Clip:
    """Returns the facts of a clip that shows `count` pictures for a second each; `first` are those of one picture."""
    return replace(first, kind="video", frame_count=count, duration_s=float(count), fps=1.0, is_rate_constant=True)


def _slides(path: Path, stills: Mapping[int, Frames], chosen: Sequence[int], *, count: int, reason: str) -> Frames:
    """Makes a clip of `count` seconds from pictures, scaled to the size of the first of those that were read."""
    first = stills[min(stills)].clip
    notes = tuple(_notes(path, [still.clip for still in stills.values()]))
    clip = replace(slides_clip(first, count), path=path, way="seek", way_reason=reason, notes=notes)
    pixels = np.stack([_scaled(stills[index], first) for index in chosen])
    return Frames(clip=clip, pixels=pixels, times_s=tuple(float(index) for index in chosen))


def folder_pictures(path: Path) -> tuple[Path, ...]:
    """Returns the pictures directly in a folder, in the order in which they are shown. Errors: MediaError."""
    return listing_of(path)[0]


def natural(name: str) -> tuple[list[str | int], str]:
    """Makes a key that sorts names as people count: natural("b.png") < natural("B2.png") < natural("b10.png")."""
    parts = re.split(r"(\d+)", Path(name).stem.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def look(path: Path) -> Look:
    """Finds the kind of a file by its content; an "animation" moves like a video, but FFmpeg can't decode it."""
    try:
        with opened_image(path) as image:
            if image.format == "HEIF":
                return "burst" if len(heif_places(image)) > 1 else "still"
            if image.format == "JPEG" and is_motion_jpeg(path, image.info):
                return "video"
            if image.format not in ("GIF", "PNG", "WEBP", "AVIF") or not _moves(image):
                return "still"
            return "animation" if image.format in ("WEBP", "AVIF") else "video"
    except MediaError as exc:
        if isinstance(exc.__cause__, UnidentifiedImageError):
            return "video"
        raise


def _moves(image: Image.Image) -> bool:
    """Returns True if an image has a second frame, next to the picture for readers that don't know about animations."""
    try:
        image.seek(2 if image.info.get("default_image") else 1)
    except IMAGE_ERRORS:
        return False
    return True


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Opens an image without decoding it. Errors: MediaError, from `UnidentifiedImageError` if the file is no image."""
    with image_faults(path), Image.open(path, formats=FORMATS) as image:
        check_size(path, *coded_size(image))
        yield image


@contextmanager
def image_faults(path: Path) -> Iterator[None]:
    """Turns errors of Pillow, raised in a `with` block that reads an image, into a `MediaError`; hides its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RefusedError as exc:
        raise MediaError(f"{quoted(path)} is {exc}, which vllava doesn't open. Convert it to PNG.") from exc
    except Image.DecompressionBombError as exc:
        raise MediaError(
            f"{quoted(path)} is larger than {MAX_PIXELS // 1_000_000} million pixels. Scale it down first."
        ) from exc
    except IMAGE_ERRORS as exc:
        raise DamagedError(f"{quoted(path)} is a truncated or damaged image. Copy or download it again.") from exc


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
        transfer=heif_transfer(image),
    )


def rgb(image: Image.Image, background: str = WHITE) -> Pixels:
    """Converts an image to [H, W, 3], in the colours of SDR, over a background where it is transparent."""
    if image.mode.startswith(("I", "F")):
        return _grey(image, background)
    pixels = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    if transfer := heif_transfer(image):
        pixels = sdr_of(pixels, transfer)
    return over(pixels, background) if pixels.shape[2] == 4 else pixels


def _grey(image: Image.Image, background: str) -> Pixels:
    """Converts whole numbers of 16 bits and more, and fractions; Pillow alone turns most of them white or black.

    Whole numbers up to 65,535 lose their low byte. Fractions from 0 to 1 become 0 to 255. Other values are stretched
    from the least to the greatest, as viewers of measurements do.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
    least, most = float(values.min()), float(values.max())
    is_whole = image.mode.startswith("I")
    if is_whole and most <= 65535:
        shades = values.clip(0) // (1 if image.mode == "I" and most <= 255 else 256)
    elif least >= 0 and most <= 255:
        shades = values * (255 if most <= 1 else 1)
    else:
        shades = (values - least) * (255 / ((most - least) or 1)) + 0.5
    if image.format == "TIFF" and cast(TiffImageFile, image).tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        shades = 255 - shades
    pixels = np.repeat(shades.astype(np.uint8)[..., np.newaxis], 4, axis=2)
    pixels[..., 3] = 255 * (values != image.info.get("transparency", -1))
    return over(pixels, background)


def to_first(image: Image.Image) -> tuple[int, str]:
    """Goes to the picture that stands for the file; returns the number of its pictures, and the noun for them."""
    match image.format:
        case "TIFF":
            return len(page_places(image)), "pages"
        case "MPO":
            return mpo_count(image), "pictures"
        case "PNG" if image.info.get("default_image"):
            image.seek(1)
    return 1, "pictures"


def turn_of(image: Image.Image) -> Orientation:
    """Reads EXIF's orientation, 1 to 8; if the EXIF block is damaged, the picture is used as it is stored."""
    if image.format == "HEIF":
        return heif_orientation(image)
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
        stated_ms = int(image.info.get("duration", 0))
        starts_ms.append(starts_ms[-1] + (stated_ms if stated_ms > _SHORTEST_MS else _UNSTATED_MS))
    if len(starts_ms) == 1:
        raise DamagedError(f"No frame of {quoted(path)} could be decoded: it is damaged. Copy or download it again.")
    return tuple(start_ms / 1000 for start_ms in starts_ms[:-1]), starts_ms[-1] / 1000


def listing_of(path: Path) -> Listing:
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
    if any(entry.name.lower().endswith((*VIDEO_SUFFIXES, *RARE_VIDEO_SUFFIXES)) for entry in visible):
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
            return bool(PICTURE.match(file.read(12)))
    except PermissionError:
        return True
    except OSError:
        return False


def _scaled(still: Frames, first: Clip) -> Pixels:
    pixels: Pixels = still.pixels[0]
    if (still.clip.width, still.clip.height) == (first.width, first.height):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((first.width, first.height), Image.Resampling.BICUBIC))


def _left_out(path: Path, others: int) -> Iterator[str]:
    if others:
        entries = "1 entry" if others == 1 else f"{others} entries"
        yield f"{entries} of {quoted(path)} left out: not a picture."


def _notes(path: Path, read: Sequence[Clip]) -> Iterator[str]:
    first = read[0]
    scaled = sum((clip.width, clip.height) != (first.width, first.height) for clip in read)
    if scaled:
        yield (
            f"{scaled} of the {len(read)} pictures read from {quoted(path)} were scaled to the size of the first, "
            f"{first.width}x{first.height}."
        )
    for clip in read:
        yield from clip.notes
