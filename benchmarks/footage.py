"""The files that are measured: 20 seconds are encoded once, then their packets are repeated up to the length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias, cast

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from benchmarks.frames_targets import is_long
from benchmarks.pictures import pictures
from vllava_cli.nouns import Clip

VideoPacket: TypeAlias = "av.Packet[VideoStream]"

FPS = 30
SEGMENT_S = 20
_SCENE_S = 4
_NAMES = {"libx264": "h264", "libx265": "hevc"}
"""Encoder → codec, where a target is about that."""


class FootageError(Exception):
    """A file that didn't become what it should."""


@dataclass(frozen=True, kw_only=True)
class Footage:
    """One file: `seconds` long, of `width` x `height`; encoder settings as people use them."""

    name: str
    codec: str
    width: int
    height: int
    seconds: int
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"

    @property
    def segment(self) -> str:
        """The name of what is encoded: long files of one codec and size share it."""
        return f"segment-{self.codec}-{self.width}x{self.height}.{'webm' if self.codec == 'libvpx-vp9' else 'mp4'}"

    @property
    def clip(self) -> Clip:
        """What is known of the file beforehand."""
        return Clip(
            path=Path(self.name),
            kind="video",
            width=self.width,
            height=self.height,
            frame_count=self.frames,
            duration_s=float(self.seconds),
            codec=_NAMES.get(self.codec, self.codec),
            container=Path(self.name).suffix.removeprefix("."),
        )

    @property
    def is_long(self) -> bool:
        return is_long(self.clip)

    @property
    def frames(self) -> int:
        return self.seconds * FPS


X264 = {"preset": "fast", "crf": "22"}
X265 = {"preset": "fast", "crf": "25", "x265-params": "log-level=none"}
VP9 = {"deadline": "realtime", "cpu-used": "6", "b": "1500000", "g": "240", "row-mt": "1"}
AV1 = {"preset": "10", "crf": "38", "svtav1-params": "lp=2"}
MPEG2 = {"b": "6000000", "g": "15", "bf": "2"}

# An eighth of every length (75, 455, 905 s) is 15 s more than a multiple of the segment's, so that the frames that are
# needed lie 0, 15, 10 and 5 s into it in all of them: the same work, whatever the length.
LONG = (
    Footage(name="h264-480p-10min.mp4", codec="libx264", width=854, height=480, seconds=600, options=X264),
    Footage(name="h264-1080p-10min.mp4", codec="libx264", width=1920, height=1080, seconds=600, options=X264),
    Footage(name="hevc-720p-10min.mp4", codec="libx265", width=1280, height=720, seconds=600, options=X265),
    Footage(name="vp9-720p-10min.webm", codec="libvpx-vp9", width=1280, height=720, seconds=600, options=VP9),
    Footage(name="av1-720p-10min.mp4", codec="libsvtav1", width=1280, height=720, seconds=600, options=AV1),
    Footage(name="h264-1080p-10min.ts", codec="libx264", width=1920, height=1080, seconds=600, options=X264),
    Footage(name="mpeg2-576p-10min.mpg", codec="mpeg2video", width=720, height=576, seconds=600, options=MPEG2),
    Footage(name="h264-720p-60min.mp4", codec="libx264", width=1280, height=720, seconds=3640, options=X264),
    Footage(name="hevc-720p-60min.mp4", codec="libx265", width=1280, height=720, seconds=3640, options=X265),
    Footage(name="h264-1080p-2h.mp4", codec="libx264", width=1920, height=1080, seconds=7240, options=X264),
)
SHORT = (
    Footage(name="h264-480p-3s.mp4", codec="libx264", width=854, height=480, seconds=3, options=X264),
    Footage(name="h264-480p-10s.mp4", codec="libx264", width=854, height=480, seconds=10, options=X264),
    Footage(name="h264-480p-30s.mp4", codec="libx264", width=854, height=480, seconds=30, options=X264),
    Footage(name="h264-480p-20s.mkv", codec="libx264", width=854, height=480, seconds=20, options=X264),
    Footage(name="h264-1080p-5s.mp4", codec="libx264", width=1920, height=1080, seconds=5, options=X264),
    Footage(name="hevc-720p-10s.mp4", codec="libx265", width=1280, height=720, seconds=10, options=X265),
    Footage(name="vp9-480p-10s.webm", codec="libvpx-vp9", width=854, height=480, seconds=10, options=VP9),
    Footage(name="av1-480p-10s.mp4", codec="libsvtav1", width=854, height=480, seconds=10, options=AV1),
    Footage(name="mpeg4-480p-10s.avi", codec="mpeg4", width=640, height=480, seconds=10, options={"b": "2000000"}),
    Footage(name="mjpeg-480p-5s.avi", codec="mjpeg", width=640, height=480, seconds=5, pix_fmt="yuvj420p"),
    Footage(name="gif-240p-3s.gif", codec="gif", width=320, height=240, seconds=3, pix_fmt="rgb8"),
)
ALL = (*SHORT, *LONG)


