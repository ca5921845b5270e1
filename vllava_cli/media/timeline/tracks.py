"""The tracks of a file that is cut out of a clip: packets as they are, or frames that are coded again.

Each track yields its packets in the order of decoding; their times count from the first frame of the new file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import av
from av.audio.frame import AudioFrame
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from vllava_cli.media.container import DECODE_ERRORS, decoder_of, opened, video_stream
from vllava_cli.media.pictures import matrix_of, orientation_of
from vllava_cli.media.timeline.parts import CutForm
from vllava_cli.media.tone_map import TRANSFERS
from vllava_cli.media.video.index import DistrustError, Run, arriving, bitstream_of

_EARLY_S = 2
"""Sound may be stored this much before the picture that it belongs to."""
_EARLY_BYTES = 1 << 20
_LATE_S = 10
"""A track that has no packet for this long after the end has ended."""
_CLOCK = Fraction(1, 90_000)
_ENCODERS = {"webm": (("libvpx-vp9",), "libopus")}
_USUAL = (("libx264", "mpeg4"), "aac")
"""The encoders for pictures, of which the first that is there is taken, and the one for sound."""
_QUALITY = {
    "libx264": {"crf": "18", "preset": "veryfast"},
    "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"},
    "mpeg4": {"qscale": "3", "flags": "+qscale"},
}
_KEPT_FACTS = ("language", "title", "alpha_mode", "stereo_mode")
_THREADS = 4
_CHECKED = 32
"""The frames that are decoded to see whether copied packets show what they should."""
_LIMITED, _BT601 = 1, 6
"""FFmpeg's numbers for what its converter makes of RGB: luma from 16 to 235, and the matrix of BT.601."""
_LAYOUTS = ("mono", "stereo", "5.1")
_AAC_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


@dataclass(frozen=True, kw_only=True)
class Span:
    """The part of a clip that becomes a file, in seconds on the clock of the clip's own container."""

    start_s: Fraction
    """The time of the new file's first frame."""
    end_s: Fraction
    is_seekable: bool
    """False if time stamps don't lead to the right place, so that everything before the part must be read."""


class Track(ABC):
    """One stream of the new file."""

    stream: Stream
    """The stream of the new file, once `add` was called."""

    @abstractmethod
    def add(self, to: OutputContainer) -> None:
        """Adds a stream to the new file."""

    @abstractmethod
    def packets(self) -> Iterator[Packet[Any]]:
        """Yields the packets in the order of decoding. Errors: DistrustError; those of FFmpeg."""

    @abstractmethod
    def count(self) -> int:
        """Returns the number of packets, or a larger one."""


class CopiedPictures(Track):
    """The packets of a video from a key frame on, with decoding times that follow from the times of presentation."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, run: Run, first: int) -> None:
        """Reads the packets once. The frame at `first` is the first that must be there. Errors: DistrustError."""
        self._path, self._template, self._run = path, stream, run
        self._before, self._pts, self._droppable = 0, array("q"), list[bool]()
        self._read(container, stream, first)
        last = run.presented[-1]
        self._is_kept = [
            self._pts[0] <= pts and not (pts > last and is_droppable)
            for pts, is_droppable in zip(self._pts, self._droppable, strict=True)
        ]
        kept = [pts for pts, is_kept in zip(self._pts, self._is_kept, strict=True) if is_kept]
        ordered = sorted(kept)
        self._delay = max(shown - pts for shown, pts in zip(ordered, kept, strict=True))
        self._dts = ordered
        self.first, self.last = self._pts[0], last
        """The times of the first and the last frame that belong to the part."""

    def _read(self, container: InputContainer, stream: VideoStream, first: int) -> None:
        bitstream, missing = bitstream_of(stream), set(self._run.presented)
        for number, packet in enumerate(arriving(container, stream, self._run)):
            if not packet.size:
                break
            if packet.is_discard or packet.pts is None:
                raise DistrustError("an edit list leaves out some of the frames that it needs")
            view = memoryview(cast("bytes", packet))
            if packet.is_keyframe and packet.pts <= first and bitstream.start(view) != "none":
                self._before, self._pts, self._droppable = number, array("q"), []
            self._pts.append(packet.pts)
            self._droppable.append(bitstream.is_droppable(view))
            missing.discard(packet.pts)
            if not missing:
                return
        raise DistrustError("it breaks off")

    def add(self, to: OutputContainer) -> None:
        self.stream = _from_template(to, self._template)

    def count(self) -> int:
        return len(self._dts)

    def packets(self) -> Iterator[Packet[Any]]:
        with opened(self._path) as container:
            yield from self._shifted(container, video_stream(container, self._path))

    def check(self) -> None:
        """Decodes the first packets as a player will. Errors: DistrustError if frames come otherwise than expected."""
        due = iter([pts - self.first for pts in self._run.presented if pts >= self.first][:_CHECKED])
        with opened(self._path) as container:
            stream = video_stream(container, self._path)
            decoder = decoder_of(stream)
            decoder.options = {**decoder.options, "err_detect": "explode"}
            decoder.thread_type = "SLICE"
            for packet in chain(self._shifted(container, stream), [None]):
                for frame in _frames(decoder, packet):
                    expected = next(due, None)
                    if expected is None:
                        return
                    if frame.pts != expected or frame.is_corrupt:
                        raise DistrustError("decoding from its key frame gives other frames than expected")
        if next(due, None) is not None:
            raise DistrustError("decoding from its key frame gives fewer frames than expected")

    def _shifted(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[Any]]:
        dts, arrived = iter(self._dts), arriving(container, stream, self._run)
        for packet, is_kept in zip(islice(arrived, self._before, None), self._is_kept, strict=False):
            if is_kept:
                packet.pts = (packet.pts or 0) - self.first
                packet.dts = next(dts) - self._delay - self.first
                yield packet


class CopiedOther(Track):
    """The packets of a sound or of subtitles whose times lie in the span."""

    def __init__(self, path: Path, template: Stream, span: Span) -> None:
        self._path, self._template, self._span = path, template, span
        self._count = sum(1 for _ in self.packets())

    def add(self, to: OutputContainer) -> None:
        self.stream = _from_template(to, self._template)

    def count(self) -> int:
        return self._count

    def packets(self) -> Iterator[Packet[Any]]:
        span, is_text = self._span, self._template.type == "subtitle"
        with opened(self._path, has_decoders=False) as container:
            for packet in _around(container, self._path, self._template.index, span):
                base = packet.time_base
                pts, duration = packet.pts or 0, packet.duration or 0
                start, end = (span.start_s / base).__ceil__(), (span.end_s / base).__ceil__()
                is_shown = pts + duration > start if is_text else pts >= start
                if not is_shown or pts >= end:
                    continue
                packet.pts = packet.dts = max(pts, start) - start
                if is_text:
                    packet.duration = min(pts + duration, end) - max(pts, start)
                yield packet


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A decoded frame, the time from which it is shown in the new file, and for how long, in seconds."""

    frame: VideoFrame
    time_s: float
    shown_s: float


