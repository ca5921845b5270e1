"""The index of a long MPEG file: its frames are counted and found by their time stamps, and few of its bytes are read.

Only MPEG-1 and MPEG-2 video can be trusted so, because its groups of pictures have time codes, which count once more.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vllava_cli.media.video.bitstream import Bitstream, group_number
from vllava_cli.media.video.index import MAX_FRAMES, DistrustError, Index, PacketIndex, Run, bitstream_of
from vllava_cli.media.video.stated import MPEG, declared_rate

LEAST_BYTES = 32 << 20
"""Smaller files are read through, which takes 0.03 s."""
SHORT_BYTES = 1 << 20
"""What lies between two samples is halved down to this size; then it is read through."""
_SAMPLES = 24
"""The number of places at which a file is looked at before it is trusted."""
_CODECS = ("mpeg1video", "mpeg2video")
_AFTER = 8
"""The packets behind a wanted one that are at hand for the decoder; it needs one."""
_MOST_PACKETS = 2000
"""The most packets of one stretch: 80 s at 25 frames a second."""
_GROUPS_BEFORE = 1.5
"""How many groups before a frame the search aims, so that the frame's own group begins behind that place."""
_TRIES = 8
_ROUNDING = 1.1
"""The most ticks that a time stamp is away from its place: the first one is rounded, and it is rounded itself."""
_BEFORE_ALL, _BEHIND_ALL = -(1 << 62), 1 << 62