def make(footage: Footage, folder: Path) -> Path:
    """The file, made if it isn't there yet."""
    path = folder / footage.name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished-{path.name}")
        if footage.is_long:
            _repeat(_segment(footage, folder), unfinished, footage.seconds // SEGMENT_S)
        else:
            _encode(footage, unfinished, footage.frames)
        _check(unfinished, footage.frames)
        unfinished.replace(path)
    return path


def _segment(footage: Footage, folder: Path) -> Path:
    path = folder / footage.segment
    if not path.exists():
        unfinished = path.with_name(f"unfinished-{path.name}")
        _encode(footage, unfinished, SEGMENT_S * FPS)
        unfinished.replace(path)
    return path


def _encode(footage: Footage, path: Path, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = cast("VideoStream", container.add_stream(footage.codec, rate=FPS, options=dict(footage.options)))
        stream.width, stream.height, stream.pix_fmt = footage.width, footage.height, footage.pix_fmt
        for picture in pictures(frames, footage.width, footage.height, scene_frames=_SCENE_S * FPS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _repeat(segment: Path, path: Path, times: int) -> None:
    """Copies the packets of `segment`, whose first frame is a clean start, `times` times in a row."""
    with av.open(str(segment)) as source, av.open(str(path), "w") as container:
        stream = source.streams.video[0]
        for packet in _repeated(list(_packets(source)), stream.time_base or Fraction(1, FPS), times):
            packet.stream = _copy_of(stream, container)
            container.mux(packet)


def _copy_of(stream: VideoStream, container: OutputContainer) -> VideoStream:
    """`opaque`, because the decoder of AV1 has another name than any of its encoders."""
    return container.streams.video[0] if container.streams else container.add_stream_from_template(stream, opaque=True)


def _repeated(packets: list[VideoPacket], base: Fraction, times: int) -> Iterator[VideoPacket]:
    first = min(_stamps(packet)[0] for packet in packets)
    for turn in range(times):
        shift = turn * round(SEGMENT_S / base) - first
        for packet in packets:
            again = cast("VideoPacket", av.Packet(_later(bytes(packet), turn * SEGMENT_S)))
            again.time_base, again.is_keyframe = base, packet.is_keyframe
            again.pts, again.dts = (stamp + shift for stamp in _stamps(packet))
            again.duration = round(1 / FPS / base)
            yield again


def _later(data: bytes, seconds: int) -> bytes:
    """Moves the time code of an MPEG-2 group of pictures, so that it counts on through the repeats; else no change.

    Its 25 bits are drop flag, hours, minutes, a 1, seconds and pictures.
    """
    at = data.find(b"\0\0\1\xb8", 0, 64) + 4
    if at < 4:
        return data
    code = int.from_bytes(data[at : at + 4], "big")
    whole_s = (code >> 26 & 31) * 3600 + (code >> 20 & 63) * 60 + (code >> 13 & 63) + seconds
    minutes = whole_s // 60
    moved = (minutes // 60) << 26 | (minutes % 60) << 20 | 1 << 19 | (whole_s % 60) << 13 | code & 0x8000_1FFF
    return data[:at] + moved.to_bytes(4, "big") + data[at + 4 :]


def _packets(container: av.container.InputContainer) -> Iterator[VideoPacket]:
    return (packet for packet in container.demux(video=0) if packet.size)


def _stamps(packet: VideoPacket) -> tuple[int, int]:
    if packet.pts is None or packet.dts is None:
        raise FootageError(f"A packet at {packet.pos} has no time stamps.")
    return packet.pts, packet.dts


def _check(path: Path, frames: int) -> None:
    """Reads the packets back: as many as frames, strictly in order of decoding, no two shown at once.

    Matroska has no times of decoding, and those of its first packets can't be derived.
    """
    with av.open(str(path)) as container:
        packets = list(_packets(container))
    shown = {packet.pts for packet in packets if packet.pts is not None}
    decoded = [packet.dts for packet in packets if packet.dts is not None]
    if len(packets) != frames or len(shown) != frames or sorted(set(decoded)) != decoded:
        raise FootageError(f"{path} has {len(packets)} packets instead of {frames}, or wrong time stamps.")