class RecodedPictures(Track):
    """Frames that are encoded again, each at its own time; they are stored as they were, with the same matrix."""

    def __init__(self, frames: Iterator[TimedFrame], count: int, template: VideoStream, form: CutForm) -> None:
        """Decodes the first frame, which tells the size, the colours and the display matrix of all."""
        self._frames, self._count, self._template = frames, count, template
        self._first = next(frames)
        names = _ENCODERS.get(form, _USUAL)[0]
        self._encoder = next(name for name in names if name in av.codecs_available)

    def add(self, to: OutputContainer) -> None:
        frame, name = self._first.frame, self._encoder
        rate = self._template.average_rate or self._template.guessed_rate or Fraction(25)
        stream = cast("VideoStream", to.add_stream(name, rate=rate, options=dict(_QUALITY[name])))
        stream.width, stream.height = (max(2, side - side % 2) for side in (frame.width, frame.height))
        is_hdr = frame.color_trc in TRANSFERS and name == "libx264"
        stream.pix_fmt = "yuv420p10le" if is_hdr else "yuv420p"
        context = stream.codec_context
        context.time_base, context.thread_count = _CLOCK, _THREADS
        context.sample_aspect_ratio = self._template.sample_aspect_ratio or Fraction(1)
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
        is_converted = frame.format.is_rgb or frame.format.has_palette or frame.format.name.startswith("yuvj")
        context.color_range = _LIMITED if is_converted else frame.color_range
        context.colorspace = _BT601 if frame.format.is_rgb or frame.format.has_palette else frame.colorspace
        if matrix := matrix_of(frame):
            turn = orientation_of(matrix)
            stream.set_display_rotation(-turn.rotation, hflip=turn.is_mirrored)
        self.stream = stream

    @property
    def clock_s(self) -> Fraction | None:
        """The time of the first frame on the container's clock; None if it has none."""
        frame = self._first.frame
        return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base

    def count(self) -> int:
        return self._count

    def packets(self) -> Iterator[Packet[Any]]:
        stream, reformatter = cast("VideoStream", self.stream), VideoReformatter()
        size, durations, last = (stream.width, stream.height), dict[int, int](), -1
        for timed in chain([self._first], self._frames):
            frame = reformatter.reformat(timed.frame, *size, format=stream.pix_fmt)
            last = frame.pts = max(last + 1, round(Fraction(timed.time_s) / _CLOCK))
            frame.time_base = _CLOCK
            frame.pict_type = PictureType.NONE
            durations[frame.pts] = round(Fraction(timed.shown_s) / _CLOCK)
            yield from _lasting(stream.encode(frame), durations)
        yield from _lasting(stream.encode(), durations)