class Stretch(PacketIndex):
    """The frames of some packets in a row, from the first key frame behind a byte on to just before another one."""

    def __init__(self, container: InputContainer, stream: VideoStream, *, start: int, until: int = _BEFORE_ALL) -> None:
        """Reads until some packets have come that are presented after `until`, a pts. Errors: DistrustError."""
        self.begin, self._until, self._rate = max(0, start), until, round(declared_rate(container, stream))
        self.is_tail = False
        """True if the file ends with these packets."""
        self.numbers: dict[int, int] = {}
        """The pts of key frames and the numbers that time codes give them."""
        super().__init__(container, stream)
        self.first, self.last = int(self._pts[0]), self.pts(self.frame_count - 1)
        """The pts of the first key frame and of the frame that is presented last."""
        self.position, self.end = self._positions[0], self._positions[-1]

    @property
    def presented(self) -> Sequence[int]:
        """The pts of the frames from the first key frame on, ascending; none is missing if the file has all."""
        found: list[int] = self._presented[self.count_before(self.first) :].tolist()
        return found

    def holds(self, pts: int) -> bool:
        """Returns True if the frame presented at `pts` can be decoded with these packets."""
        return self.first <= pts and (self.is_tail or int((self._pts > pts).sum()) >= _AFTER)

    def start_for(self, pts: int) -> int:
        """Returns the pts of the key frame where decoding must start for a frame."""
        return int(self._pts[self._start_for(self.count_before(pts))])

    def run(self, start: int, wanted: Sequence[int]) -> Run:
        """Makes the run from the key frame at the pts `start` that has the frames at the pts `wanted`."""
        number = int(np.flatnonzero(self._pts == start)[0])
        run = self._run(number, [self.count_before(pts) for pts in wanted])
        return run if number else replace(run, seek_to=self.begin)  # the same seek gives the same packets

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Passes over what comes before the first key frame; the first one behind a seek may be a mixture."""
        container.seek(self.begin, stream=stream, unsupported_byte_offset=True)
        count = after = 0
        packets = container.demux(stream)
        for packet in islice(packets, 1, None) if self.begin else packets:
            is_start = packet.is_keyframe and packet.pts is not None and packet.pos is not None
            if not count and self.begin and not is_start:
                continue
            if count >= _MOST_PACKETS or (is_start and after >= _AFTER):
                return
            yield packet
            count, after = count + 1, after + (packet.pts is not None and packet.pts > self._until)
        self.is_tail = True

    def _add(self, packet: Packet[VideoStream], bitstream: Bitstream) -> str:
        number = group_number(memoryview(packet), self._rate) if packet.is_keyframe else None
        if number is not None and packet.pts is not None:
            self.numbers[packet.pts] = number
        return super()._add(packet, bitstream)


class BisectionIndex(Index):
    """The frames of an MPEG-1 or MPEG-2 video as time stamps and time codes count them, which must agree.

    In every stretch that is read, the time stamps must be one step of the stated rate apart, and the time codes must
    count as many pictures. Between the stretches a piece can be missing, if both counts go on behind it as before.
    """

    source = "A search by time stamps"

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        """Reads some stretches of the file; rewinds it if it can't be trusted. Errors: DistrustError."""
        self._container, self._stream = container, stream
        is_served = container.format.name in MPEG and bitstream_of(stream).codec in _CODECS
        if not is_served or container.size < LEAST_BYTES:
            raise DistrustError("its packets must be read through")
        self._step = float(1 / (declared_rate(container, stream) * (stream.time_base or 1)))
        """Ticks from one frame to the next."""
        self._found: dict[int, Stretch] = {}
        try:
            self._head, self._tail = self._read(0), self._read_tail()
            self._first, self._offsets = self._head.first, set[int]()
            self._known = [self._head]
            """The stretches that were read, in the file's order."""
            self._check(self._head)
            self._include(self._tail)
            self.frame_count = self.packet_count = self._number(self._tail.last) + 1
            if self._head.pts(0) != self._first or not 1 < self.frame_count <= MAX_FRAMES:
                raise DistrustError("its frames can't be counted")
            self._look_around()
        except DistrustError:
            container.seek(0, stream=stream, unsupported_byte_offset=True)
            raise

    def pts(self, display_index: int) -> int:
        near = self._near(display_index)
        presented = self._stretch(display_index).presented
        return presented[bisect_right(presented, near) - 1]

    def count_before(self, pts: int) -> int:
        number = min(max(0, self._number(pts)), self.frame_count - 1)
        return number + (self.pts(number) < pts)

    def has_between(self, first: int, after: int) -> bool:
        """Answers by arithmetic alone if the stretch is longer than two frames."""
        return (first < self._tail.last and after - first > 2 * self._step + 4) or super().has_between(first, after)

    def last_packet_duration(self) -> int:
        return self._tail.last_packet_duration()

    def steps(self) -> Sequence[int]:
        steps: list[int] = np.diff(np.rint(np.arange(self.frame_count) * self._step).astype(int)).tolist()
        return steps

    def _start_for(self, display_index: int) -> int:
        return self._stretch(display_index).start_for(self.pts(display_index))

    def _run(self, start: int, display_indices: Sequence[int]) -> Run:
        stretch = self._stretch(display_indices[-1])
        return stretch.run(start, [self.pts(display_index) for display_index in display_indices])

    def _number(self, pts: int) -> int:
        """Returns the number of the frame that is nearest: with a step of 3600 and the first frame at 0, 7199 → 2."""
        return round((pts - self._first) / self._step)

    def _near(self, display_index: int) -> int:
        """Returns a time no earlier than a frame's, and less than 4 ticks later: time stamps are rounded."""
        return self._first + round(display_index * self._step) + 2

    def _read(self, start: int, until: int = _BEFORE_ALL) -> Stretch:
        return Stretch(self._container, self._stream, start=start, until=until)

    def _read_tail(self) -> Stretch:
        for power in range(5):
            try:
                stretch = self._read(self._container.size - (SHORT_BYTES << power), _BEHIND_ALL)
            except DistrustError:
                continue
            if stretch.is_tail and len(stretch.numbers) > 1:
                return stretch
        raise DistrustError("nothing near its end can be trusted")

    def _check(self, stretch: Stretch) -> None:
        """Compares a stretch with the count of its frames by time stamps. Errors: DistrustError."""
        places = self._number(stretch.first) + np.arange(len(stretch.presented))
        if (np.abs(np.subtract(stretch.presented, self._first) - places * self._step) > _ROUNDING).any():
            raise DistrustError("its frames aren't equally far apart")
        self._offsets |= {number - self._number(pts) for pts, number in stretch.numbers.items()}
        if not stretch.numbers or len(self._offsets) > 1:
            raise DistrustError("its time codes don't count the frames that its time stamps count")

    def _include(self, stretch: Stretch) -> None:
        self._check(stretch)
        insort(self._known, stretch, key=lambda known: known.position)
        pairs = pairwise(self._known)
        if any(before.position < after.position and before.first >= after.first for before, after in pairs):
            raise DistrustError("its clock begins anew")

    def _look_around(self) -> None:
        """Reads stretches, each in the middle of the largest part of the file of which nothing is known yet.

        A part counts by its time and its bytes. If a large piece is missing or stands there twice, this leads to the
        place, and the time stamps jump there.
        """
        whole_time, whole_bytes = self._tail.last - self._first, self._container.size

        def unknown(pair: tuple[Stretch, Stretch]) -> float:
            before, after = pair
            return (after.first - before.last) / whole_time + (after.position - before.end) / whole_bytes

        for _ in range(_SAMPLES):
            before, after = max(pairwise(self._known), key=unknown)
            size = after.position - before.end
            stretch = self._read(before.end + size // 2) if size > SHORT_BYTES else before
            if not before.position < stretch.position < after.position:
                stretch = self._read(before.begin, after.first)
            self._include(stretch)

    def _stretch(self, display_index: int) -> Stretch:
        """Returns a stretch with a frame and all that is needed to decode it."""
        if display_index not in self._found:
            near = self._near(display_index)
            ready = (known for known in self._known if known.first <= near <= known.last and known.holds(near))
            self._found[display_index] = next(ready, None) or self._search(near)
        return self._found[display_index]

    def _search(self, near: int) -> Stretch:
        """Reads a stretch that holds a frame: guesses where it lies by the stretches around it, then goes back."""
        group = max(known.last - known.first for known in self._known[1:-1] or self._known) + self._step
        aim = near - _GROUPS_BEFORE * group
        place = min(max(1, bisect_right(self._known, aim, key=lambda known: known.first)), len(self._known) - 1)
        before, after = self._known[place - 1 : place + 1]
        pace = (after.position - before.position) / max(1, after.first - before.first)
        start = before.position + int((aim - before.first) * pace)
        for attempt in range(_TRIES):
            stretch = self._read(start, near)
            self._check(stretch)
            if stretch.holds(near) and stretch.last >= near - 4:
                return stretch
            start -= int(group * pace) << attempt
        raise DistrustError("a frame isn't where its time stamp leads")
