"""Decodes a file from its beginning to its end: slow, always right, and what the indexes are held to.

Frames are converted on the way where their positions can be foreseen; else a second pass is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.container import DECODE_ERRORS, codec_name, container_name, opened, promised, video_stream
from vllava_cli.media.pictures import Converter, Pixels, matrix_of
from vllava_cli.media.select import pick, reference

_UNKNOWN_RATE = Fraction(25)
_KEPT_BYTES = 16 << 20

VideoPacket: TypeAlias = "Packet[VideoStream]"


@dataclass(kw_only=True)
class Tally:
    """What one pass met: `packets` were read and `refused` of them could not be decoded."""

    packets: int = 0
    frames: int = 0
    refused: int = 0
    corrupt: int = 0
    """Frames that the decoder gave, but had to make up in part."""
    is_cut: bool = False
    """The container itself broke off with an error."""

    @property
    def is_clean(self) -> bool:
        return self.frames == self.packets and not (self.refused or self.corrupt or self.is_cut)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a pass over the whole file learnt; times in seconds from the first frame, width and height as stored."""

    times_s: tuple[float, ...]
    duration_s: float
    fps: float
    width: int
    height: int
    matrix: bytes | None
    reported: int
    """Frames by the container's own count, 0 if it has none: what the documentation's positions go by."""
    promised: int
    """Packets that the container says it holds, 0 for unknown."""
    codec: str
    container: str
    pixel_format: str
    tally: Tally
    taken: dict[int, Pixels] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Walk:
    """What is noted of the frames of one pass; those that are wanted are converted on the way."""

    wanted: frozenset[int]
    stamps: list[int | None] = field(default_factory=list)
    last_duration: int = 0
    base: Fraction = Fraction(1)
    width: int = 0
    height: int = 0
    pixel_format: str = ""
    matrix: bytes | None = None
    taken: dict[int, Pixels] = field(default_factory=dict)
    converter: Converter = field(default_factory=Converter)

    def add(self, frame: VideoFrame) -> None:
        """Notes a frame without holding on to it, unless frames are kept."""
        index = len(self.stamps)
        if index == 0:
            self.base, self.matrix = frame.time_base or self.base, matrix_of(frame)
            self.width, self.height, self.pixel_format = frame.width, frame.height, frame.format.name
        self.stamps.append(frame.pts)
        self.last_duration = frame.duration
        if index in self.wanted:
            self.taken[index] = np.empty((self.height, self.width, 3), np.uint8)
            self.converter.write(frame, self.taken[index])


def survey(path: Path, foreseen: Sequence[int] = (), *, is_damaged: bool = False) -> Survey:
    """Decodes everything, in several threads; where anything is damaged, just as the documentation's loop does.

    A decoder of several threads may conceal damage in other ways than one of a single thread.
    """
    with opened(path) as container:
        known = _pass(container, path, foreseen, is_threaded=not is_damaged)
    if is_damaged or known.tally.is_clean:
        return known
    with opened(path) as again:
        return _pass(again, path, foreseen or pick(len(known.times_s)), is_threaded=False)


def survey_unknown(container: InputContainer, path: Path) -> Survey:
    """`survey` of a file that has just been opened and whose frames haven't been counted.

    They are counted by their packets first, so that the wanted ones can be converted on the way; packets of small
    files are kept and decoded, so that those are read once.
    """
    stream, tally = video_stream(container, path), Tally()
    packets, kept_bytes = list[VideoPacket](), 0
    for packet in _packets(container, stream, tally):
        kept_bytes += packet.size
        if kept_bytes <= _KEPT_BYTES:
            packets.append(packet)
    foreseen = reference(max(1, tally.packets), reported=stream.frames)
    if tally.is_cut or kept_bytes > _KEPT_BYTES:
        return survey(path, foreseen)
    known = _pass(container, path, foreseen, is_threaded=True, tally=tally, packets=packets)
    return known if known.tally.is_clean else survey(path, foreseen, is_damaged=True)


