"""Makes real media files for tests, and decodes them the plain way to compare with."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How `write_clip` encodes; `container` is FFmpeg's name of the format, guessed from the file name when empty."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    container: str = ""
    fps: int = 10
    options: dict[str, str] = field(default_factory=dict)
    muxer_options: dict[str, str] = field(default_factory=dict)
    rotation: int = 0
    """Degrees clockwise that the display matrix asks for."""
    is_mirrored: bool = False
    aspect: Fraction | None = None
    """The shape of a stored pixel."""


H264 = Encoding(options={"g": "12", "bf": "2"})
MPEG4 = Encoding(codec="mpeg4")
VP9 = Encoding(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
MJPEG = Encoding(codec="mjpeg", pix_fmt="yuvj420p")
FFV1 = Encoding(codec="ffv1")
GIF = Encoding(codec="gif", pix_fmt="rgb8")
APNG = Encoding(codec="apng", pix_fmt="rgb24", container="apng")


def picture(index: int, width: int = 64, height: int = 48) -> Pixels:
    """[H, W, 3]: a gradient, the index written above it as eight black or white squares, lowest bit first.

    From 256 on a second row of squares below the first has the upper bits.
    """
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y + 9 * index) % 256], axis=-1).astype(np.uint8)
    side = width // 8
    for bit in range(8):
        image[:side, bit * side : (bit + 1) * side] = 255 if index >> bit & 1 else 0
        if index > 255:
            image[side : 2 * side, bit * side : (bit + 1) * side] = 255 if index >> bit + 8 & 1 else 0
    return image


def index_of(image: Pixels) -> int:
    """Reads back what `picture` wrote: index_of(picture(37)) → 37."""
    side = image.shape[1] // 8
    squares = [image[: side - 1, bit * side + 1 : (bit + 1) * side - 1].mean() for bit in range(8)]
    return sum(1 << bit for bit, level in enumerate(squares) if level > 127)


def write_clip(
    path: Path,
    frames: int = 24,
    *,
    encoding: Encoding = H264,
    width: int = 64,
    height: int = 48,
    times: list[int] | None = None,
) -> Path:
    """A video whose frame i shows `picture(i)`; `times` are presentation times in milliseconds for a variable rate."""
    with av.open(str(path), "w", format=encoding.container or None, options=dict(encoding.muxer_options)) as container:
        stream = container.add_stream(encoding.codec, rate=encoding.fps, options=dict(encoding.options))
        stream.width, stream.height, stream.pix_fmt = width, height, encoding.pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if encoding.aspect:
            stream.codec_context.sample_aspect_ratio = encoding.aspect
        if encoding.rotation or encoding.is_mirrored:
            stream.set_display_rotation(-encoding.rotation, hflip=encoding.is_mirrored)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path, *, codec: str = "aac", cover: Path | None = None) -> Path:
    """A second of silence, with an image as its cover art when one is given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000, layout="mono")
        art = container.add_stream("mjpeg", rate=1) if cover else None
        if art is not None:
            art.width, art.height, art.pix_fmt = 64, 48, "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
        for _ in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if art is not None:
            container.mux(art.encode(av.VideoFrame.from_image(Image.open(cover).convert("RGB"))))
            container.mux(art.encode())
    return path


def write_two_videos(path: Path, frames: int = 8, *, default: int, encoding: Encoding = FFV1) -> Path:
    """Two videos in one file, the second counting from 8; stream `default` is marked as the default."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(encoding.codec, rate=10, options=dict(encoding.options)) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for index in range(frames):
            for number, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(picture(8 * number + index), format="rgb24")
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


def write_animation(path: Path, frames: int = 12, *, durations_ms: int | list[int] = 100) -> Path:
    """An animated WebP, AVIF, GIF or PNG, lossless where the format can."""
    images = [Image.fromarray(picture(index)) for index in range(frames)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations_ms, lossless=True, quality=100)
    return path


def write_pictures(path: Path, frames: int = 9, *, kind: str = "JPEG", orientation: int = 6) -> Path:
    """Pictures of a camera as `ffmpeg -i %d.jpg -c copy` puts them into a video: each keeps its EXIF block."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png" if kind == "PNG" else "mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24" if kind == "PNG" else "yuvj420p"
        for index in range(frames):
            written, image = BytesIO(), Image.fromarray(picture(index))
            image.getexif()[_EXIF_ORIENTATION] = orientation
            image.save(written, kind, exif=image.getexif())
            packet = av.Packet(written.getvalue())
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 10), True
            packet.pts = packet.dts = index
            container.mux(packet)
    return path


def cut(path: Path, keep: float, name: str) -> Path:
    """A copy that ends after `keep` of the bytes."""
    data = path.read_bytes()
    shorter = path.with_name(name)
    shorter.write_bytes(data[: int(len(data) * keep)])
    return shorter


def wipe(path: Path, packets: slice) -> Path:
    """Overwrites the compressed data of some packets with zeros, in place."""
    with av.open(path) as container:
        wiped = [bytes(packet) for packet in container.demux(video=0) if packet.size][packets]
    data = path.read_bytes()
    for packet in wiped:
        data = data.replace(packet, bytes(len(packet)))
    path.write_bytes(data)
    return path


