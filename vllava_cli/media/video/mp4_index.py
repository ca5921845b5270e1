"""The index that an MP4's or MOV's own sample table gives: the file isn't read, only the groups that are needed.

The table has decoding times, not presentation times. Those of a group are read with its packets; the rest follows from
two facts that hold in these files: no frame is presented before its decoding time, and nothing decoded before a key
frame is presented after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise

from av.container import InputContainer
from av.video.stream import VideoStream

from vllava_cli.media.video.bitstream import ONE_FRAME_PER_SAMPLE, Start
from vllava_cli.media.video.index import (
    MAX_FRAMES,
    REORDERING,
    DistrustError,
    Mark,
    Run,
    arriving,
    bitstream_of,
    grouped,
)

_KEY, _DISCARD = 1, 2


class SampleTable:
    """The frames of an MP4 or MOV as its sample table tells them."""

    source = "The file's own sample table"

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        """Reads no packet yet. Errors: DistrustError where the table doesn't tell every frame."""
        self._container, self._stream = container, stream
        self._entries = stream.index_entries
        self._bitstream = bitstream_of(stream)
        self._groups: dict[int, tuple[tuple[int, int], ...]] = {}
        self._ranks: dict[int, int] = {}
        self._starts: dict[int, Start] = {}
        self._check(container)

    @property
    def frame_count(self) -> int:
        return len(self._entries)

    @property
    def packet_count(self) -> int:
        return len(self._entries)

    @cached_property
    def _flags(self) -> list[int]:
        return [entry.flags for entry in self._entries]

    @cached_property
    def _keys(self) -> list[int]:
        return [number for number, flags in enumerate(self._flags) if flags & _KEY]

    def stamp(self, rank: int) -> int:
        key = self._key_for(rank)
        stamps = self._known(key, rank - self._rank_of(key))
        return stamps[rank - self._rank_of(key)]

    def rank(self, stamp: int) -> int:
        key = bisect_right(self._keys, stamp, key=lambda number: int(self._entries[number].timestamp)) - 1
        while key >= 0 and self._stamp_of(key) > stamp:
            key -= 1
        if key < 0:
            return 0
        return self._rank_of(key) + sum(other < stamp for other in self._presented(key, until=stamp))

    def end(self) -> int:
        return max(stamp + duration for stamp, duration in self._group(len(self._keys) - 1))

    def is_rate_constant(self) -> bool:
        stamps = [entry.timestamp for entry in self._entries]
        steps = [after - before for before, after in pairwise(stamps)]
        return not steps or max(steps) - min(steps) <= 1

    def runs(self, ranks: Sequence[int]) -> tuple[Run, ...]:
        keys = {rank: self._start_for(self._key_for(rank)) for rank in ranks}
        return tuple(self._run(key, wanted) for key, wanted in grouped(ranks, keys).items())

    def _check(self, container: InputContainer) -> None:
        if "mov" not in container.format.name:
            raise DistrustError("its container has no sample table")
        count, file_bytes = len(self._entries), container.size
        if self._bitstream.codec not in ONE_FRAME_PER_SAMPLE:
            raise DistrustError(f"samples coded in {self._bitstream.codec} may hold no frame or several")
        if not count or count != self._stream.frames or count > MAX_FRAMES:
            raise DistrustError("its sample table doesn't list every frame")
        if any(flags & _DISCARD for flags in set(self._flags)):
            raise DistrustError("an edit list leaves some of its frames out")
        last = self._entries[-1]
        if last.pos + last.size > file_bytes:
            raise DistrustError("it ends before the last frame that its sample table lists")
        if not self._keys or self._keys[0] != 0:
            raise DistrustError("it doesn't begin with a frame that can be decoded by itself")

    def _key_for(self, rank: int) -> int:
        """The last group (a number among the keys) whose key frame is presented at `rank` or before."""
        key = bisect_right(self._keys, rank) - 1
        while self._rank_of(key) > rank:
            key -= 1
            if key < 0:
                raise DistrustError("its first frames come before any frame that can be decoded by itself")
        return key

    def _start_for(self, key: int) -> int:
        """The group that decoding starts with: one earlier where frames reach back over the key frame."""
        reaches_back = self._rank_of(key) > self._keys[key]
        return max(0, key - 1) if reaches_back and self._starts[key] == "open" else key

    def _rank_of(self, key: int) -> int:
        """The rank of a key frame: all frames decoded before it, and those after it that are presented before it."""
        if key not in self._ranks:
            first = self._stamp_of(key)
            self._ranks[key] = self._keys[key] + sum(stamp < first for stamp in self._read(key, until=first))
        return self._ranks[key]

    def _stamp_of(self, key: int) -> int:
        return self._group(key)[0][0]

    def _known(self, key: int, place: int) -> list[int]:
        """Stamps presented from a key frame on, ascending; those up to `place` are certain to be all there are."""
        stamps = self._presented(key, until=self._stamp_of(key))
        if place < len(stamps):
            stamps = self._presented(key, until=stamps[place])
        elif key + 1 < len(self._keys):
            stamps = self._presented(key, until=self._stamp_of(key + 1))
        if place >= len(stamps):
            raise DistrustError("its sample table promises frames that aren't there")
        return stamps

    def _presented(self, key: int, *, until: int) -> list[int]:
        first = self._stamp_of(key)
        stamps = sorted(stamp for stamp in self._read(key, until=until) if stamp >= first)
        if any(before == after for before, after in pairwise(stamps)):
            raise DistrustError("two of its frames carry the same time stamp")
        return stamps

    def _read(self, key: int, *, until: int) -> list[int]:
        """Stamps, in decoding order, from a group on until no later packet can be presented at `until` or before."""
        stamps = [stamp for stamp, _ in self._group(key)]
        for later in range(key + 1, len(self._keys)):
            if self._entries[self._keys[later]].timestamp > until:
                break
            stamps += [stamp for stamp, _ in self._group(later)]
        return stamps

    def _group(self, key: int) -> tuple[tuple[int, int], ...]:
        """(stamp, duration) of one group's packets, in decoding order, each packet compared with its table entry."""
        if key not in self._groups:
            first, after = self._keys[key], self._keys[key + 1] if key + 1 < len(self._keys) else self.frame_count
            self._groups[key] = tuple(self._packets(key, self._marks(first, after)))
        return self._groups[key]

    def _packets(self, key: int, marks: tuple[Mark, ...]) -> Iterator[tuple[int, int]]:
        run = Run(seek_to=marks[0].stamp, marks=marks, stamps_are_dts=True)
        for number, packet in enumerate(arriving(self._container, self._stream, run), 1):
            if packet.pts is None or packet.dts is None or packet.pts < packet.dts:
                raise DistrustError("its frames carry no time stamps, or wrong ones")
            if number == 1:
                self._starts[key] = self._bitstream.start(memoryview(packet))
                if self._starts[key] == "none":
                    raise DistrustError("its sample table calls frames key frames that aren't")
            yield packet.pts, packet.duration or 0
            if number == len(marks):
                return

    def _marks(self, first: int, after: int) -> tuple[Mark, ...]:
        return tuple(
            Mark(stamp=entry.timestamp, position=entry.pos, size=entry.size) for entry in self._entries[first:after]
        )

    def _run(self, key: int, ranks: Sequence[int]) -> Run:
        last = self.stamp(ranks[-1])
        read = self._read(key, until=last)
        needed = max(number for number, stamp in enumerate(read) if stamp <= last)
        until = min(self._keys[key] + needed + 1 + REORDERING, self.frame_count)
        presented = [stamp for stamp in self._presented(key, until=last) if stamp <= last]
        return Run(
            seek_to=self._entries[self._keys[key]].timestamp,
            marks=self._marks(self._keys[key], until),
            presented=tuple(presented),
            wanted=frozenset(self.stamp(rank) for rank in ranks),
            stamps_are_dts=True,
        )
