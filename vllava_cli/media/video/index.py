"""The indexes find a file's frames without decoding: by one pass over its packets, or by an MP4's own sample table.

A *display index* is a frame's position in presentation order. Its *pts* is the time at which it is presented, in the
stream's time base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from vllava_cli.media.container import DECODE_ERRORS
from vllava_cli.media.mp4_boxes import has_fragments
from vllava_cli.media.video.bitstream import ONE_FRAME_PER_SAMPLE, Bitstream, Start
from vllava_cli.media.video.packet_table import REORDERING, PacketTable
from vllava_cli.media.video.stated import MPEG, clock_restart

MAX_FRAMES = 5_000_000
"""46 hours at 30 frames a second; an index of this many frames takes 200 MB."""

_KEY, _DISCARD = 1, 2
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


class Mp4Index(Index):
    """The frames of an MP4 or MOV as its sample table lists them; reads only the packets of groups that are needed.

    The table has decoding times, not presentation times. The presentation times of a group are read with its packets.
    The rest follows from two facts that hold in these files: no frame is presented before its decoding time, and no
    frame decoded before a key frame is presented after it. Groups are numbered in the order of their key frames.
    """

    source = "The file's own sample table"

    def __init__(self, container: InputContainer, stream: VideoStream, path: Path) -> None:
        """Reads the table, but no packet. Errors: DistrustError if the table can't give every frame."""
        self._container, self._stream = container, stream
        self._entries = stream.index_entries
        self.frame_count = self.packet_count = len(self._entries)
        self._bitstream = bitstream_of(stream)
        self._groups: dict[int, tuple[tuple[int, int], ...]] = {}
        self._key_indices: dict[int, int] = {}
        self._orders: dict[tuple[int, int], list[int]] = {}
        """The results of `_presented`, by the first group and the last one."""
        self._starts: dict[int, Start] = {}
        if "mov" not in container.format.name:
            raise DistrustError("its container has no sample table")
        if self._bitstream.codec not in ONE_FRAME_PER_SAMPLE:
            raise DistrustError(f"samples coded in {self._bitstream.codec} may hold no frame or several")
        if has_fragments(path):
            raise DistrustError("its fragments list frames of their own")
        flags = [entry.flags for entry in self._entries]
        self._keys = [number for number, each in enumerate(flags) if each & _KEY]
        if not flags or len(flags) != stream.frames or len(flags) > MAX_FRAMES:
            raise DistrustError("its sample table doesn't list every frame")
        if any(each & _DISCARD for each in set(flags)):
            raise DistrustError("an edit list leaves some of its frames out")
        last = self._entries[-1]
        if last.pos + last.size > container.size:
            raise DistrustError("it ends before the last frame that its sample table lists")
        if not self._keys or self._keys[0] != 0:
            raise DistrustError("it doesn't begin with a frame that can be decoded by itself")

    def pts(self, display_index: int) -> int:
        key = self._key_for(display_index)
        place = display_index - self._key_index(key)
        return self._certain(key, place)[place]

    def count_before(self, pts: int) -> int:
        key = bisect_right(self._keys, pts, key=lambda number: int(self._entries[number].timestamp)) - 1
        while key >= 0 and self._key_pts(key) > pts:
            key -= 1
        if key < 0:
            return 0
        return self._key_index(key) + sum(other < pts for other in self._presented(key, until=pts))

    def last_packet_duration(self) -> int:
        return max(self._group(len(self._keys) - 1))[1]

    def steps(self) -> Sequence[int]:
        return [after - before for before, after in pairwise([entry.timestamp for entry in self._entries])]

    @cached_property
    def packet_table(self) -> PacketTable | None:
        rows = np.array([(entry.timestamp, entry.size) for entry in self._entries], np.int64)
        return PacketTable(stamps=rows[:, 0], sizes=rows[:, 1], keys=np.array(self._keys, np.int64), is_by_dts=True)

    def _key_for(self, display_index: int) -> int:
        """Returns the last group whose key frame is presented at `display_index` or before."""
        key = bisect_right(self._keys, display_index) - 1
        while self._key_index(key) > display_index:
            key -= 1
            if key < 0:
                raise DistrustError("its first frames come before any frame that can be decoded by itself")
        return key

    def _start_for(self, display_index: int) -> int:
        """Returns the group where decoding starts: the frame's own, or the one before it if frames refer to that."""
        key = self._key_for(display_index)
        reaches_back = self._key_index(key) > self._keys[key]
        return max(0, key - 1) if reaches_back and self._starts[key] == "open" else key

    def _key_index(self, key: int) -> int:
        """Returns the display index of a group's key frame.

        It counts all frames decoded before the key frame, and those decoded after it but presented before it.
        """
        if key not in self._key_indices:
            first = self._key_pts(key)
            self._key_indices[key] = self._keys[key] + sum(pts < first for pts in self._decoded(key, until=first))
        return self._key_indices[key]

    def _key_pts(self, key: int) -> int:
        return self._group(key)[0][0]

    def _certain(self, key: int, place: int) -> list[int]:
        """Returns the pts from a key frame on, ascending; up to `place`, none is missing. Errors: DistrustError."""
        presented = self._presented(key, until=self._key_pts(key))
        if place < len(presented):
            presented = self._presented(key, until=presented[place])
        elif key + 1 < len(self._keys):
            presented = self._presented(key, until=self._key_pts(key + 1))
        if place >= len(presented):
            raise DistrustError("its sample table promises frames that aren't there")
        return presented

    def _presented(self, key: int, *, until: int) -> list[int]:
        """Returns the pts of the frames that `_decoded` returns and that come after the key frame, ascending."""
        span = key, self._last_group(key, until)
        if span not in self._orders:
            first = self._key_pts(key)
            presented = sorted(pts for pts in self._decoded(key, until=until) if pts >= first)
            if any(before == after for before, after in pairwise(presented)):
                raise DistrustError("two of its frames have the same time stamp")
            self._orders[span] = presented
        return self._orders[span]

    def _decoded(self, key: int, *, until: int) -> list[int]:
        """Returns pts in decoding order, from a group on to the last one that may reach to `until`."""
        groups = range(key, self._last_group(key, until) + 1)
        return [pts for group in groups for pts, _ in self._group(group)]

    def _last_group(self, key: int, until: int) -> int:
        """Returns the last group, from `key` on, that may have a frame presented at `until` or before."""
        later = key + 1
        while later < len(self._keys) and self._entries[self._keys[later]].timestamp <= until:
            later += 1
        return later - 1

    def _group(self, key: int) -> tuple[tuple[int, int], ...]:
        """Reads (pts, duration) of a group's packets, in decoding order; compares each packet with its table entry."""
        if key in self._groups:
            return self._groups[key]
        after = self._keys[key + 1] if key + 1 < len(self._keys) else self.frame_count
        ids, found = self._ids(self._keys[key], after), list[tuple[int, int]]()
        run = Run(seek_to=ids[0][0], packets=ids, is_by_dts=True)
        for packet in islice(arriving(self._container, self._stream, run), len(ids)):
            if packet.pts is None or packet.dts is None or packet.pts < packet.dts:
                raise DistrustError("its frames have no time stamps, or wrong ones")
            if not found:
                self._starts[key] = self._bitstream.start(memoryview(packet))
                if self._starts[key] == "none":
                    raise DistrustError("its sample table calls frames key frames that aren't")
            found.append((packet.pts, packet.duration or 0))
        self._groups[key] = tuple(found)
        return self._groups[key]

    def _ids(self, first: int, after: int) -> tuple[PacketId, ...]:
        return tuple((entry.timestamp, entry.pos, entry.size) for entry in self._entries[first:after])

    def _run(self, start: int, display_indices: Sequence[int]) -> Run:
        first, last = self._keys[start], self.pts(display_indices[-1])
        needed = max(number for number, pts in enumerate(self._decoded(start, until=last)) if pts <= last)
        return Run(
            seek_to=self._entries[first].timestamp,
            packets=self._ids(first, min(first + needed + 1 + REORDERING, self.frame_count)),
            presented=tuple(pts for pts in self._presented(start, until=last) if pts <= last),
            wanted=frozenset(self.pts(display_index) for display_index in display_indices),
            is_by_dts=True,
        )
