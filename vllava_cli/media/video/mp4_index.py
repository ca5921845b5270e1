"""The index of an MP4 or MOV: the file's own sample table, completed by the packets of the groups that are needed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from vllava_cli.media.mp4_boxes import has_fragments
from vllava_cli.media.video.bitstream import ONE_FRAME_PER_SAMPLE, Start
from vllava_cli.media.video.index import (
    HELD_BACK,
    MAX_FRAMES,
    DistrustError,
    Index,
    PacketId,
    Run,
    arriving,
    bitstream_of,
)
from vllava_cli.media.video.packet_table import REORDERING, PacketTable

_KEY, _DISCARD = 1, 2


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

    def has_between(self, first: int, after: int) -> bool:
        """Answers by the table alone if it has more frames there than a decoder holds back; else reads packets."""
        delay = self._key_pts(0) - self._entries[0].timestamp
        return self._decoded_before(after - delay) - self._decoded_before(first) > HELD_BACK or super().has_between(
            first, after
        )

    def _decoded_before(self, dts: int) -> int:
        return bisect_left(range(self.frame_count), dts, key=lambda number: int(self._entries[number].timestamp))

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
