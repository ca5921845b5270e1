"""Looks at a stretch of a video through small pictures: of its key frames alone, or of all its frames.

A key frame costs one decoded frame, however long its group of pictures is. A look changes nothing in the container and
the decoder that read the frames for the model: it opens the file once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from vllava_cli.media.container import DECODE_ERRORS, decoder_of, opened, video_stream
from vllava_cli.media.video.index import DistrustError, bitstream_of

if TYPE_CHECKING:
    from vllava_cli.media.video.packet_table import PacketTable
    from vllava_cli.media.video.seek import Timeline

WIDTH, HEIGHT = 32, 18
SPACING_S = 0.25
"""Key frames that come closer than this after another one are passed over: in some codecs every frame is one."""
MOST_LOOKS = 20_000
"""The most key frames of a stretch that are looked at; a longer stretch is looked at less often. 35 MB of pictures."""

SmallPicture = npt.NDArray[np.uint8]
"""[18, 32, 3] RGB."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """A small picture of the frame that is shown from `time_s` on."""

    time_s: float
    picture: SmallPicture
    row: int = -1
    """The row of its packet in the index's table of packets; -1 where that isn't known."""


def difference(one: SmallPicture, other: SmallPicture) -> float:
    """Returns how much two pictures differ on average, from 0 to 255."""
    return float(np.abs(one.astype(np.int16) - other).mean())


class Shrinker:
    """Makes small pictures of decoded frames of any size."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def small(self, frame: VideoFrame) -> SmallPicture:
        size, area = (WIDTH, HEIGHT), Interpolation.AREA
        shrunk = self._reformatter.reformat(frame, *size, format="rgb24", interpolation=area)
        return shrunk.to_ndarray().astype(np.uint8, copy=False)


class Looker:
    """Reads looks from one file, whose index is that of `timeline`. Errors: DistrustError, MediaError."""

    def __init__(self, container: InputContainer, stream: VideoStream, timeline: Timeline) -> None:
        self._container, self._stream, self._timeline = container, stream, timeline
        self._decoder, self._bitstream = decoder_of(stream), bitstream_of(stream)
        self._decoder.options = {**self._decoder.options, "skip_loop_filter": "all"}  # nobody sees the edges of blocks
        self._decoder.thread_type = "SLICE"
        self._shrinker = Shrinker()

    @property
    def codec(self) -> str:
        return self._decoder.name

    @property
    def blocks(self) -> int:
        """The number of blocks of 16x16 pixels in a stored frame."""
        return self._decoder.width * self._decoder.height // 256

    @classmethod
    @contextmanager
    def of(cls, path: Path, timeline: Timeline) -> Iterator[Looker]:
        with opened(path) as container:
            yield cls(container, video_stream(container, path), timeline)

    def key_frames(self, stretch: range) -> list[Look]:
        """Looks at the key frames of a stretch of display indices.

        The first look is at the key frame from which the first frame is decoded, the last one at the first key frame
        behind the stretch, if there are such. Key frames that can't be decoded are left out.
        """
        timeline, table = self._timeline, self._timeline.index.packet_table
        first_s, last_s = (timeline.time_s(timeline.index.pts(each)) for each in (stretch[0], stretch[-1]))
        spacing_s, looks = max(SPACING_S, (last_s - first_s) / MOST_LOOKS), list[Look]()
        for packet in self._key_packets(stretch[0], table):
            if packet.pts is None or self._bitstream.start(memoryview(packet)) == "none":
                continue
            time_s = timeline.time_s(packet.pts)
            if looks and time_s <= last_s and time_s - looks[-1].time_s < spacing_s:
                continue
            row = table.row_of(packet) if table else -1
            looks += [self._look(frame, row) for frame in self._decoded_alone(packet) if time_s >= 0]
            if time_s > last_s:
                break
        return looks

    def frames(self, first: int, last: int) -> Iterator[Look]:
        """Looks at all frames from one display index to another, in order."""
        index = self._timeline.index
        begin, end = index.pts(first), index.pts(last)
        for frame in self._decoded(first):
            if frame.pts is not None and begin <= frame.pts <= end:
                yield self._look(frame)
            if frame.pts is not None and frame.pts >= end:
                return

    def _look(self, frame: VideoFrame, row: int = -1) -> Look:
        time_s = self._timeline.time_s(frame.pts or 0)
        return Look(time_s=time_s, picture=self._shrinker.small(frame), row=row)

    def _packets(self, display_index: int) -> Iterator[Packet[VideoStream]]:
        """Yields the packets from the key frame on from which a frame is decoded."""
        run = self._timeline.index.runs((display_index,))[0]
        self._decoder.flush_buffers()
        self._container.seek(run.seek_to, stream=self._stream, unsupported_byte_offset=run.seeks_bytes)
        has_begun = False
        for packet in self._container.demux(self._stream):
            identity = packet.dts if run.is_by_dts else packet.pts, packet.pos, packet.size
            has_begun = has_begun or identity == run.packets[0]
            if has_begun and packet.size:
                yield packet
        if not has_begun:
            raise DistrustError("seeking led to other packets than expected")

    def _key_packets(self, display_index: int, table: PacketTable | None) -> Iterator[Packet[VideoStream]]:
        """Yields the key frames' packets from the one on from which a frame is decoded.

        In an MP4 each is sought, so that nothing between them is read. (FFmpeg could pass over the others itself, but
        then it takes the presentation times of those for the key frames'.)
        """
        if not table or not table.is_by_dts:
            yield from (packet for packet in self._packets(display_index) if packet.is_keyframe)
            return
        start, lead = self._timeline.index.runs((display_index,))[0].seek_to, 0
        for stamp in table.key_stamps.tolist():
            if stamp < start:
                continue
            self._container.seek(stamp + lead, stream=self._stream)  # FFmpeg seeks by the time of presentation
            for packet in self._container.demux(self._stream):
                if packet.dts == stamp and packet.size:
                    lead = (packet.pts or 0) - stamp
                    yield packet
                if packet.dts is None or packet.dts >= stamp:
                    break

    def _decoded_alone(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Decodes a key frame without the frames after it, which the decoder would otherwise wait for."""
        try:
            return [frame for each in (packet, None) for frame in self._decoder.decode(each) if frame.pts == packet.pts]
        except MemoryError:
            raise
        except DECODE_ERRORS:
            return []
        finally:
            self._decoder.flush_buffers()

    def _decoded(self, display_index: int) -> Iterator[VideoFrame]:
        for packet in self._packets(display_index):
            try:
                yield from self._decoder.decode(packet)
            except MemoryError:
                raise
            except DECODE_ERRORS as exc:
                raise DistrustError("a frame that is needed can't be decoded") from exc
        yield from self._decoder.decode(None)
