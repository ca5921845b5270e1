"""The lower bound of reading frames: one decoder that knows beforehand where they are decodes just what is needed.

It is written apart from the sampler that is compared with it: it trusts every key frame, checks nothing and never
falls back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from av.container import InputContainer

from benchmarks.eight_frames import EightFrames, Picture, open_plainly, rgb
from vllava_cli.media.pictures import matrix_of
from vllava_cli.media.select import pick

_PACK_BYTES = 2048
"""A program stream's pack: the one that a key frame begins in begins with the frame before."""
_SEEK_BY_BYTE = ("mpegts", "mpeg")


class LowerBoundError(Exception):
    """A file whose structure doesn't lead to the needed frames."""


@dataclass(frozen=True, kw_only=True)
class _NeededGroup:
    """A group of pictures as far as it is needed."""

    seek_to: int
    """The key frame's time stamp; a byte just before it where the container has no index of times."""
    wanted: frozenset[int]
    """Time stamps."""


@dataclass(kw_only=True)
class _Taken:
    """Time stamp → RGB and seconds, and the display matrix of the first frame that was taken."""

    frames: dict[int, tuple[Picture, float]]
    matrix: bytes | None = None


def prepare_lower_bound(path: Path, threads: Literal["SLICE", "AUTO"]) -> Callable[[], EightFrames]:
    """Reads the structure; the function that comes back decodes. Errors: LowerBoundError, from both."""
    wanted, groups, is_by_byte = _structure(path)

    def run() -> EightFrames:
        taken = _Taken(frames={})
        with open_plainly(path) as container:
            container.streams.video[0].codec_context.thread_type = threads
            for group in groups:
                _decode(container, group, taken, is_by_byte=is_by_byte)
        if missing := [stamp for stamp in wanted if stamp not in taken.frames]:
            raise LowerBoundError(f"{len(missing)} of 8 frames don't lie where the key frames before them say")
        pictures, times_s = zip(*(taken.frames[stamp] for stamp in wanted), strict=True)
        return EightFrames(pictures=pictures, times_s=times_s, matrix=taken.matrix)

    return run


def _structure(path: Path) -> tuple[list[int], list[_NeededGroup], bool]:
    """The eight time stamps, the groups that hold them, and whether one seeks by byte."""
    with open_plainly(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        is_by_byte = container.format.name in _SEEK_BY_BYTE
    stamps = sorted(packet.pts or 0 for packet in packets)
    keys = sorted((packet.pts or 0, packet.pos or 0) for packet in packets if packet.is_keyframe)
    wanted = [stamps[index] for index in pick(len(stamps))] if stamps else []
    if not keys or len(set(wanted)) < min(len(wanted), len(stamps)):
        raise LowerBoundError("its packets don't say where its frames and key frames are")
    groups: dict[int, set[int]] = {}
    for stamp in wanted:
        key, position = keys[max(0, bisect_right(keys, stamp, key=lambda pair: pair[0]) - 1)]
        groups.setdefault(max(0, position - _PACK_BYTES) if is_by_byte else key, set()).add(stamp)
    needed = [_NeededGroup(seek_to=place, wanted=frozenset(group)) for place, group in groups.items()]
    return wanted, needed, is_by_byte


def _decode(container: InputContainer, group: _NeededGroup, taken: _Taken, *, is_by_byte: bool) -> None:
    """Decodes from the key frame forward to the last frame that is wanted."""
    stream, missing = container.streams.video[0], set(group.wanted)
    container.seek(group.seek_to, stream=stream, unsupported_byte_offset=is_by_byte)
    for frame in container.decode(stream):
        if frame.pts in missing:
            taken.matrix = taken.matrix or matrix_of(frame)
            taken.frames[frame.pts] = rgb(frame), frame.time or 0.0
            missing.remove(frame.pts)
        if not missing:
            return
