"""Writes a part of a clip to a file: its packets as they are, from a key frame on, or its frames coded again.

This runs in the bounded process, which may write no file: `file` hands what is written to the caller.
"""

from __future__ import annotations

import heapq
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.container import codec_name, opened, video_stream
from vllava_cli.media.file_check import check_file
from vllava_cli.media.images import look
from vllava_cli.media.timeline.parts import Cut, CutForm, Cutting
from vllava_cli.media.timeline.tracks import (
    CopiedOther,
    CopiedPictures,
    RecodedPictures,
    RecodedSound,
    Span,
    Track,
    decoded,
    timed,
)
from vllava_cli.media.video.bitstream import SEEKABLE
from vllava_cli.media.video.full_decode import decode_all, frames_of
from vllava_cli.media.video.index import DistrustError, Index, PacketIndex, bitstream_of
from vllava_cli.media.video.mp4_index import Mp4Index
from vllava_cli.media.video.seek import Timeline
from vllava_cli.nouns import Framing

_TEXTS = ("subrip", "ass", "ssa", "mov_text", "webvtt", "text")
_MOST_TRACKS = 16
_STALE = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")
_PACKET_BYTES, _TRACK_BYTES = 48, 8 << 10
"""The most bytes that the table at the beginning of an mp4 takes for each packet, and for a track besides."""
_BUFFER_BYTES = 1 << 20


class CutTarget(Protocol):
    """The file to write; FFmpeg moves in it and writes."""

    def write(self, data: bytes) -> int: ...

    def seek(self, offset: int, whence: int = 0) -> int: ...

    def tell(self) -> int: ...

    def restart(self) -> None:
        """Empties the file."""


def cut(path: Path, cutting: Cutting, file: CutTarget) -> Cut:
    """Writes the part of a clip to `file`. Errors: MediaError, also for a part behind the clip's end.

    If packets can't be copied, because the file's index can't be trusted, the frames are coded again.
    """
    check_file(path)
    if os.path.isdir(path) or look(path) != "video":
        raise MediaError(f"{quoted(path)} isn't a video, so that nothing can be cut out of it. Leave --cut out.")
    reason = ""
    if not cutting.is_exact:
        try:
            return _copied(path, cutting, file)
        except DistrustError as exc:
            reason = f"A part of {quoted(path)} was coded again, because {exc}."
            file.restart()
    notes = (reason,) if reason else ()
    try:
        return _recoded(path, cutting, file, notes)
    except DistrustError:
        file.restart()
    return _decoded_in_full(path, cutting, file, notes)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The frames of a part by an index that is trusted, and the part's times."""

    index: Index
    timeline: Timeline
    first: int
    last: int
    end_s: float
    """The end of the part, in seconds of the clip."""

    @classmethod
    def of(cls, path: Path, container: InputContainer, stream: VideoStream, cutting: Cutting) -> _Part:
        if bitstream_of(stream).codec not in SEEKABLE:
            raise DistrustError(f"frames coded in {codec_name(stream)} may depend on any frame before them")
        index = _index(path, container, stream)
        timeline = Timeline(path, index, container, stream)
        if cutting.start_s >= timeline.duration_s:
            raise _past_the_end(path, cutting, timeline.duration_s)
        first, after = timeline.before(cutting.start_s), timeline.before(cutting.end_s)
        first = first if first < after else max(0, first - 1)  # if no frame begins in the part, one is shown all along
        end_s = min(cutting.end_s, timeline.duration_s)
        return cls(index=index, timeline=timeline, first=first, last=max(first, after - 1), end_s=end_s)

    def span(self, first_pts: int, stream: VideoStream) -> Span:
        """Returns the span from a frame of the video to the end of the part, on the container's clock."""
        start_s = first_pts * (stream.time_base or Fraction(1))
        length_s = self.end_s - self.timeline.time_s(first_pts)
        return Span(start_s=start_s, end_s=start_s + Fraction(length_s), is_seekable=True)


def _copied(path: Path, cutting: Cutting, file: CutTarget) -> Cut:
    with opened(path) as container:
        stream = video_stream(container, path)
        if not _holds(cutting.form, stream):
            raise DistrustError(f"a file like it can't hold {codec_name(stream)}")
        part = _Part.of(path, container, stream, cutting)
        run = part.index.whole_run(part.first, part.last)
        pictures = CopiedPictures(path, container, stream, run, part.index.pts(part.first))
        pictures.check()
        others, notes = _others(path, container, part.span(pictures.first, stream), cutting)
        try:
            _write(container, [pictures, *others], cutting.form, file)
        except av.FFmpegError as exc:
            raise DistrustError("its packets don't fit into a file like it") from exc
        start_s = part.timeline.time_s(pictures.first)
        return Cut(start_s=start_s, end_s=part.end_s, is_copied=True, notes=notes)


def _recoded(path: Path, cutting: Cutting, file: CutTarget, notes: tuple[str, ...]) -> Cut:
    """Codes the frames again that a trusted index finds. Errors: DistrustError."""
    with opened(path) as container:
        stream = video_stream(container, path)
        part = _Part.of(path, container, stream, cutting)
        run, timeline = part.index.whole_run(part.first, part.last), part.timeline
        times_s = [timeline.time_s(pts) for pts in sorted(run.wanted)]
        others, more = _others(path, container, part.span(min(run.wanted), stream), cutting, is_recoded=True)
        with closing(decoded(path, run)) as frames:
            paired = ((frame, timeline.time_s(frame.pts or 0)) for frame in frames)
            pictures = RecodedPictures(timed(paired, [*times_s, part.end_s]), len(times_s), stream, cutting.form)
            _write(container, [pictures, *others], cutting.form, file)
        return Cut(start_s=times_s[0], end_s=part.end_s, is_copied=False, notes=(*notes, *more))


