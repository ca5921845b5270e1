"""An index finds a file's frames without decoding. This one reads the time stamps of all packets.

A *display index* is a frame's position in presentation order. Its *pts* is the time at which it is presented, in the
stream's time base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from vllava_cli.media.container import DECODE_ERRORS
from vllava_cli.media.video.bitstream import Bitstream, Start
from vllava_cli.media.video.packet_table import REORDERING, PacketTable
from vllava_cli.media.video.stated import MPEG, clock_restart

MAX_FRAMES = 5_000_000
"""46 hours at 30 frames a second; an index of this many frames takes 200 MB."""

HELD_BACK = 16
"""The most frames that a decoder may hold back, by the standards of all codecs, until an earlier one has come."""
_NEVER = 1 << 63


class DistrustError(Exception):
    """An index can't give the frames for certain; the message is a clause that tells the user why.

    `packets` is the number of packets that were counted, 0 if none were.
    """

    def __init__(self, reason: str, *, packets: int = 0) -> None:
        super().__init__(reason)
        self.packets = packets


class DamageError(DistrustError):
    """A group of pictures that is needed can't be decoded cleanly; no other index will help."""


PacketId = tuple[int, int, int]
"""Identifies a packet: its dts (in a sample table) or pts, its position in the file, its size."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Packets that are decoded together, from a key frame on, and the frames to take from them."""

    seek_to: int
    """A time stamp, or a position in bytes if `seeks_bytes`."""
    packets: tuple[PacketId, ...]
    """The packets that must arrive, in this order."""
    presented: tuple[int, ...] = ()
    """The pts that the decoder must give, ascending, from the key frame to the last wanted frame."""
    wanted: frozenset[int] = frozenset()
    """The pts of the wanted frames."""
    seeks_bytes: bool = False
    is_by_dts: bool = False
    """True if the packets' ids have their dts, not their pts."""


class Index(ABC):
    """The frames of a file as its sample table or its packets list them. Every method may raise a DistrustError."""

    source: str
    """The subject of a sentence: "One pass over the packets"."""
    frame_count: int
    packet_count: int
    hidden_count = 0
    """The number of packets whose frames an edit list leaves out."""

    @abstractmethod
    def pts(self, display_index: int) -> int:
        """Returns the presentation time of a frame."""

    @abstractmethod
    def count_before(self, pts: int) -> int:
        """Returns the number of frames presented before `pts`."""

    def has_between(self, first: int, after: int) -> bool:
        """Returns True if a frame is presented at `first` or later, and before `after`."""
        return self.count_before(first) < self.count_before(after)

    @abstractmethod
    def last_packet_duration(self) -> int:
        """Returns the duration in the packet of the frame that is presented last, 0 if it has none."""

    @abstractmethod
    def steps(self) -> Sequence[int]:
        """Returns the times between the frames, in order."""

    def runs(self, display_indices: Sequence[int]) -> tuple[Run, ...]:
        """Returns the runs to decode for these frames, one for each group of pictures that holds some of them."""
        groups: dict[int, list[int]] = {}
        for display_index in sorted(set(display_indices)):
            groups.setdefault(self._start_for(display_index), []).append(display_index)
        return tuple(self._run(start, wanted) for start, wanted in groups.items())

    def whole_run(self, first: int, last: int) -> Run:
        """Returns one run with all frames from `first` to `last`, from the key frame before them on."""
        run = self._run(self._start_for(first), (first, last))
        wanted = run.presented[-(last - first + 1) :]
        return replace(run, wanted=frozenset(wanted))

    @property
    def packet_table(self) -> PacketTable | None:
        """The sizes of all packets; None if the index doesn't know them all."""
        return None

    @abstractmethod
    def _start_for(self, display_index: int) -> int:
        """Returns the position, in the index's own list, of the key frame where decoding must start for a frame."""

    @abstractmethod
    def _run(self, start: int, display_indices: Sequence[int]) -> Run:
        """Makes the run from the key frame `start` that has these frames; `display_indices` ascend."""


def bitstream_of(stream: VideoStream) -> Bitstream:
    context = stream.codec_context
    return Bitstream.of(context.name, context.extradata)


def arriving(container: InputContainer, stream: VideoStream, run: Run) -> Iterator[Packet[VideoStream]]:
    """Seeks to a run and yields its packets; each must be the packet that the index expects. Errors: DistrustError.

    If the run reaches the end of the file, the empty packet comes last, which makes the decoder give its last frames.
    """
    container.seek(run.seek_to, stream=stream, unsupported_byte_offset=run.seeks_bytes)
    ids = iter(run.packets)
    awaited = next(ids, None)
    for packet in container.demux(stream):
        if awaited is None:
            if packet.size:
                raise DistrustError("the decoder asked for more packets than a frame can need")
            yield packet
            return
        is_it = (packet.dts if run.is_by_dts else packet.pts, packet.pos, packet.size) == awaited
        is_early = run.seeks_bytes if packet.pos is None else packet.pos <= run.packets[0][1]
        if not is_it and awaited is run.packets[0] and packet.size and is_early:
            continue
        if not is_it or packet.is_corrupt:
            break
        yield packet
        awaited = next(ids, None)
    raise DistrustError("seeking led to other packets than expected")


