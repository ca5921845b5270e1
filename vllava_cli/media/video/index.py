"""Where a file's frames are: what the two indexes share, and the runs of packets that give some of the frames.

A *rank* is a frame's place in presentation order; a *stamp* is its presentation time in the stream's time base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How a packet is known again; `stamp` is its dts in a sample table, else its pts."""

    stamp: int
    position: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """A stretch of packets from a key frame on, and the frames to take from it."""

    seek_to: int
    """A time stamp, or a position in bytes where `seeks_bytes`."""
    marks: tuple[Mark, ...]
    """The packets that must arrive, in this order."""
    presented: tuple[int, ...] = ()
    """Stamps that the decoder must give, ascending, from the key frame to the last wanted frame."""
    wanted: frozenset[int] = frozenset()
    seeks_bytes: bool = False
    stamps_are_dts: bool = False


class DamageError(DistrustError):
    """A needed group can't be decoded cleanly: no other index will help."""


class Index(Protocol):
    """What a file's sample table or one pass over its packets tells."""

    @property
    def frame_count(self) -> int: ...

    @property
    def packet_count(self) -> int: ...

    @property
    def source(self) -> str:
        """What told the frames, as the subject of a sentence."""

    def stamp(self, rank: int) -> int:
        """The presentation time of a frame. Errors: DistrustError, as everywhere here."""

    def rank(self, stamp: int) -> int:
        """How many frames are presented before `stamp`."""

    def end(self) -> int:
        """The stamp at which the last frame's time is over."""

    def is_rate_constant(self) -> bool: ...

    def runs(self, ranks: Sequence[int]) -> tuple[Run, ...]:
        """What to decode for these frames, a run for each group of pictures that holds some of them."""


def seeks_bytes(container: InputContainer) -> bool:
    return container.format.name in _BYTE_SEEKS


def bitstream_of(stream: VideoStream) -> Bitstream:
    context = stream.codec_context
    return Bitstream.of(context.name, context.extradata)


def arriving(container: InputContainer, stream: VideoStream, run: Run) -> Iterator[Packet[VideoStream]]:
    """Seeks to a run and yields its packets, each compared with its mark; the empty one too, if the file ends there."""
    container.seek(run.seek_to, stream=stream, unsupported_byte_offset=run.seeks_bytes)
    marks = iter(run.marks)
    awaited = next(marks, None)
    for packet in container.demux(stream):
        if awaited is None:
            if packet.size:
                raise DistrustError("the decoder asked for more packets than a frame can need")
            yield packet
            return
        if awaited is run.marks[0] and not _is(packet, awaited, run) and _is_before(packet, awaited, run):
            continue
        if not _is(packet, awaited, run) or packet.is_corrupt:
            break
        yield packet
        awaited = next(marks, None)
    raise DistrustError("seeking led to other packets than those that were expected")


def grouped(ranks: Sequence[int], key_of: Mapping[int, int]) -> dict[int, list[int]]:
    """Ranks by the key that their decoding starts from: [3, 9, 40], {3: 0, 9: 0, 40: 2} → {0: [3, 9], 2: [40]}."""
    groups: dict[int, list[int]] = {}
    for rank in sorted(set(ranks)):
        groups.setdefault(key_of[rank], []).append(rank)
    return groups


def _is(packet: Packet[VideoStream], mark: Mark, run: Run) -> bool:
    stamp = packet.dts if run.stamps_are_dts else packet.pts
    return (stamp, packet.pos, packet.size) == (mark.stamp, mark.position, mark.size)


def _is_before(packet: Packet[VideoStream], mark: Mark, run: Run) -> bool:
    if packet.pos is None:
        return packet.size > 0 and run.seeks_bytes
    return packet.size > 0 and packet.pos <= mark.position
