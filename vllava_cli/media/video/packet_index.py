"""The index that one pass over a file's packets gives; nothing is decoded."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from vllava_cli.media.container import DECODE_ERRORS
from vllava_cli.media.video.bitstream import Bitstream, Start
from vllava_cli.media.video.index import (
    MAX_FRAMES,
    REORDERING,
    DistrustError,
    Mark,
    Run,
    bitstream_of,
    grouped,
    seeks_bytes,
)

Stamps = npt.NDArray[np.int64]


@dataclass(kw_only=True)
class _Columns:
    """What is noted of each packet, in the file's order."""

    stamps: array[int] = field(default_factory=lambda: array("q"))
    positions: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    hidden: set[int] = field(default_factory=set)
    keys: list[tuple[int, Start]] = field(default_factory=list)
    ends: int = 0
    """When the last frame's time is over."""

    def add(self, packet: Packet[VideoStream], bitstream: Bitstream) -> str:
        """Notes a packet; gives the reason why it can't be relied on, if there is one."""
        number = len(self.stamps)
        if packet.pts is None:
            return "its frames carry no time stamps"
        if packet.is_corrupt:
            return "one of its packets is damaged"
        if number >= MAX_FRAMES:
            return f"it has more than {MAX_FRAMES} packets"
        self.stamps.append(packet.pts)
        self.positions.append(-1 if packet.pos is None else packet.pos)
        self.sizes.append(packet.size)
        if packet.is_discard or (bitstream.hides_frames and not bitstream.is_shown(memoryview(packet))):
            self.hidden.add(number)
        if packet.is_keyframe or number == 0:
            self.keys.append((number, bitstream.start(memoryview(packet))))
        self.ends = max(self.ends if number else packet.pts, packet.pts + (packet.duration or 0))
        return ""


class PacketScan:
    """The frames of a file as its packets tell them, in the order of their time stamps."""

    source = "One pass over the packets"

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        """Reads the whole file. Errors: DistrustError, and what FFmpeg raises where the file breaks off."""
        bitstream, columns, packets, trouble = bitstream_of(stream), _Columns(), 0, ""
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                if packet.size and not trouble:
                    trouble = columns.add(packet, bitstream)
        except MemoryError:
            raise
        except DECODE_ERRORS:
            trouble = "it breaks off"
        if trouble or not packets:
            raise DistrustError(trouble or "it has no packets", packets=packets)
        self._columns = columns
        self._seeks_bytes = seeks_bytes(container)
        self._stamps: Stamps = np.frombuffer(columns.stamps, np.int64)
        self._check()

    @property
    def packet_count(self) -> int:
        return len(self._stamps)

    @property
    def frame_count(self) -> int:
        return len(self._presented)

    def stamp(self, rank: int) -> int:
        return int(self._presented[rank])

    def rank(self, stamp: int) -> int:
        return int(np.searchsorted(self._presented, stamp))

    def end(self) -> int:
        return max(self._columns.ends, int(self._presented[-1]))

    def is_rate_constant(self) -> bool:
        steps = np.diff(self._presented)
        return len(steps) == 0 or int(steps.max() - steps.min()) <= 1

    def runs(self, ranks: Sequence[int]) -> tuple[Run, ...]:
        keys = {rank: self._key_for(self.stamp(rank)) for rank in ranks}
        return tuple(self._run(key, wanted) for key, wanted in grouped(ranks, keys).items())

    @cached_property
    def _presented(self) -> Stamps:
        shown = np.ones(len(self._stamps), bool)
        shown[list(self._columns.hidden)] = False
        return np.sort(self._stamps[shown])

    @cached_property
    def _keys(self) -> list[int]:
        """Numbers of the packets where decoding may start."""
        return [number for number, start in self._columns.keys if start != "none"]

    @cached_property
    def _open_keys(self) -> set[int]:
        """Keys that earlier frames may refer over: those marked open that frames presented before them follow."""
        opened = [number for number, start in self._columns.keys if start == "open"]
        return {number for number in opened if self._reaches_back(number)}

    def _reaches_back(self, number: int) -> bool:
        return bool((self._stamps[number + 1 : number + 1 + REORDERING] < self._stamps[number]).any())

    def _check(self) -> None:
        """Presentation order must follow from the stamps alone, group by group."""
        if not self._keys or self._keys[0] != 0:
            raise DistrustError("it doesn't begin with a frame that can be decoded by itself")
        if len(self._presented) == 0:
            raise DistrustError("none of its packets is shown")
        if (np.diff(self._presented) <= 0).any():
            raise DistrustError("two of its frames carry the same time stamp")
        latest = np.maximum.accumulate(self._stamps)
        for key in self._keys[1:]:
            if latest[key - 1] >= self._stamps[key]:
                raise DistrustError("its time stamps jump back")

    def _key_for(self, stamp: int) -> int:
        """The key that decoding starts from; the stamps of keys ascend."""
        place = bisect_right(self._keys, stamp, key=lambda number: int(self._stamps[number])) - 1
        if place < 0:
            raise DistrustError("its first frames come before any frame that can be decoded by itself")
        return self._keys[max(0, place - 1) if self._keys[place] in self._open_keys else place]

    def _run(self, key: int, ranks: Sequence[int]) -> Run:
        first, last = int(self._stamps[key]), self.stamp(ranks[-1])
        after = bisect_right(self._keys, last, key=lambda number: int(self._stamps[number]))
        beyond = self._keys[after + 1] if after + 1 < len(self._keys) else len(self._stamps)
        needed = key + int(np.flatnonzero(self._stamps[key:beyond] <= last)[-1])
        columns, until = self._columns, min(needed + 1 + REORDERING, len(self._stamps))
        marks = zip(columns.stamps[key:until], columns.positions[key:until], columns.sizes[key:until], strict=True)
        return Run(
            seek_to=self._position_for(key) if self._seeks_bytes else first,
            seeks_bytes=self._seeks_bytes,
            marks=tuple(Mark(stamp=stamp, position=position, size=size) for stamp, position, size in marks),
            presented=tuple(self._presented[self.rank(first) : ranks[-1] + 1].tolist()),
            wanted=frozenset(self.stamp(rank) for rank in ranks),
            stamps_are_dts=False,
        )

    def _position_for(self, key: int) -> int:
        """Where to begin reading for a key frame: a packet earlier, since it may begin within another one."""
        return max(0, self._columns.positions[max(0, key - 1)])
