"""Reads a video's frames in the first way that works: by its sample table, its time stamps, its packets, or in full.

All but the last way decode only the groups of pictures that are needed, and give up at the first sign that the file
isn't as its index says. The last way, a full decode, is always right.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

from vllava_cli.errors import quoted
from vllava_cli.media.container import codec_name, opened, video_stream
from vllava_cli.media.pictures import orientation_of
from vllava_cli.media.select import first_tick, nothing_between, past_the_end, pick, reference
from vllava_cli.media.timeline.picks import picked
from vllava_cli.media.video.bisection import BisectionIndex
from vllava_cli.media.video.bitstream import SEEKABLE
from vllava_cli.media.video.decode import KeptDecoders, decode_runs
from vllava_cli.media.video.full_decode import decode_all, decode_uncounted
from vllava_cli.media.video.index import DamageError, DistrustError, Index, PacketIndex, Run, bitstream_of
from vllava_cli.media.video.mp4_index import Mp4Index
from vllava_cli.media.video.presentation import is_steady, last_duration
from vllava_cli.media.video.shape import display_of
from vllava_cli.media.video.stated import declared_end, declared_rate, origin, reported_frames, stored_clip
from vllava_cli.nouns import Clip, Frames, Framing

_MOST = 0.75
"""If a larger share of the frames is decoded, the clip's `way` is "decode", not "seek"."""


def sample_video(path: Path, framing: Framing, *, tells_rate: bool = False) -> Frames:
    """Reads the frames that a framing asks for. Errors: MediaError.

    If the sample table or the time stamps prove wrong, the packets are tried. If a frame is damaged, the whole file is
    decoded at once. With `tells_rate`, the clip says whether its rate is constant, which takes a while in a long one.
    """
    for is_quick in (True, False):
        with opened(path) as container:
            stream = video_stream(container, path)
            index = None
            if reason := unseekable(stream):
                named, reasons = picked(path, None, framing)
                return replace(decode_uncounted(container, path, named).frames(named, reason), reasons=reasons)
            try:
                index = index_of(path, container, stream, is_quick=is_quick)
                timeline = Timeline(path, index, container, stream)
                frames = sampled(path, container, timeline, framing)
                if not tells_rate:
                    return frames
                return replace(frames, clip=replace(frames.clip, is_rate_constant=timeline.is_rate_constant))
            except DistrustError as exc:
                reason, is_damaged = str(exc), isinstance(exc, DamageError)
                count = max(1, index.frame_count if index else exc.packets)
                reported = reported_frames(container, stream, hidden=index.hidden_count if index else 0)
        if is_damaged or not isinstance(index, (Mp4Index, BisectionIndex)):
            break
    is_whole = framing == replace(framing, start_s=None, end_s=None, at_s=(), pick="uniform")
    foreseen = reference(count, reported=reported, shift=framing.shift) if is_whole else ()
    named, reasons = picked(path, None, framing)
    return replace(decode_all(path, named, foreseen, is_damaged=is_damaged).frames(named, reason), reasons=reasons)


def start_of(path: Path) -> Fraction:
    """Returns the time on the container's clock, in seconds, from which the seconds of its clip count."""
    with opened(path) as container:
        stream = video_stream(container, path)
        first = stream.start_time or 0
        with suppress(DistrustError):
            first = index_of(path, container, stream, is_quick=True).pts(0)
        return origin(container, stream, first) * (stream.time_base or Fraction(1))


def unseekable(stream: VideoStream) -> str:
    """Returns a clause that says why frames of this codec can't be decoded from a key frame on; "" if they can."""
    if bitstream_of(stream).codec in SEEKABLE:
        return ""
    return f"frames coded in {codec_name(stream)} may depend on any frame before them"


def index_of(path: Path, container: InputContainer, stream: VideoStream, *, is_quick: bool) -> Index:
    """Returns the first index that the file allows. The last one reads all of it; it is the only one if not quick."""
    if is_quick:
        with suppress(DistrustError):
            return Mp4Index(container, stream, path)
        with suppress(DistrustError):
            return BisectionIndex(container, stream)
    return PacketIndex(container, stream)


