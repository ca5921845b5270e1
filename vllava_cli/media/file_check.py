"""Checks that a media file exists and may be read, before a decoder is needed, and lists the endings of media files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from vllava_cli.errors import MediaError, os_reason, quoted

MAX_PIXELS = 89_478_485
"""The most pixels of a picture that is decoded: Pillow's own limit, 2.7 times an 8K frame."""
VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ogv", ".3gp", ".m2ts", ".mts", ".ts"),
)
"""The likeliest first. If a clip is named without its ending and several files fit, the first ending here wins."""
IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif", ".j2k", ".jp2"),
    *(".jpeg", ".jpg", ".jpx", ".png", ".tif", ".tiff", ".webp"),
)
RARE_VIDEO_SUFFIXES = (
    *(".vob", ".asf", ".flv", ".f4v", ".mxf", ".3g2", ".ogg", ".ogm", ".m2v", ".m1v", ".m2p", ".m2t", ".mpe", ".tod"),
    *(".vro", ".evo", ".dv", ".divx", ".xvid", ".qt", ".mk3d", ".nut", ".mjpeg", ".mjpg", ".h263", ".263", ".h264"),
    *(".264", ".h265", ".265", ".hevc", ".ivf", ".obu", ".y4m"),
)
"""Endings of videos, too; but a clip that is named without its ending isn't looked for under them."""
RARE_IMAGE_SUFFIXES = (".jfif", ".jpe", ".mpo", ".pgm", ".pnm", ".ppm")
MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *RARE_VIDEO_SUFFIXES, *IMAGE_SUFFIXES, *RARE_IMAGE_SUFFIXES)
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_file(path: Path) -> None:
    """Raises a `MediaError` unless `path` is a readable regular file that isn't empty. Opens no pipe and no device."""
    opened_file(path).close()


def opened_file(path: Path) -> BinaryIO:
    """Opens a file for reading, unbuffered. Errors: those of `check_file`."""
    name = quoted(path)
    try:
        check_facts(name, path.stat())
        return path.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise MediaError(f"There is no file {name}. Check the path.") from exc
    except PermissionError as exc:
        raise MediaError(
            f"{name} can't be read: permission denied. Run chmod or choose a file that you may read."
        ) from exc
    except (OSError, ValueError) as exc:
        raise MediaError(f"{name} can't be read: {os_reason(exc)}. Check the path.") from exc


def check_facts(name: str, facts: os.stat_result) -> None:
    """Raises a `MediaError` unless these are the facts of a regular file that isn't empty."""
    if stat.S_ISDIR(facts.st_mode):
        raise MediaError(f"{name} is a folder. Name the video or image files in it.")
    if not stat.S_ISREG(facts.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(facts.st_mode)), "something else")
        raise MediaError(f"{name} is {kind}, not a regular file. Save it to a file first.")
    if facts.st_size == 0:
        raise MediaError(f"{name} is empty (0 bytes). Copy or download it again.")
