"""The index that one pass over a file's packets gives; nothing is decoded."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
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
    Index,
    PacketId,
    Run,
    bitstream_of,
    seeks_bytes,
)

_Times = npt.NDArray[np.int64]


class PacketIndex(Index):
    """The frames of a file as its packets list them; packets are numbered in the file's order."""

    source = "One pass over the packets"

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        """Reads the whole file. Errors: DistrustError, also where the file breaks off."""
        self._packet_pts, self._positions, self._sizes = array("q"), array("q"), array("q")
        self._hidden: set[int] = set()
        self._starts: list[tuple[int, Start]] = []
        self._ends = 0
        self._seeks_bytes = seeks_bytes(container)
        self._read(container, stream)
        self._pts: _Times = np.frombuffer(self._packet_pts, np.int64)
        self.packet_count = len(self._pts)
        shown = np.ones(self.packet_count, bool)
        shown[list(self._hidden)] = False
        self._presented: _Times = np.sort(self._pts[shown])
        self.frame_count = len(self._presented)
        self._keys = [number for number, start in self._starts if start != "none"]
        self._check()

    def pts(self, display_index: int) -> int:
        return int(self._presented[display_index])

    def count_before(self, pts: int) -> int:
        return int(np.searchsorted(self._presented, pts))

    def end(self) -> int:
        return max(self._ends, int(self._presented[-1]))

    def is_rate_constant(self) -> bool:
        steps = np.diff(self._presented)
        return len(steps) == 0 or int(steps.max() - steps.min()) <= 1

    def _read(self, container: InputContainer, stream: VideoStream) -> None:
        bitstream, packets, trouble = bitstream_of(stream), 0, ""
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                if packet.size and not trouble:
                    trouble = self._add(packet, bitstream)
        except MemoryError:
            raise
        except DECODE_ERRORS:
            trouble = "it breaks off"
        if trouble or not packets:
            raise DistrustError(trouble or "it has no packets", packets=packets)

    def _add(self, packet: Packet[VideoStream], bitstream: Bitstream) -> str:
        """Notes a packet; gives the reason why it can't be relied on, if there is one."""
        number = len(self._packet_pts)
        if packet.pts is None:
            return "its frames carry no time stamps"
        if packet.is_corrupt:
            return "one of its packets is damaged"
        if number >= MAX_FRAMES:
            return f"it has more than {MAX_FRAMES} packets"
        self._packet_pts.append(packet.pts)
        self._positions.append(-1 if packet.pos is None else packet.pos)
        self._sizes.append(packet.size)
        if packet.is_discard or (bitstream.hides_frames and not bitstream.is_shown(memoryview(packet))):
            self._hidden.add(number)
        if packet.is_keyframe or number == 0:
            self._starts.append((number, bitstream.start(memoryview(packet))))
        self._ends = max(self._ends if number else packet.pts, packet.pts + (packet.duration or 0))
        return ""

    def _check(self) -> None:
        """Presentation order must follow from the time stamps alone, group by group."""
        if not self._keys or self._keys[0] != 0:
            raise DistrustError("it doesn't begin with a frame that can be decoded by itself")
        if self.frame_count == 0:
            raise DistrustError("none of its packets is shown")
        if (np.diff(self._presented) <= 0).any():
            raise DistrustError("two of its frames carry the same time stamp")
        latest = np.maximum.accumulate(self._pts)
        for key in self._keys[1:]:
            if latest[key - 1] >= self._pts[key]:
                raise DistrustError("its time stamps jump back")

    @cached_property
    def _open_keys(self) -> set[int]:
        """Keys that earlier frames may refer over: those marked open that frames presented before them follow."""
        opened = [number for number, start in self._starts if start == "open"]
        return {number for number in opened if self._reaches_back(number)}

    def _reaches_back(self, number: int) -> bool:
        return bool((self._pts[number + 1 : number + 1 + REORDERING] < self._pts[number]).any())

    def _keys_until(self, pts: int) -> int:
        """The number of keys presented at `pts` or before; the pts of keys ascend."""
        return bisect_right(self._keys, pts, key=lambda number: int(self._pts[number]))

    def _start_for(self, display_index: int) -> int:
        place = self._keys_until(self.pts(display_index)) - 1
        if place < 0:
            raise DistrustError("its first frames come before any frame that can be decoded by itself")
        return self._keys[max(0, place - 1) if self._keys[place] in self._open_keys else place]

    def _run(self, start: int, display_indices: Sequence[int]) -> Run:
        first, last = int(self._pts[start]), self.pts(display_indices[-1])
        after = self._keys_until(last)
        beyond = self._keys[after + 1] if after + 1 < len(self._keys) else self.packet_count
        needed = start + int(np.flatnonzero(self._pts[start:beyond] <= last)[-1])
        until = min(needed + 1 + REORDERING, self.packet_count)
        columns = (column[start:until] for column in (self._packet_pts, self._positions, self._sizes))
        return Run(
            seek_to=self._position_for(start) if self._seeks_bytes else first,
            seeks_bytes=self._seeks_bytes,
            packets=tuple(
                PacketId(timestamp=pts, position=position, size=size)
                for pts, position, size in zip(*columns, strict=True)
            ),
            presented=tuple(self._presented[self.count_before(first) : display_indices[-1] + 1].tolist()),
            wanted=frozenset(self.pts(display_index) for display_index in display_indices),
        )

    def _position_for(self, key: int) -> int:
        """The position to read a key frame from: a packet earlier, since it may begin within another one."""
        return max(0, self._positions[max(0, key - 1)])
