"""A folder of pictures as a clip: each counts for one second, in the order of their names."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.images import read_still, rgb
from vllava_cli.media.select import choose
from vllava_cli.nouns import Clip, Frames, Framing

MAX_ENTRIES = 100_000
_PICTURES = (
    *(".apng", ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".pgm", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
_VIDEOS = (".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv")
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|P[1-6]\s|RIFF....WEBP|....ftyp(avi[fs]|mif1|msf1)", re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """What lies directly in a folder, hidden entries aside: the pictures in order, and the number of others."""

    pictures: tuple[Path, ...]
    others: int


def read_folder(path: Path, framing: Framing) -> Frames:
    """The frames that a framing asks for, [T, H, W, 3], all as large as the first of them; only those are decoded."""
    found = _listing(path)
    count = len(found.pictures)
    chosen = choose(range(count), framing, duration_s=count, name=quoted(path))
    stills = {index: _read(found.pictures[index]) for index in sorted(set(chosen))}
    first = stills[min(stills)].clip
    pixels = np.stack([_scaled(stills[index], first) for index in chosen])
    clip = Clip(
        path=path,
        kind="video",
        width=first.width,
        height=first.height,
        frame_count=count,
        duration_s=float(count),
        fps=1.0,
        codec=first.codec,
        container="folder",
        pixel_format=first.pixel_format,
        is_rate_constant=True,
        way="seek",
        way_reason="Each picture is a file of its own: only those that are shown are read.",
        faults=tuple(_faults(path, found, [still.clip for still in stills.values()])),
    )
    return Frames(clip=clip, pixels=pixels, times_s=tuple(float(index) for index in chosen))


def pictures(path: Path) -> tuple[Path, ...]:
    """The pictures of a folder, in the order in which they are shown. Errors: MediaError."""
    return _listing(path).pictures


def natural(name: str) -> tuple[list[str | int], str]:
    """Sorts as people count: natural("b.png") < natural("B2.png") < natural("b10.png")."""
    parts = re.split(r"(\d+)", Path(name).stem.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _listing(path: Path) -> _Listing:
    try:
        with os.scandir(path) as entries:
            visible = list(islice((entry for entry in entries if not entry.name.startswith(".")), MAX_ENTRIES + 1))
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise MediaError(f"{quoted(path)} can't be read: {reason}. Check the folder.") from exc
    if len(visible) > MAX_ENTRIES:
        raise MediaError(
            f"{quoted(path)} has more than {MAX_ENTRIES:,} entries. Move those to show to a smaller folder."
        )
    names = sorted((entry.name for entry in visible if _is_picture(entry)), key=natural)
    videos = sum(entry.name.lower().endswith(_VIDEOS) for entry in visible)
    if not names:
        raise MediaError(_nothing(path, videos))
    return _Listing(pictures=tuple(path / name for name in names), others=len(visible) - len(names))


def _nothing(path: Path, videos: int) -> str:
    if videos:
        return f"{quoted(path)} has videos but no pictures in it. Name the videos themselves."
    return f"{quoted(path)} is a folder. Name the video or image files in it."


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """By its name's ending, then by its first bytes; one that may not be read is only found out when it is picked."""
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


def _read(path: Path) -> Frames:
    try:
        return read_still(path)
    except UnidentifiedImageError as exc:
        raise MediaError(f"{quoted(path)} is a truncated or damaged image. Copy or download it again.") from exc


def _scaled(still: Frames, first: Clip) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = still.pixels[0]
    if (still.clip.width, still.clip.height) == (first.width, first.height):
        return pixels
    return rgb(Image.fromarray(pixels).resize((first.width, first.height), Image.Resampling.BICUBIC))


def _faults(path: Path, found: _Listing, read: Sequence[Clip]) -> Iterator[str]:
    if found.others:
        entries = "1 entry" if found.others == 1 else f"{found.others} entries"
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