def _decoded_in_full(path: Path, cutting: Cutting, file: CutTarget, notes: tuple[str, ...]) -> Cut:
    """Codes frames again that are found by decoding the whole file, twice: for their times, then for themselves."""
    known = decode_all(path, Framing())
    times_s, duration_s = known.times_s, known.clip.duration_s or 0.0
    if cutting.start_s >= duration_s:
        raise _past_the_end(path, cutting, duration_s)
    first, after = bisect_left(times_s, cutting.start_s), bisect_left(times_s, cutting.end_s)
    first = first if first < after else max(0, first - 1)
    wanted_s, end_s = times_s[first : max(after, first + 1)], min(cutting.end_s, duration_s)
    with opened(path) as container, closing(frames_of(path, is_threaded=known.is_clean)) as frames:
        stream = video_stream(container, path)
        paired = zip(islice(frames, first, None), wanted_s, strict=False)
        pictures = RecodedPictures(timed(paired, [*wanted_s, end_s]), len(wanted_s), stream, cutting.form)
        start_s = Fraction(wanted_s[0]) if pictures.clock_s is None else pictures.clock_s
        span = Span(start_s=start_s, end_s=start_s + Fraction(end_s - wanted_s[0]), is_seekable=False)
        others, more = _others(path, container, span, cutting, is_recoded=True)
        _write(container, [pictures, *others], cutting.form, file)
    return Cut(start_s=wanted_s[0], end_s=end_s, is_copied=False, notes=(*notes, *known.clip.faults, *more))


def _others(
    path: Path, container: InputContainer, span: Span, cutting: Cutting, *, is_recoded: bool = False
) -> tuple[list[Track], tuple[str, ...]]:
    """Returns the tracks besides the video, and sentences about those that are left out."""
    tracks, left_out = list[Track](), list[str]()
    for stream in (*container.streams.audio, *container.streams.subtitles):
        name = stream.codec_context.codec.canonical_name if stream.codec_context else ""
        track: Track | None = None
        if len(tracks) < _MOST_TRACKS and stream.type == "audio" and name:
            is_copied = not is_recoded and _holds(cutting.form, stream)
            track = CopiedOther(path, stream, span) if is_copied else RecodedSound(path, stream, span, cutting.form)
        elif len(tracks) < _MOST_TRACKS and name in _TEXTS and _holds(cutting.form, stream):
            track = CopiedOther(path, stream, span)
        if track is None:
            left_out.append(f"{'sound' if stream.type == 'audio' else 'subtitles'} in {name or 'an unknown codec'}")
        elif track.count():
            tracks.append(track)
    note = f"Left out of a part of {quoted(path)}: {', '.join(left_out)}."
    return tracks, (note,) if left_out else ()


def _write(container: InputContainer, tracks: Sequence[Track], form: CutForm, file: CutTarget) -> None:
    """Writes all tracks, interleaved by time. An mp4 gets its table at the beginning, for players that stream it."""
    facts = {name: value for name, value in container.metadata.items() if name.lower() not in _STALE}
    table = sum(_PACKET_BYTES * track.count() + _TRACK_BYTES for track in tracks) + 8 * len(str(facts))
    options = {"moov_size": str(table)} if form in ("mp4", "mov") else {}
    with av.open(file, "w", format=form, options=options, buffer_size=_BUFFER_BYTES) as to:
        to.metadata.update(facts)
        for track in tracks:
            track.add(to)
        for packet, track in heapq.merge(*map(_numbered, tracks), key=_decoding_time):
            packet.stream = track.stream
            to.mux_one(packet)


def _numbered(track: Track) -> Iterator[tuple[Packet[Any], Track]]:
    for packet in track.packets():
        yield packet, track


def _decoding_time(pair: tuple[Packet[Any], Track]) -> Fraction:
    packet, _ = pair
    return Fraction(packet.dts or 0) * (packet.time_base or 1)


def _past_the_end(path: Path, cutting: Cutting, duration_s: float) -> MediaError:
    where = f"{quoted(path)} lasts {duration_s:.2f} s, and the part to cut out begins at {cutting.start_s:.2f} s"
    return MediaError(f"{where}. Search the file again, because it has changed.")


def _holds(form: CutForm, stream: Stream) -> bool:
    """Returns True if a container can hold packets of a stream's codec."""
    return stream.codec_context.codec.canonical_name in _codecs_of(form)


@cache
def _codecs_of(form: CutForm) -> frozenset[str]:
    with av.open(BytesIO(), "w", format=form) as to:
        return frozenset(to.supported_codecs)


def _index(path: Path, container: InputContainer, stream: VideoStream) -> Index:
    """Returns the file's own table, or an index of all its packets, which is kept for the next part of the file."""
    with suppress(DistrustError):
        return Mp4Index(container, stream, path)
    facts = path.stat()
    return _packet_index(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)


@lru_cache(maxsize=1)
def _packet_index(path: Path, *_: int) -> PacketIndex:
    with opened(path) as container:
        return PacketIndex(container, video_stream(container, path))