class RecodedSound(Track):
    """A sound that is decoded, cut to the sample, and encoded again."""

    def __init__(self, path: Path, template: Stream, span: Span, form: CutForm) -> None:
        self._path, self._template, self._span = path, cast("Any", template), span
        self._encoder = _ENCODERS.get(form, _USUAL)[1]
        own = self._template.rate
        self._rate = own if self._encoder == "aac" and own in _AAC_RATES else 48_000

    def add(self, to: OutputContainer) -> None:
        own = self._template.layout.name if self._template.layout else "stereo"
        layout = own if own in _LAYOUTS else "stereo"
        self.stream = to.add_stream(self._encoder, rate=self._rate, layout=layout)
        self.stream.metadata.update(_described(self._template))

    def count(self) -> int:
        return math.ceil((self._span.end_s - self._span.start_s) * self._rate / 256) + 16

    def packets(self) -> Iterator[Packet[Any]]:
        stream = cast("Any", self.stream)
        with opened(self._path) as container:
            for packet in _around(container, self._path, self._template.index, self._span):
                for frame in _sound(packet):
                    if part := within(frame, self._span):
                        yield from stream.encode(part)
            yield from stream.encode()


def within(frame: AudioFrame, span: Span) -> AudioFrame | None:
    """Returns the samples of a frame that lie in the span, at their time in the new file; None if there are none."""
    if frame.pts is None or frame.time_base is None or not frame.sample_rate:
        return None
    rate, time_s = frame.sample_rate, frame.pts * frame.time_base
    first = max(0, round((span.start_s - time_s) * rate))
    after = min(frame.samples, round((span.end_s - time_s) * rate))
    if first >= after:
        return None
    stride = 1 if frame.format.is_planar else frame.layout.nb_channels
    samples = frame.to_ndarray()[:, first * stride : after * stride].copy()
    part = AudioFrame.from_ndarray(samples, format=frame.format.name, layout=frame.layout.name)
    part.sample_rate, part.time_base = rate, Fraction(1, rate)
    part.pts = max(0, round((time_s - span.start_s) * rate) + first)
    return part


def timed(frames: Iterable[tuple[VideoFrame, float]], times_s: Sequence[float]) -> Iterator[TimedFrame]:
    """Gives each frame, which comes with its time, the time until the next of `times_s`, the last of which is the end.

    All times count from the first of `times_s`.
    """
    for (frame, time_s), until_s in zip(frames, times_s[1:], strict=False):
        yield TimedFrame(frame=frame, time_s=time_s - times_s[0], shown_s=until_s - time_s)


def decoded(path: Path, run: Run) -> Generator[VideoFrame]:
    """Decodes a run and yields its wanted frames. Errors: DistrustError."""
    from vllava_cli.media.video.decode import wanted_frames

    with opened(path) as container:
        stream = video_stream(container, path)
        decoder = decoder_of(stream)
        decoder.options = {**decoder.options, "err_detect": "explode"}
        decoder.thread_type, decoder.thread_count = "AUTO", _THREADS
        for frame, _ in wanted_frames(container, stream, decoder, run):
            yield frame


def _around(container: InputContainer, path: Path, number: int, span: Span) -> Iterator[Packet[Any]]:
    """Yields the packets of one stream from somewhat before the span on; stops where the video is far behind it."""
    stream, pictures = container.streams[number], video_stream(container, path)
    if span.is_seekable:
        container.seek(max(0, round((span.start_s - _EARLY_S) * 1_000_000)))
    for packet in container.demux(stream, pictures):
        if packet.pts is None or packet.time_base is None:
            continue
        time_s = packet.pts * packet.time_base
        if packet.stream_index == number and packet.size:
            if stream.type == "audio" and time_s >= span.end_s + _EARLY_S:
                return
            yield packet
        elif time_s >= span.end_s + _LATE_S:
            return


def _frames(decoder: VideoCodecContext, packet: Packet[Any] | None) -> list[VideoFrame]:
    try:
        return decoder.decode(packet)
    except MemoryError:
        raise
    except DECODE_ERRORS as exc:
        raise DistrustError("its frames can't be decoded from its key frame on") from exc


def _sound(packet: Packet[Any]) -> list[AudioFrame]:
    """Decodes a packet; a damaged one gives silence, as in a player."""
    try:
        return cast("list[AudioFrame]", packet.decode())
    except MemoryError:
        raise
    except DECODE_ERRORS:
        return []


def _lasting(packets: Iterable[Packet[Any]], durations: dict[int, int]) -> Iterator[Packet[Any]]:
    for packet in packets:
        packet.duration = durations.pop(packet.pts or 0, packet.duration or 0)
        yield packet


def _from_template(to: OutputContainer, template: Stream) -> Stream:
    stream = to.add_stream_from_template(template, opaque=True)
    tag = template.codec_context.codec_tag
    if template.type == "video" and (to.format.name == "mov" or tag == "hvc1"):
        stream.codec_context.codec_tag = tag  # ProRes tells its profile by it, and some players need this one of HEVC
    stream.time_base, stream.disposition = template.time_base, template.disposition
    stream.metadata.update(_described(template))
    return stream


def _described(template: Stream) -> dict[str, str]:
    return {
        name: template.metadata[name]
        for name in ("language", "title", "alpha_mode", "stereo_mode")
        if name in template.metadata
    }