class PacketIndex(Index):
    """The frames of a file as one pass over its packets lists them. Packets are numbered in the file's order."""

    source = "One pass over the packets"

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        """Reads all packets of the file. Errors: DistrustError, which has the number of packets."""
        self._packet_pts, self._positions, self._sizes = array("q"), array("q"), array("q")
        self._hidden: set[int] = set()
        self._starts: list[tuple[int, Start]] = []
        self._last = (-_NEVER, 0)
        self._seeks_bytes = container.format.name in MPEG
        self._restart = clock_restart(container, stream.time_base or Fraction(1))
        self._read(container, stream)
        self._pts: npt.NDArray[np.int64] = np.frombuffer(self._packet_pts, np.int64)
        self.packet_count = len(self._pts)
        shown = np.ones(self.packet_count, bool)
        shown[list(self._hidden)] = False
        self._presented: npt.NDArray[np.int64] = np.sort(self._pts[shown])
        self.frame_count = len(self._presented)
        self._keys = [number for number, start in self._starts if start != "none"]
        if fault := self._fault():
            raise DistrustError(fault, packets=self.packet_count)

    def pts(self, display_index: int) -> int:
        return int(self._presented[display_index])

    def count_before(self, pts: int) -> int:
        return int(np.searchsorted(self._presented, pts))

    def last_packet_duration(self) -> int:
        return self._last[1]

    def steps(self) -> Sequence[int]:
        steps: list[int] = np.diff(self._presented).tolist()
        return steps

    @cached_property
    def packet_table(self) -> PacketTable | None:
        sizes, keys = np.frombuffer(self._sizes, np.int64), np.array(self._keys, np.int64)
        return PacketTable(stamps=self._pts, sizes=sizes, keys=keys)

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Yields the packets to list; the empty one at the end may be among them."""
        return container.demux(stream)

    def _read(self, container: InputContainer, stream: VideoStream) -> None:
        bitstream, packets, trouble = bitstream_of(stream), 0, ""
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        try:
            for packet in self._packets(container, stream):
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
        """Adds a packet; returns a clause that says why the packet can't be relied on, or "" if it can."""
        number = len(self._packet_pts)
        if packet.pts is None:
            return "its frames have no time stamps"
        if packet.is_corrupt:
            return "one of its packets is damaged"
        if number >= MAX_FRAMES:
            return f"it has more than {MAX_FRAMES} packets"
        self._packet_pts.append(packet.pts)
        self._positions.append(-1 if packet.pos is None else packet.pos)
        self._sizes.append(packet.size)
        self.hidden_count += packet.is_discard
        if packet.is_discard or (bitstream.hides_frames and not bitstream.is_shown(memoryview(packet))):
            self._hidden.add(number)
        elif packet.pts >= self._last[0]:
            self._last = packet.pts, packet.duration or 0
        if packet.is_keyframe or number == 0:
            self._starts.append((number, bitstream.start(memoryview(packet))))
        return ""

    def _fault(self) -> str:
        """Returns a clause if the presentation order doesn't follow from the time stamps, group by group, else ""."""
        if not self._keys or self._keys[0] != 0:
            return "it doesn't begin with a frame that can be decoded by itself"
        if self.frame_count == 0:
            return "none of its packets is shown"
        if (np.diff(self._presented) <= 0).any():
            return "two of its frames have the same time stamp"
        if (np.diff(self._presented) >= self._restart).any():
            return "its clock begins anew"
        latest = np.maximum.accumulate(self._pts)
        return "its time stamps jump back" if any(latest[key - 1] >= self._pts[key] for key in self._keys[1:]) else ""

    @cached_property
    def _open_keys(self) -> set[int]:
        """The key frames after which, in the file, frames may still refer to the group before.

        Such a key frame is marked open, and some frames after it in the file are presented before it.
        """
        opened = (number for number, start in self._starts if start == "open")
        return {key for key in opened if (self._pts[key + 1 : key + 1 + REORDERING] < self._pts[key]).any()}

    def _keys_until(self, pts: int) -> int:
        """Returns the number of key frames presented at `pts` or before; the pts of key frames ascend."""
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
            # one packet earlier, because the key frame may begin inside that packet
            seek_to=max(0, self._positions[max(0, start - 1)]) if self._seeks_bytes else first,
            seeks_bytes=self._seeks_bytes,
            packets=tuple(zip(*columns, strict=True)),
            presented=tuple(self._presented[self.count_before(first) : display_indices[-1] + 1].tolist()),
            wanted=frozenset(self.pts(display_index) for display_index in display_indices),
        )