class Timeline:
    """Converts between an index's pts and a clip's seconds; knows the frame rate and the duration.

    A clip's seconds count from its first frame, or from the beginning of the sound before it. Errors: DistrustError.
    """

    def __init__(self, path: Path, index: Index, container: InputContainer, stream: VideoStream) -> None:
        index.runs((0,))  # times don't count from a first frame that can't be decoded
        self.name, self.index = quoted(path), index
        self.reported = reported_frames(container, stream, hidden=index.hidden_count)
        self._base = stream.time_base or Fraction(1)
        first, last = index.pts(0), index.pts(index.frame_count - 1)
        self._origin, self._length = origin(container, stream, first), last - first
        length_s = float(self._length * self._base)
        self.fps = (index.frame_count - 1) / length_s if length_s > 0 else float(declared_rate(container, stream))
        before = index.pts(max(0, index.frame_count - 2))
        own, end = index.last_packet_duration(), declared_end(container, stream)
        shown_s = float(last_duration(last, before, own=own, end=end) * self._base)
        self.duration_s = self.time_s(last) + (shown_s or 1 / self.fps)

    @property
    def is_rate_constant(self) -> bool:
        """True if all frames are equally far apart; a table of decoding times must cover the presentation, too."""
        steps, tick_s = self.index.steps(), float(self._base)
        return is_steady(steps, tick_s) and is_steady([sum(steps), self._length], tick_s)

    @property
    def origin_s(self) -> float:
        """The time by the container's clock from which the clip's seconds count."""
        return float(self._origin * self._base)

    def time_s(self, pts: int) -> float:
        return float((pts - self._origin) * self._base)

    def has_between(self, start_s: float, end_s: float) -> bool:
        """Returns True if a frame begins at `start_s` or later, and before `end_s`."""
        first, after = (self._origin + first_tick(time_s, self._base) for time_s in (start_s, end_s))
        return self.index.has_between(first, after)

    def display_indices(self, framing: Framing) -> tuple[int, ...]:
        """Returns the display indices that a framing asks for: eight, or one for each of its times."""
        count = self.index.frame_count
        if framing.at_s:
            return tuple(self.shown_at(time_s) for time_s in framing.at_s)
        if framing.start_s is None and framing.end_s is None:
            return reference(count, reported=self.reported, shift=framing.shift)
        stretch = self.stretch(framing)
        return tuple(stretch[place] for place in pick(len(stretch), shift=framing.shift))

    def stretch(self, framing: Framing) -> range:
        """Returns the display indices of the frames from --start on to before --end. Errors: MediaError for none."""
        first = self.before(framing.start_s or 0.0)
        after = self.index.frame_count if framing.end_s is None else self.before(framing.end_s)
        if first >= after:
            raise nothing_between(framing, duration_s=self.duration_s, name=self.name)
        return range(first, after)

    def shown_at(self, time_s: float) -> int:
        """Returns the display index of the frame that a player shows at a time. Errors: MediaError past the end."""
        if time_s >= self.duration_s:
            raise past_the_end("--at", time_s, duration_s=self.duration_s, name=self.name)
        return max(0, self.before(time_s, is_after=True) - 1)

    def before(self, time_s: float, *, is_after: bool = False) -> int:
        """Returns the number of frames presented before `time_s`; with `is_after`, those at `time_s` count, too."""
        if time_s > self.duration_s:
            return self.index.frame_count
        return self.index.count_before(self._origin + first_tick(time_s, self._base, is_after=is_after))


def sampled(
    path: Path,
    container: InputContainer,
    timeline: Timeline,
    framing: Framing,
    *,
    decoders: KeptDecoders | None = None,
) -> Frames:
    """Reads the frames that a framing asks for, by the index; `decoders` of earlier calls are used if there are any.

    Without them, no frame of `container` may have been decoded yet. Errors: MediaError, DistrustError.
    """
    named, reasons = picked(path, timeline, framing)
    index, display_indices = timeline.index, timeline.display_indices(named)
    runs, stream = index.runs(display_indices), video_stream(container, path)
    pts = tuple(index.pts(display_index) for display_index in display_indices)
    display = display_of(path, container, stream, is_as_stored=framing.is_as_stored)
    stored = display.described(stored_clip(container, stream, path))
    decoded = decode_runs(path, container, runs, pts, framing, kept=decoders)
    if len(decoded.matrices) > 1:
        raise DamageError("its frames are rotated by different angles")
    orientation = orientation_of(decoded.matrices.pop())
    pixels = display.shown(decoded.pixels, orientation)
    clip = replace(
        _described(stored, index, runs),
        width=pixels.shape[2],
        height=pixels.shape[1],
        duration_s=timeline.duration_s,
        fps=timeline.fps,
        rotation=orientation.rotation,
    )
    times_s = tuple(timeline.time_s(each) for each in pts)
    return Frames(clip=clip, pixels=pixels, times_s=times_s, reasons=reasons)


def _described(stored: Clip, index: Index, runs: Sequence[Run]) -> Clip:
    """Returns the clip's facts completed from its index: the number of frames, how frames are found, and the faults."""
    decoded, count, promised = sum(len(run.presented) for run in runs), index.frame_count, stored.frame_count
    is_most = decoded > _MOST * count
    decoded = min(decoded, count)  # runs may share frames
    but = ", but most of them are needed" if is_most else ""
    found = f"{count} of {promised} frames of {quoted(stored.path)}"
    fault = f"{found} could be decoded: the file is truncated or damaged."
    return replace(
        stored,
        frame_count=count,
        way="decode" if is_most else "seek",
        way_reason=f"{index.source} tells where each frame is{but}; at most {decoded} of {count} are decoded.",
        faults=(fault,) if index.packet_count < promised else (),
    )
