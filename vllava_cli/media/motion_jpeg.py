"""Tells a raw motion JPEG, pictures one behind the other, from one picture with something behind it.

Source: ITU-T T.81, annex B (markers and segments).
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Container
from pathlib import Path

_MARKER = re.compile(rb"\xff([^\0\xd0-\xd7\xff])", re.DOTALL)
"""Any marker but those within coded pixels: ff 00 stands for the byte ff, ff d0 to ff d7 are restarts."""
_START, _END, _STANDALONE = 0xD8, 0xD9, 0x01
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The markers of the segment that has a picture's height and width."""
_SUFFIXES = (".mjpeg", ".mjpg")
_MOST_BYTES = 64 << 20
"""More than the first picture of any video has; the address space of the decoding process is limited."""
_NEXT = re.compile(rb"[\0\xff]{0,4096}?(?=\xff\xd8\xff)")


def is_motion_jpeg(path: Path, stated: Container[object]) -> bool:
    """Returns True if a JPEG's first picture is followed by another one, with nothing but padding between them.

    A smaller one is a preview or a gain map of the first. Reads to the end of the first picture, but not of photos:
    `stated` are the keys of what Pillow found in the header, "exif" among them if a camera wrote it.
    """
    if "mp" in stated or ("exif" in stated and path.suffix.lower() not in _SUFFIXES):
        return False
    with path.open("rb") as file:
        length = min(_MOST_BYTES, os.fstat(file.fileno()).st_size)
        with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) as data:
            end, pixels = _picture(data, 0)
            following = _NEXT.match(data, end)
            return following is not None and _picture(data, following.end())[1] >= pixels > 0


def _picture(data: mmap.mmap, start: int) -> tuple[int, int]:
    """Returns where the JPEG at `start` ends, and its width times its height, 0 if it doesn't state them.

    Segments are passed over by their lengths, so that the thumbnail in one isn't taken for a picture.
    """
    at, pixels = start + 2, 0
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker in (_START, _END):  # some cameras leave out the end
            return (at if marker == _END else at - 2), pixels
        if marker == _STANDALONE:
            continue
        if marker in _FRAMES:
            pixels = int.from_bytes(data[at + 3 : at + 5], "big") * int.from_bytes(data[at + 5 : at + 7], "big")
        at += int.from_bytes(data[at : at + 2], "big")
    return len(data), pixels