def fetch_through(path: Path, chosen: Sequence[int], known: Survey) -> Pixels:
    """The chosen frames, [len(chosen), H, W, 3] as stored: those that the survey took, or all from a second pass."""
    taken = dict(known.taken) if set(chosen) <= known.taken.keys() else _fetched(path, frozenset(chosen), known)
    pixels = np.empty((len(chosen), known.height, known.width, 3), np.uint8)
    known.taken.clear()  # so that no picture is held twice
    for index in tuple(taken):
        pixels[[place for place, other in enumerate(chosen) if other == index]] = taken.pop(index)
    return pixels


def _fetched(path: Path, wanted: frozenset[int], known: Survey) -> dict[int, Pixels]:
    taken, converter = dict[int, Pixels](), Converter()
    with opened(path) as container:
        stream = _stream(container, path, is_threaded=known.tally.is_clean)
        for index, frame in enumerate(_decoded(_packets(container, stream, Tally()), Tally())):
            if index in wanted:
                taken[index] = np.empty((known.height, known.width, 3), np.uint8)
                converter.write(frame, taken[index])
            if len(taken) == len(wanted):
                return taken
    raise MediaError(f"{quoted(path)} changed while it was read. Try again.")


def _pass(
    container: InputContainer,
    path: Path,
    foreseen: Sequence[int],
    *,
    is_threaded: bool,
    packets: Sequence[VideoPacket] = (),
    tally: Tally | None = None,
) -> Survey:
    """One pass over the file, or over `packets` of it that have been read and counted in `tally`."""
    stream, tally = _stream(container, path, is_threaded=is_threaded), tally or Tally()
    walk = _Walk(wanted=frozenset(foreseen), base=stream.time_base or Fraction(1))
    for frame in _decoded(packets or _packets(container, stream, tally), tally):
        walk.add(frame)
    if not walk.stamps:
        raise MediaError(f"No frame of {quoted(path)} could be decoded: it is damaged. Copy or download it again.")
    times_s, fps = _times(walk.stamps, walk.base, stream.average_rate or stream.guessed_rate or _UNKNOWN_RATE)
    return Survey(
        times_s=times_s,
        duration_s=max(times_s) + (float(walk.last_duration * walk.base) if walk.last_duration else 1 / fps),
        fps=fps,
        width=walk.width,
        height=walk.height,
        matrix=walk.matrix,
        reported=stream.frames,
        promised=promised(container, stream),
        codec=codec_name(stream),
        container=container_name(container, path),
        pixel_format=walk.pixel_format,
        tally=tally,
        taken=walk.taken,
    )


def _stream(container: InputContainer, path: Path, *, is_threaded: bool) -> VideoStream:
    stream = video_stream(container, path)
    stream.codec_context.thread_type = "AUTO" if is_threaded else "SLICE"
    return stream


def _decoded(packets: Iterable[VideoPacket], tally: Tally) -> Iterator[VideoFrame]:
    """Every frame that the decoder shows, in order, damaged ones included.

    The documentation's loop stops with an error at the first packet that the decoder refuses; here such packets are
    counted and passed over, as players do. Where the container itself breaks off, that is the end.
    """
    for packet in packets:
        try:
            for frame in packet.decode():
                tally.frames += 1
                tally.corrupt += frame.is_corrupt
                yield frame
        except MemoryError:
            raise
        except DECODE_ERRORS:
            tally.refused += 1


def _packets(container: InputContainer, stream: VideoStream, tally: Tally) -> Iterator[VideoPacket]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except MemoryError:
            raise
        except DECODE_ERRORS:
            tally.is_cut = True
            return
        if packet is None:
            return
        tally.packets += packet.size > 0
        yield packet


def _times(stamps: Sequence[int | None], base: Fraction, rate: Fraction) -> tuple[tuple[float, ...], float]:
    """Seconds from the first frame, and frames per second; the declared rate gives both if a stamp is missing."""
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps):
        return tuple(float(index / rate) for index in range(len(stamps))), float(rate)
    times_s = tuple(float((stamp - known[0]) * base) for stamp in known)
    fps = (len(times_s) - 1) / times_s[-1] if times_s[-1] > 0 else float(rate)
    return times_s, fps
