"""The frames of a video by an index: its sample table, or one pass over its packets; only needed groups are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

from vllava_cli.errors import quoted
from vllava_cli.media.container import codec_name, container_name, opened, promised, video_stream
from vllava_cli.media.select import first_tick, nothing_between, past_the_end, pick, reference
from vllava_cli.media.upright import orientation, upright
from vllava_cli.media.video.bitstream import SEEKABLE
from vllava_cli.media.video.decode import fetch
from vllava_cli.media.video.index import DamageError, DistrustError, Index, bitstream_of
from vllava_cli.media.video.mp4_index import SampleTable
from vllava_cli.media.video.packet_index import PacketScan
from vllava_cli.nouns import Clip, Frames, Framing

_UNKNOWN_RATE = Fraction(25)
_MOST = 0.75
"""Where more of the frames than this are decoded for the few that are wanted, that isn't called seeking."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why the frames can't be reached by seeking, a clause for the user, and where they will probably be."""

    reason: str
    foreseen: tuple[int, ...]
    is_damaged: bool


def sample_by_seeking(path: Path, framing: Framing) -> Frames | Refusal:
    """The frames, if they can be reached this way for certain; a table that promises too much isn't asked again."""
    has_table = True
    while True:
        with opened(path) as container:
            stream = video_stream(container, path)
            reported, index = stream.frames, None
            try:
                index = _index(container, stream, has_table=has_table)
                return _sampled(path, container, Timeline(path, index, stream), framing)
            except DistrustError as exc:
                count, is_damaged = index.frame_count if index else exc.packets, isinstance(exc, DamageError)
                refusal = Refusal(
                    reason=str(exc), foreseen=reference(max(1, count), reported=reported), is_damaged=is_damaged
                )
                if is_damaged or not isinstance(index, SampleTable):
                    return refusal
                has_table = False


def is_seekable(stream: VideoStream) -> bool:
    """Whether the codec has key frames that are known to be clean starts."""
    return bitstream_of(stream).codec in SEEKABLE


def has_constant_rate(path: Path) -> bool:
    """Whether the frames of a file that `sample_by_seeking` could read are equally far apart."""
    with opened(path) as container:
        return _index(container, video_stream(container, path), has_table=True).is_rate_constant()


def _index(container: InputContainer, stream: VideoStream, *, has_table: bool) -> Index:
    if has_table:
        try:
            return SampleTable(container, stream)
        except DistrustError:
            pass
    return PacketScan(container, stream)


class Timeline:
    """An index with its ticks read as seconds from the first frame."""

    def __init__(self, path: Path, index: Index, stream: VideoStream) -> None:
        self.name, self.index, self.reported = quoted(path), index, stream.frames
        self._base = stream.time_base or Fraction(1)
        self._first, last = index.stamp(0), index.stamp(index.frame_count - 1)
        rate = float(stream.average_rate or stream.guessed_rate or _UNKNOWN_RATE)
        length_s = float((last - self._first) * self._base)
        self.fps = (index.frame_count - 1) / length_s if length_s > 0 else rate
        ends = index.end()
        self.duration_s = float((ends - self._first) * self._base) if ends > last else length_s + 1 / self.fps

    def time_s(self, stamp: int) -> float:
        return float((stamp - self._first) * self._base)

    def ranks(self, framing: Framing) -> tuple[int, ...]:
        """The frames that a framing asks for: eight, or one for each of its times."""
        count = self.index.frame_count
        if framing.at_s:
            return tuple(self._shown_at(time_s) for time_s in framing.at_s)
        if framing.start_s is None and framing.end_s is None:
            return reference(count, reported=self.reported)
        first = self._before(framing.start_s or 0.0)
        after = count if framing.end_s is None else self._before(framing.end_s)
        if first >= after:
            raise nothing_between(framing, duration_s=self.duration_s, name=self.name)
        return tuple(first + place for place in pick(after - first))

    def _before(self, time_s: float, *, is_after: bool = False) -> int:
        """How many frames are presented before `time_s`; `is_after`: at it or before."""
        if time_s > self.duration_s:
            return self.index.frame_count
        return self.index.rank(self._first + first_tick(time_s, self._base, is_after=is_after))

    def _shown_at(self, time_s: float) -> int:
        if time_s >= self.duration_s:
            raise past_the_end("--at", time_s, duration_s=self.duration_s, name=self.name)
        return max(0, self._before(time_s, is_after=True) - 1)


def _sampled(path: Path, container: InputContainer, timeline: Timeline, framing: Framing) -> Frames:
    index, ranks = timeline.index, timeline.ranks(framing)
    runs = index.runs(ranks)
    stamps = tuple(index.stamp(rank) for rank in ranks)
    stream = video_stream(container, path)
    pixel_format = stream.codec_context.pix_fmt or ""
    film = fetch(path, container, runs, stamps)
    if len(film.matrices) > 1:
        raise DamageError("its frames are turned in different ways")
    turn = orientation(film.matrices.pop())
    pixels = upright(film.pixels, turn)
    decoded, count = sum(len(run.presented) for run in runs), index.frame_count
    is_most = decoded > _MOST * count
    but = ", but most of them are needed" if is_most else ""
    clip = Clip(
        path=path,
        kind="video",
        width=pixels.shape[2],
        height=pixels.shape[1],
        frame_count=count,
        duration_s=timeline.duration_s,
        fps=timeline.fps,
        codec=codec_name(stream),
        container=container_name(container, path),
        pixel_format=pixel_format,
        way="decode" if is_most else "seek",
        way_reason=f"{index.source} tells where each frame is{but}; at most {decoded} of {count} are decoded.",
        rotation=turn.rotation,
        faults=_faults(path, index, promised(container, stream)),
    )
    return Frames(clip=clip, pixels=pixels, times_s=tuple(timeline.time_s(stamp) for stamp in stamps))


def _faults(path: Path, index: Index, promised_packets: int) -> tuple[str, ...]:
    if index.packet_count < promised_packets:
        found = f"{index.frame_count} of {promised_packets} frames of {quoted(path)}"
        return (f"{found} could be decoded: the file is truncated or damaged.",)
    return ()
