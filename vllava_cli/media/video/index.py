"""The base of the two indexes, which find a file's frames without decoding them, and the runs of packets to decode.

A *display index* is a frame's position in presentation order; its *pts* is the time at which it is presented, in the
stream's time base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vllava_cli.media.video.bitstream import Bitstream

MAX_FRAMES = 5_000_000
"""46 hours at 30 frames a second; an index of so many takes 200 MB."""

REORDERING = 64
"""Packets behind a wanted one that a decoder may ask for before it gives the frame, its own threads included."""

# Containers whose seeking by time is a guess, but whose packets say exactly where they lie.
_BYTE_SEEKS = ("mpegts", "mpeg")


class DistrustError(Exception):
    """The frames can't be reached this way for certain; the message is a clause that says why, for the user.

    `packets` is how many were counted on the way, 0 for none.
    """

    def __init__(self, reason: str, *, packets: int = 0) -> None:
        super().__init__(reason)
        self.packets = packets


class DamageError(DistrustError):
    """A needed group can't be decoded cleanly: no other index will help."""


@dataclass(frozen=True, kw_only=True)
class PacketId:
    """The facts by which a packet is known again; `timestamp` is its dts in a sample table, else its pts."""

    timestamp: int
    position: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of packets from a key frame on, and the frames to take from it."""

    seek_to: int
    """A time stamp, or a position in bytes where `seeks_bytes`."""
    packets: tuple[PacketId, ...]
    """The packets that must arrive, in this order."""
    presented: tuple[int, ...] = ()
    """The pts that the decoder must give, ascending, from the key frame to the last wanted frame."""
    wanted: frozenset[int] = frozenset()
    """The pts of the wanted frames."""
    seeks_bytes: bool = False
    is_by_dts: bool = False
    """Packets are known by their dts."""


class Index(ABC):
    """The frames of a file as its sample table or its packets list them. Errors of all methods: DistrustError."""

    source: str
    """The subject of a sentence: "One pass over the packets"."""
    frame_count: int
    packet_count: int

    @abstractmethod
    def pts(self, display_index: int) -> int:
        """The presentation time of a frame."""

    @abstractmethod
    def count_before(self, pts: int) -> int:
        """The number of frames presented before `pts`."""

    @abstractmethod
    def end(self) -> int:
        """The time at which the last frame's own time is over."""

    @abstractmethod
    def is_rate_constant(self) -> bool:
        """Say whether all frames are equally far apart."""

    def runs(self, display_indices: Sequence[int]) -> tuple[Run, ...]:
        """The runs to decode for these frames, one for each group of pictures that holds some of them."""
        groups: dict[int, list[int]] = {}
        for display_index in sorted(set(display_indices)):
            groups.setdefault(self._start_for(display_index), []).append(display_index)
        return tuple(self._run(start, wanted) for start, wanted in groups.items())

    @abstractmethod
    def _start_for(self, display_index: int) -> int:
        """The key frame that decoding starts from, as a number of the index's own."""

    @abstractmethod
    def _run(self, start: int, display_indices: Sequence[int]) -> Run:
        """The run from that key frame for these frames, which ascend."""


def seeks_bytes(container: InputContainer) -> bool:
    return container.format.name in _BYTE_SEEKS


def bitstream_of(stream: VideoStream) -> Bitstream:
    context = stream.codec_context
    return Bitstream.of(context.name, context.extradata)


def arriving(container: InputContainer, stream: VideoStream, run: Run) -> Iterator[Packet[VideoStream]]:
    """Seeks to a run and yields its packets, each compared with its id; the empty one too, if the file ends there."""
    container.seek(run.seek_to, stream=stream, unsupported_byte_offset=run.seeks_bytes)
    ids = iter(run.packets)
    awaited = next(ids, None)
    for packet in container.demux(stream):
        if awaited is None:
            if packet.size:
                raise DistrustError("the decoder asked for more packets than a frame can need")
            yield packet
            return
        is_it = (packet.dts if run.is_by_dts else packet.pts, packet.pos, packet.size) == (
            awaited.timestamp,
            awaited.position,
            awaited.size,
        )
        if not is_it and awaited is run.packets[0] and _is_before(packet, awaited, run):
            continue
        if not is_it or packet.is_corrupt:
            break
        yield packet
        awaited = next(ids, None)
    raise DistrustError("seeking led to other packets than those that were expected")


def _is_before(packet: Packet[VideoStream], awaited: PacketId, run: Run) -> bool:
    if packet.pos is None:
        return packet.size > 0 and run.seeks_bytes
    return packet.size > 0 and packet.pos <= awaited.position