def full_decode(path: Path) -> list[Pixels]:
    """Every frame of the file by the loop in transformers' documentation."""
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def reference_eight(frames: list[Pixels]) -> Pixels:
    """The eight of the documentation's `np.arange(0, n, n / 8).astype(int)`, [8, H, W, 3]."""
    total = len(frames)
    return np.stack([frames[index] for index in np.arange(0, total, total / 8).astype(int)])


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What decoding a whole file tells; the eight are those at the reference positions."""

    path: Path
    stamps: list[int | None]
    """One for each frame, in the order in which they are shown."""
    sizes: list[tuple[int, int]]
    base: Fraction
    rate: Fraction
    reported: int
    """How many frames the container says that it holds, 0 if it doesn't."""
    matrices: list[tuple[int, ...]]
    """One for each frame; the one before holds for a frame without its own."""
    look: Callable[[Pixels], Pixels]
    """What becomes of a stored frame before it is turned."""

    lead_s: Fraction
    """The seconds of sound before the first frame, if they can be noticed."""
    is_raw: bool
    """Whether the file is a coded stream without a container."""

    @property
    def matrix(self) -> tuple[int, ...]:
        return self.matrices[0]

    @property
    def count(self) -> int:
        return len(self.stamps)

    @property
    def positions(self) -> list[int]:
        """Counted from what the container reports, if the file has the eight of these and no more frames than that."""
        is_usable = self.reported >= self.count and 7 * self.reported // 8 < self.count
        total = self.reported if is_usable else self.count
        return [int(i * total / 8) for i in range(8)]

    def times_s(self, positions: Iterable[int]) -> list[float]:
        """Seconds from the first frame on; the declared rate tells them where a time stamp is missing or made up.

        Where the stamps fall back half a second before three others, another part begins, one step after those.
        """
        known = [stamp for stamp in self.stamps if stamp is not None]
        if self.is_raw or len(known) < self.count:
            return [float(position / self.rate) for position in positions]
        falls = any(not 0 <= (after - before) * self.base < 47000 for before, after in pairwise(known))
        parts = [known[:1] if falls else known]
        for stamp in known[1:] if falls else ():
            is_other = sum((other - stamp) * self.base >= 0.5 for other in parts[-1]) > 2
            parts.append([stamp]) if is_other or (stamp - parts[-1][-1]) * self.base > 47000 else parts[-1].append(
                stamp
            )
        found, start = list[int](), 0
        for part in map(sorted, parts):
            found += [start + stamp - part[0] for stamp in part]
            start = 2 * found[-1] - max((time for time in found if time < found[-1]), default=found[-1])
        return [float(found[position] * self.base + self.lead_s) for position in positions]

    def pictures(self, positions: Iterable[int]) -> dict[int, Pixels]:
        """[H, W, 3] each, upright, of its own size.

        No frame is kept: what a decoder makes up for damaged parts depends on the memory that it has used before.
        """
        wanted = set(positions)
        with av.open(str(self.path)) as container:
            frames = enumerate(_sequential(container, shown_stream(container)))
            wanted_frames = ((place, frame) for place, frame in frames if place in wanted)
            return {place: _shown(frame, self.matrices[place], self.look) for place, frame in wanted_frames}


def shown_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream:
    """The stream that a player shows: no cover art, the default one if there is one."""
    dispositions = av.stream.Disposition
    moving = [stream for stream in container.streams.video if not stream.disposition & dispositions.attached_pic]
    return min(moving, key=lambda stream: not stream.disposition & dispositions.default)


def as_it_is(stored: Pixels) -> Pixels:
    return stored


def truth(path: Path, look: Callable[[Pixels], Pixels] = as_it_is) -> Truth:
    """Decodes every packet in order; those that the decoder refuses are passed over."""
    with av.open(str(path)) as container:
        stream = shown_stream(container)
        is_raw = container.format.name in ("h264", "hevc", "mjpeg", "m4v", "mpegvideo", "h263")
        rate = (None if is_raw else stream.average_rate) or stream.guessed_rate or Fraction(25)
        reported = stream.frames
        hidden = reported - len(stream.index_entries) if "mov" in container.format.name else 0
        hidden = max(0, hidden) + sum(bool(entry.flags & 2) for entry in stream.index_entries)
        facts = [
            (frame.pts, (frame.width, frame.height), frame.time_base, _matrix(frame))
            for frame in _sequential(container, stream)
        ]
        begins = [
            stream.start_time * stream.time_base for stream in container.streams.audio if stream.start_time is not None
        ]
    stamps, sizes, bases, matrices = zip(*facts, strict=True)
    lead_s = stamps[0] * bases[0] - min(begins) if begins and stamps[0] is not None else Fraction()
    return Truth(
        path=path,
        stamps=list(stamps),
        sizes=list(sizes),
        base=bases[0],
        rate=rate,
        reported=reported - hidden,
        is_raw=is_raw,
        lead_s=lead_s if lead_s > 0.1 else Fraction(),
        matrices=list(accumulate(matrices, lambda last, own: own or last, initial=(1, 0, 0, 1)))[1:],
        look=look,
    )


def _sequential(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[av.VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        with suppress(av.FFmpegError):
            yield from packet.decode()


def _shown(frame: av.VideoFrame, matrix: tuple[int, ...], look: Callable[[Pixels], Pixels]) -> Pixels:
    pixels = look(frame.to_ndarray(format="rgb24"))
    a, b, c, d = matrix
    if a == d == 0:
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1])


def _matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """a, b, c, d of the display matrix, which maps (x, y) to (ax + cy, bx + dy); None for none."""
    try:
        numbers = struct.unpack("=9i", bytes(frame.side_data["DISPLAYMATRIX"]))
    except (KeyError, ValueError):  # ValueError: PyAV doesn't know all that is attached to the frame
        return None
    return numbers[0], numbers[1], numbers[3], numbers[4]
