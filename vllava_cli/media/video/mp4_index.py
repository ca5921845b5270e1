"""The index that an MP4's or MOV's own sample table gives: the file isn't read, only the groups that are needed.

The table has decoding times, not presentation times. Those of a group are read with its packets; the rest follows from
two facts that hold in these files: no frame is presented before its decoding time, and nothing decoded before a key
frame is presented after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from av.container import InputContainer
from av.video.stream import VideoStream

from vllava_cli.media.video.bitstream import ONE_FRAME_PER_SAMPLE, Start
from vllava_cli.media.video.index import (
    MAX_FRAMES,
    REORDERING,
    DistrustError,
    Index,
    PacketId,
    Run,
    arriving,
    bitstream_of,
)

_KEY, _DISCARD = 1, 2


class Mp4Index(Index):
    """The frames of an MP4 or MOV as its sample table lists them. A group is numbered by its key frame's place."""

    source = "The file's own sample table"

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        """Reads no packet yet. Errors: DistrustError where the table doesn't list every frame."""
        self._container, self._stream = container, stream
        self._entries = stream.index_entries
        self.frame_count = self.packet_count = len(self._entries)
        self._bitstream = bitstream_of(stream)
        self._groups: dict[int, tuple[tuple[int, int], ...]] = {}
        self._key_indices: dict[int, int] = {}
        self._starts: dict[int, Start] = {}
        if "mov" not in container.format.name:
            raise DistrustError("its container has no sample table")
        if self._bitstream.codec not in ONE_FRAME_PER_SAMPLE:
            raise DistrustError(f"samples coded in {self._bitstream.codec} may hold no frame or several")
        flags = [entry.flags for entry in self._entries]
        self._keys = [number for number, each in enumerate(flags) if each & _KEY]
        self._check(set(flags))

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

    def end(self) -> int:
        return max(pts + duration for pts, duration in self._group(len(self._keys) - 1))

    def is_rate_constant(self) -> bool:
        steps = [after - before for before, after in pairwise([entry.timestamp for entry in self._entries])]
        return not steps or max(steps) - min(steps) <= 1

    def _check(self, flags: set[int]) -> None:
        count = self.frame_count
        if not count or count != self._stream.frames or count > MAX_FRAMES:
            raise DistrustError("its sample table doesn't list every frame")
        if any(each & _DISCARD for each in flags):
            raise DistrustError("an edit list leaves some of its frames out")
        last = self._entries[-1]
        if last.pos + last.size > self._container.size:
            raise DistrustError("it ends before the last frame that its sample table lists")
        if not self._keys or self._keys[0] != 0:
            raise DistrustError("it doesn't begin with a frame that can be decoded by itself")

    def _key_for(self, display_index: int) -> int:
        """The last group whose key frame is presented at `display_index` or before."""
        key = bisect_right(self._keys, display_index) - 1
        while self._key_index(key) > display_index:
            key -= 1
            if key < 0:
                raise DistrustError("its first frames come before any frame that can be decoded by itself")
        return key

    def _start_for(self, display_index: int) -> int:
        """The group that decoding starts with: one earlier where frames reach back over the key frame."""
        key = self._key_for(display_index)
        reaches_back = self._key_index(key) > self._keys[key]
        return max(0, key - 1) if reaches_back and self._starts[key] == "open" else key

    def _key_index(self, key: int) -> int:
        """A key frame's display index: all frames decoded before it, and those after it that are presented before."""
        if key not in self._key_indices:
            first = self._key_pts(key)
            self._key_indices[key] = self._keys[key] + sum(pts < first for pts in self._decoded(key, until=first))
        return self._key_indices[key]

    def _key_pts(self, key: int) -> int:
        return self._group(key)[0][0]

    def _certain(self, key: int, place: int) -> list[int]:
        """The pts from a key frame on, ascending; those up to `place` are certain to be all there are."""
        presented = self._presented(key, until=self._key_pts(key))
        if place < len(presented):
            presented = self._presented(key, until=presented[place])
        elif key + 1 < len(self._keys):
            presented = self._presented(key, until=self._key_pts(key + 1))
        if place >= len(presented):
            raise DistrustError("its sample table promises frames that aren't there")
        return presented

    def _presented(self, key: int, *, until: int) -> list[int]:
        first = self._key_pts(key)
        presented = sorted(pts for pts in self._decoded(key, until=until) if pts >= first)
        if any(before == after for before, after in pairwise(presented)):
            raise DistrustError("two of its frames carry the same time stamp")
        return presented

    def _decoded(self, key: int, *, until: int) -> list[int]:
        """The pts, in decoding order, from a group on until no later packet can be presented at `until` or before."""
        found = [pts for pts, _ in self._group(key)]
        for later in range(key + 1, len(self._keys)):
            if self._entries[self._keys[later]].timestamp > until:
                break
            found += [pts for pts, _ in self._group(later)]
        return found

    def _group(self, key: int) -> tuple[tuple[int, int], ...]:
        """(pts, duration) of one group's packets, in decoding order, each packet compared with its table entry."""
        if key not in self._groups:
            after = self._keys[key + 1] if key + 1 < len(self._keys) else self.frame_count
            self._groups[key] = tuple(self._packets(key, self._ids(self._keys[key], after)))
        return self._groups[key]

    def _packets(self, key: int, ids: tuple[PacketId, ...]) -> Iterator[tuple[int, int]]:
        run = Run(seek_to=ids[0].timestamp, packets=ids, is_by_dts=True)
        for number, packet in enumerate(arriving(self._container, self._stream, run), 1):
            if packet.pts is None or packet.dts is None or packet.pts < packet.dts:
                raise DistrustError("its frames carry no time stamps, or wrong ones")
            if number == 1:
                self._starts[key] = self._bitstream.start(memoryview(packet))
                if self._starts[key] == "none":
                    raise DistrustError("its sample table calls frames key frames that aren't")
            yield packet.pts, packet.duration or 0
            if number == len(ids):
                return

    def _ids(self, first: int, after: int) -> tuple[PacketId, ...]:
        return tuple(
            PacketId(timestamp=entry.timestamp, position=entry.pos, size=entry.size)
            for entry in self._entries[first:after]
        )

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
