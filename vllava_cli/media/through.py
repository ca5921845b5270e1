"""Decodes a file from its beginning to its end: slow, always right, and what the indexes are held to.

Frames are converted on the way where their positions can be foreseen; else a second pass is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vllava_cli.errors import MediaError
from vllava_cli.media.clip import DECODE_ERRORS, codec_name, container_name, opened, promised, shown, video_stream
from vllava_cli.media.pick import pick
from vllava_cli.media.rgb import Pixels, matrix_of, rgb

_UNKNOWN_RATE = Fraction(25)
_KEPT_BYTES = 64 << 20


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
    kept: tuple[VideoFrame, ...] = ()
    """All frames of a short clip whose wanted ones weren't known beforehand."""


@dataclass(kw_only=True)
class _Walk:
    """What is noted of the frames of one pass, and which of them are converted or kept on the way."""

    wanted: frozenset[int]
    keeps: bool
    """Keep the frames, as long as they take little memory, so that any of them can be converted later."""
    stamps: list[int | None] = field(default_factory=list)
    last_duration: int = 0
    base: Fraction = Fraction(1)
    width: int = 0
    height: int = 0
    pixel_format: str = ""
    matrix: bytes | None = None
    taken: dict[int, Pixels] = field(default_factory=dict)
    kept: list[VideoFrame] = field(default_factory=list)

    def add(self, frame: VideoFrame) -> None:
        """Notes a frame without holding on to it, unless frames are kept."""
        index = len(self.stamps)
        if index == 0:
            self.base, self.matrix = frame.time_base or self.base, matrix_of(frame)
            self.width, self.height, self.pixel_format = frame.width, frame.height, frame.format.name
        self.stamps.append(frame.pts)
        self.last_duration = frame.duration
        if index in self.wanted:
            self.taken[index] = rgb(frame, width=self.width, height=self.height)
        if self.keeps:
            self.kept.append(frame)
            if len(self.kept) * self.width * self.height * 4 > _KEPT_BYTES:
                self.keeps = False
                self.kept.clear()


def survey(path: Path, foreseen: Sequence[int] = (), *, is_damaged: bool = False) -> Survey:
    """Decodes everything, in several threads; where anything is damaged, just as the documentation's loop does.

    A decoder of several threads may conceal damage in other ways than one of a single thread, and so may one whose
    frames are kept: it finds other things in the memory that it uses again.
    """
    with opened(path) as container:
        if is_damaged:
            return _pass(container, path, foreseen, is_threaded=False)
        return survey_opened(container, path, foreseen)


def survey_opened(container: InputContainer, path: Path, foreseen: Sequence[int] = ()) -> Survey:
    """`survey` of a file that is open already and of which nothing has been read."""
    known = _pass(container, path, foreseen, is_threaded=True)
    if known.tally.is_clean:
        return known
    with opened(path) as again:
        return _pass(again, path, foreseen or pick(len(known.times_s)), is_threaded=False)


def fetch_through(path: Path, chosen: Sequence[int], known: Survey) -> Pixels:
    """The chosen frames, [len(chosen), H, W, 3] as stored: those that the survey took, or all from a second pass."""
    if known.kept:
        return np.stack([rgb(known.kept[index], width=known.width, height=known.height) for index in chosen])
    taken = known.taken if set(chosen) <= known.taken.keys() else _fetched(path, frozenset(chosen), known)
    return np.stack([taken[index] for index in chosen])


def _fetched(path: Path, wanted: frozenset[int], known: Survey) -> dict[int, Pixels]:
    taken: dict[int, Pixels] = {}
    with opened(path) as container:
        stream = _stream(container, path, is_threaded=known.tally.is_clean)
        for index, frame in enumerate(_decoded(container, stream, Tally())):
            if index in wanted:
                taken[index] = rgb(frame, width=known.width, height=known.height)
            if len(taken) == len(wanted):
                return taken
    raise MediaError(f"{shown(path)} changed while it was read. Try again.")


def _pass(container: InputContainer, path: Path, foreseen: Sequence[int], *, is_threaded: bool) -> Survey:
    stream, tally = _stream(container, path, is_threaded=is_threaded), Tally()
    walk = _Walk(wanted=frozenset(foreseen), keeps=is_threaded and not foreseen, base=stream.time_base or Fraction(1))
    for frame in _decoded(container, stream, tally):
        walk.add(frame)
    if not walk.stamps:
        raise MediaError(f"No frame of {shown(path)} could be decoded: it is damaged. Copy or download it again.")
    times_s, fps = _times(walk.stamps, walk.base, stream.average_rate or stream.guessed_rate or _UNKNOWN_RATE)
    return Survey(
        times_s=times_s,
        duration_s=times_s[-1] + (float(walk.last_duration * walk.base) if walk.last_duration else 1 / fps),
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
        kept=tuple(walk.kept),
    )


def _stream(container: InputContainer, path: Path, *, is_threaded: bool) -> VideoStream:
    stream = video_stream(container, path)
    stream.codec_context.thread_type = "AUTO" if is_threaded else "SLICE"
    return stream


def _decoded(container: InputContainer, stream: VideoStream, tally: Tally) -> Iterator[VideoFrame]:
    """Every frame that the decoder shows, in order, damaged ones included.

    The documentation's loop stops with an error at the first packet that the decoder refuses; here such packets are
    counted and passed over, as players do. Where the container itself breaks off, that is the end.
    """
    for packet in _packets(container, stream, tally):
        try:
            for frame in packet.decode():
                tally.frames += 1
                tally.corrupt += frame.is_corrupt
                yield frame
        except MemoryError:
            raise
        except DECODE_ERRORS:
            tally.refused += 1


def _packets(container: InputContainer, stream: VideoStream, tally: Tally) -> Iterator[Packet[VideoStream]]:
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
