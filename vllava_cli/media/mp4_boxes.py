"""Reads the boxes of an MP4 or MOV file, and tells whether it is fragmented, a part of a stream, or encrypted.

FFmpeg tells none of this. Source: ISO/IEC 14496-12 (boxes, movie fragments), 23001-7 (common encryption).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

from vllava_cli.errors import quoted

_MOST_BOXES, _MOST_INNER = 10_000, 256
"""The most boxes that are looked at beside each other: outermost ones, which may be fragments, and inner ones."""
_MOST_BYTES = 64 << 20
"""The most bytes of a moov box that are searched."""
_STARTS = (b"ftyp", b"styp", b"sidx", b"moov", b"moof", b"emsg", b"prft")


Span = tuple[int, int]
"""The first byte of a part of a file, and the one behind its last."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box of a file: its type, four letters, the span that it states for itself, and the part of it that is there."""

    kind: bytes
    stated: Span
    content: Span


def outer_boxes(path: Path) -> Iterator[Box]:
    """Yields a file's outermost boxes in order, at most 10,000; the last box may be cut. Errors: OSError."""
    with path.open("rb", buffering=0) as file:
        yield from boxes(file, (0, file.seek(0, SEEK_END)), most=_MOST_BOXES)


def boxes(file: BinaryIO, around: Span, *, most: int = _MOST_INNER) -> Iterator[Box]:
    """Yields the boxes in a part of a file in order, at most so many. Errors: OSError."""
    position, end = around
    for _ in range(most):
        if position + 8 > end:
            return
        file.seek(position)
        head = file.read(min(16, end - position))
        size, kind = struct.unpack(">I4s", head[:8])
        start = position + 8
        if size == 1 and len(head) == 16:
            size, start = int.from_bytes(head[8:], "big"), position + 16
        after = position + size if size else end  # 0: up to the end
        if after < start:
            return
        yield Box(kind=kind, stated=(position, after), content=(start, min(after, end)))
        position = after


def inside(file: BinaryIO, around: Span, *kinds: bytes) -> Iterator[Span]:
    """Yields the contents of the boxes that a path of kinds leads to: moov, trak → each track. Errors: OSError."""
    if not kinds:
        yield around
        return
    for box in boxes(file, around):
        if box.kind == kinds[0]:
            yield from inside(file, box.content, *kinds[1:])


def has_fragments(path: Path) -> bool:
    """Returns True if an MP4 lists some frames in fragments (moof), or has too many boxes to find out."""
    return any(box.kind == b"moof" or number == _MOST_BOXES for number, box in enumerate(outer_boxes(path), 1))


def stream_part(path: Path) -> str:
    """Returns a sentence if the file is one part of a segmented stream, which can't be shown alone; "" if it isn't."""
    kinds = list[bytes]()
    with suppress(OSError):
        kinds = [box.kind for box in islice(outer_boxes(path), 100)]
    if not kinds or kinds[0] not in _STARTS:
        return ""
    if b"moof" in kinds and b"moov" not in kinds:
        return f"{quoted(path)} is a later part of a segmented stream: put the stream's beginning before it."
    if not {b"moof", b"mdat"} & set(kinds) and b"mvex" in _movie(path):
        return f"{quoted(path)} is the beginning of a segmented stream: join it with its segments."
    return ""


def is_encrypted(path: Path) -> bool:
    """Returns True if an MP4 says that its video is encrypted (encv)."""
    return b"encv" in _movie(path)


def _movie(path: Path) -> bytes:
    """Reads the moov box, which describes the whole file; b"" if there is none, or if it is cut."""
    with suppress(OSError):
        movie = next((box.stated for box in outer_boxes(path) if box.kind == b"moov"), None)
        if movie:
            with path.open("rb") as file:
                file.seek(movie[0])
                size = movie[1] - movie[0]
                found = file.read(min(size, _MOST_BYTES))
                return found if len(found) == size else b""
    return b""
