"""The floor: what decoding just the needed parts of a file takes one decoder that knows its structure beforehand.

Written apart from the sampler that it is held against: it trusts every key frame, checks nothing and never falls back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

Picture = npt.NDArray[np.uint8]
_PACK_BYTES = 2048
"""A program stream's pack: the one that a key frame begins in begins with the frame before."""
Taken = dict[int, tuple[Picture, float]]
"""Time stamp → RGB and seconds."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A group of pictures as far as it is needed."""

    seek_to: int
    """The key frame's time stamp; a byte just before it where the container has no index of times."""
    wanted: frozenset[int]
    """Time stamps."""


def prepared(path: Path, threads: Literal["SLICE", "AUTO"]) -> Callable[[], tuple[list[Picture], list[float]]]:
    """Reads the structure; the function that comes back decodes: eight frames and their seconds."""
    wanted, parts, is_by_byte = _structure(path)

    def run() -> tuple[list[Picture], list[float]]:
        taken: Taken = {}
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_type = threads
            for part in parts:
                _decode(container, part, taken, is_by_byte=is_by_byte)
        return [taken[stamp][0] for stamp in wanted], [taken[stamp][1] for stamp in wanted]

    return run


def _structure(path: Path) -> tuple[list[int], list[Part], bool]:
    """The eight time stamps, the parts that hold them, and whether one seeks by byte."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        is_by_byte = container.format.name in ("mpegts", "mpeg")
    stamps = sorted(packet.pts or 0 for packet in packets)
    keys = sorted((packet.pts or 0, packet.pos or 0) for packet in packets if packet.is_keyframe)
    wanted = [stamps[index * len(stamps) // 8] for index in range(8)]
    groups: dict[int, set[int]] = {}
    for stamp in wanted:
        key, position = keys[bisect_right(keys, stamp, key=lambda pair: pair[0]) - 1]
        groups.setdefault(max(0, position - _PACK_BYTES) if is_by_byte else key, set()).add(stamp)
    return wanted, [Part(seek_to=place, wanted=frozenset(group)) for place, group in groups.items()], is_by_byte


def _decode(container: InputContainer, part: Part, taken: Taken, *, is_by_byte: bool) -> None:
    """From the key frame forward to the last frame that is wanted."""
    stream, missing = container.streams.video[0], set(part.wanted)
    container.seek(part.seek_to, stream=stream, unsupported_byte_offset=is_by_byte)
    for frame in container.decode(stream):
        if frame.pts in missing:
            taken[frame.pts] = cast("Picture", frame.to_ndarray(format="rgb24")), frame.time or 0.0
            missing.remove(frame.pts)
        if not missing:
            return
