"""Decodes a file from its beginning to its end, which is slow but always right; the indexes must give the same frames.

Frames whose positions can be foreseen are converted on the way; otherwise a second pass converts them.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vllava_cli.errors import DamagedError, MediaError, UsageError, quoted
from vllava_cli.media.container import DECODE_ERRORS, check_size, decoder_of, opened, video_stream
from vllava_cli.media.mp4_boxes import is_encrypted, stream_part
from vllava_cli.media.pictures import Converter, Pixels, Turns, matrix_of, orientation_of
from vllava_cli.media.select import choose, pick, reference
from vllava_cli.media.video.presentation import JUMP_S, Presentation, in_order
from vllava_cli.media.video.shape import Size, display_of
from vllava_cli.media.video.stated import (
    clock_restart,
    declared_end,
    declared_rate,
    has_no_clock,
    origin,
    reported_frames,
    stored_clip,
)
from vllava_cli.nouns import (
    FRAMES_PER_CLIP,
    Clip,
    Frames,
    Framing,
    counted,
)

_SMALL_BYTES = 16 << 20
_KEPT_BYTES = 256 << 20
"""About the most memory that pictures take that are kept for later windows."""
_MOST_SIZES = 16
"""The most sizes of a clip that are named."""


@dataclass(frozen=True, kw_only=True)
class FullDecode:
    """The result of a pass over the whole file."""

    clip: Clip
    times_s: tuple[float, ...]
    """Seconds from the first frame, or from the beginning of the sound before it."""
    reported: int
    """The number of frames that the container states, 0 if none; the documentation's positions follow from it."""
    is_clean: bool
    """True if every packet gave a frame and no frame was damaged."""
    pixels: dict[int, Pixels]
    """The foreseen frames, as shown: [H, W, 3] each."""
    origin_s: float
    """The time by the container's clock from which `times_s` count."""

    def chosen(self, framing: Framing) -> tuple[int, ...]:
        """Returns the display indices that a framing asks for. Errors: MediaError."""
        duration_s, name = self.clip.duration_s or 0.0, quoted(self.clip.path)
        return choose(self.times_s, framing, duration_s=duration_s, name=name, reported=self.reported)

    def frames(self, framing: Framing, reason: str) -> Frames:
        """Returns the frames that a framing asks for; decodes the file again if `pixels` lacks one. Empties `pixels`.

        `reason` is a clause that says why the whole file was decoded.
        """
        chosen = self.chosen(framing)
        is_foreseen = set(chosen) <= self.pixels.keys()
        found = dict(self.pixels) if is_foreseen else self._decoded_again(frozenset(chosen), framing)
        self.pixels.clear()  # so that no picture is in memory twice
        return self.arranged(chosen, found, reason)

    def arranged(self, chosen: Sequence[int], found: dict[int, Pixels], reason: str) -> Frames:
        """Puts the pictures of the frames `chosen` in their order; empties `found`, so that none is in memory twice."""
        sizes = tuple((found[index].shape[1], found[index].shape[0]) for index in chosen)
        width, height = map(max, zip(*sizes, strict=True))
        pixels = np.zeros((len(chosen), height, width, 3), np.uint8)
        for index in tuple(found):
            picture = found.pop(index)
            places = [place for place, other in enumerate(chosen) if other == index]
            pixels[places, : picture.shape[0], : picture.shape[1]] = picture
        return Frames(
            clip=replace(self.clip, way_reason=f"Decoded in full: {reason}."),
            pixels=pixels,
            times_s=tuple(self.times_s[index] for index in chosen),
            sizes=sizes if set(sizes) != {(self.clip.width, self.clip.height)} else (),
        )

    def _decoded_again(self, wanted: frozenset[int], framing: Framing) -> dict[int, Pixels]:
        with opened(self.clip.path) as container:
            again = _Pass(container, self.clip.path, framing, is_threaded=self.is_clean)
            for _ in again.frames(wanted):
                if len(again.pixels) == len(wanted):
                    return again.pixels
        raise self._changed()

    def _changed(self) -> MediaError:
        return MediaError(f"{quoted(self.clip.path)} changed while it was read. Try again.")


class ForwardPass:
    """Takes the frames of windows out of a file while it is decoded in order, so that one pass serves them all.

    A window goes on where the one before it ended. The file is decoded from its beginning again only for a frame that
    has passed and wasn't kept.
    """

    def __init__(self, known: FullDecode, framing: Framing) -> None:
        self._known, self._framing = known, framing
        known.pixels.clear()
        self._file = ExitStack()
        self._wanted = set[int]()
        self._begin()

    def frames(self, framing: Framing, following: Sequence[Framing], reason: str) -> Frames:
        """Returns the frames of a window; keeps those on the way that the `following` windows will ask for.

        `reason` is a clause that says why the whole file was decoded. Errors: MediaError.
        """
        known, pixels = self._known, self._pass.pixels
        chosen = known.chosen(framing)
        later = self._shared(max(chosen), following)
        for index in pixels.keys() - later - set(chosen):
            del pixels[index]
        missing = set(chosen) - pixels.keys()
        if missing and min(missing) < self._next:
            self._begin()
            pixels, missing = self._pass.pixels, set(chosen)
        self._wanted.clear()
        self._wanted |= later | set(chosen)
        while not set(chosen) <= pixels.keys():
            if next(self._frames, None) is None:
                raise known._changed()
            self._next += 1
        found = {index: pixels[index] if index in later else pixels.pop(index) for index in set(chosen)}
        return known.arranged(chosen, found, reason)

    def close(self) -> None:
        self._file.close()

    def _begin(self) -> None:
        known = self._known
        self.close()
        container = self._file.enter_context(opened(known.clip.path))
        self._pass = _Pass(container, known.clip.path, self._framing, is_threaded=known.is_clean)
        self._frames = self._pass.frames(self._wanted)
        self._next = 0
        """The display index of the frame that comes next."""

    def _shared(self, last: int, following: Sequence[Framing]) -> set[int]:
        """Returns the frames up to `last` that later windows ask for, as many as may be kept."""
        most, shared = _KEPT_BYTES // (3 * self._known.clip.width * self._known.clip.height), set[int]()
        for framing in following:
            with suppress(MediaError, UsageError):
                shared |= {index for index in self._known.chosen(framing) if index <= last}
            if len(shared) > most:
                break
        return shared


def decode_all(path: Path, framing: Framing, foreseen: Sequence[int] = (), *, is_damaged: bool = False) -> FullDecode:
    """Decodes a whole file with frame threads; if anything is damaged, without them, as the documentation's loop does.

    Frame threads may hide damage in a different way. The frames at the positions `foreseen` are converted on the way.
    """
    with opened(path) as container:
        known = _Pass(container, path, framing, is_threaded=not is_damaged).run(foreseen)
    if is_damaged or known.is_clean:
        return known
    with opened(path) as again:
        usual = pick(len(known.times_s), shift=framing.shift)
        return _Pass(again, path, framing, is_threaded=False).run(foreseen or usual)


def decode_uncounted(container: InputContainer, path: Path, framing: Framing) -> FullDecode:
    """Decodes a whole file that has just been opened, like `decode_all`, when the number of its frames isn't known.

    It counts the packets first, so that the wanted frames can be converted on the way. A small file is read only once.
    """
    counting, packet_bytes = _Pass(container, path, framing, is_threaded=True), 0
    packets: list[Packet[VideoStream]] = []
    for packet in counting.packets():
        packet_bytes += packet.size
        if packet_bytes <= _SMALL_BYTES:
            packets.append(packet)
    count = max(1, counting.packet_count - counting.hidden)
    foreseen = reference(count, reported=counting.reported, shift=framing.shift)
    if counting.is_cut or packet_bytes > _SMALL_BYTES:
        return decode_all(path, framing, foreseen)
    known = counting.run(foreseen, packets)
    return known if known.is_clean else decode_all(path, framing, foreseen, is_damaged=True)


def frames_of(path: Path, *, is_threaded: bool) -> Generator[VideoFrame]:
    """Decodes a whole file and yields all frames in the order of `FullDecode.times_s`, with none of them converted."""
    with opened(path) as container:
        yield from _Pass(container, path, Framing(), is_threaded=is_threaded).frames(())


def all_frames(path: Path) -> Iterator[tuple[float, VideoFrame]]:
    """Decodes a whole file twice, and yields each frame with its time the second time. Errors: MediaError."""
    known = decode_all(path, Framing())
    yield from zip(known.times_s, frames_of(path, is_threaded=known.is_clean), strict=False)


def documented_eight(container: InputContainer, total: int) -> list[VideoFrame]:
    """Returns the eight of `total` frames that transformers' documentation picks, decoding all up to the last one."""
    frames, indices = [], np.arange(0, total, total / FRAMES_PER_CLIP).astype(int)
    container.seek(0)
    for index, frame in enumerate(container.decode(video=0)):
        if index > indices[-1]:
            break
        if index >= indices[0] and index in indices:
            frames.append(frame)
    return frames


def documented(path: Path) -> Clip:
    """Reads a video into RGB as transformers' documentation does, so that the time can be measured. Errors: MediaError.

    If the container doesn't say how many frames it has, its packets are counted first. The pixels are dropped.
    """
    with opened(path) as container:
        stream = video_stream(container, path)
        total = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        for frame in documented_eight(container, total):
            frame.to_ndarray(format="rgb24")
        return Clip(path=path, kind="video", width=stream.width, height=stream.height, frame_count=total)


class _Pass:
    """One pass over a file; it keeps the wanted frames and counts packets and damage."""

    def __init__(self, container: InputContainer, path: Path, framing: Framing, *, is_threaded: bool) -> None:
        self._path, self._container, self._framing = path, container, framing
        self.stream = video_stream(container, path)
        self._decoder = decoder_of(self.stream)
        self._decoder.thread_type = "AUTO" if is_threaded else "SLICE"
        self._display = display_of(path, container, self.stream, is_as_stored=framing.is_as_stored)
        self.pixels: dict[int, Pixels] = {}
        """The wanted frames, as shown."""
        self.sizes: dict[Size, None] = {}
        """The sizes of frames as shown, in the order in which they came."""
        self.packet_count = 0
        self.hidden = 0
        """The number of packets whose frames an edit list leaves out."""
        self.is_cut = False
        """True if the container itself broke off with an error."""
        self._refused = 0
        """The number of packets that couldn't be decoded."""
        self._corrupt = 0
        """The number of frames of which the decoder had to make up a part."""

    def packets(self) -> Iterator[Packet[VideoStream]]:
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except DECODE_ERRORS:
                self.is_cut = True
                return
            if packet is None:
                return
            self.packet_count += packet.size > 0
            self.hidden += packet.is_discard
            yield packet

    @property
    def reported(self) -> int:
        return reported_frames(self._container, self.stream, hidden=self.hidden)

    def _decoded(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        try:
            return self._decoder.decode(packet)
        except MemoryError:
            raise
        except DECODE_ERRORS:
            self._refused += 1
            return []

    def frames(self, wanted: Collection[int], packets: Sequence[Packet[VideoStream]] = ()) -> Iterator[VideoFrame]:
        """Yields every frame that the decoder gives, in order, damaged ones too; puts the wanted ones into `pixels`.

        The loop in transformers' documentation stops with an error at the first packet that the decoder refuses. This
        pass counts such packets and skips them, as players do. If the container breaks off, the frames end there.
        """
        index, stored_sizes, turns = 0, set[Size](), Turns()
        converter = Converter(self._framing, self.stream.codec_context.name)
        for packet in packets or self.packets():
            for frame in self._decoded(packet):
                self._corrupt += frame.is_corrupt
                stored = frame.width, frame.height
                matrix = turns.of(frame)
                if index in wanted or stored not in stored_sizes:
                    stored_sizes.add(stored)
                    turn = orientation_of(matrix)
                    self._note_size(turn.turned(self._display.size(stored)))
                if index in wanted:
                    pixels = np.empty((1, frame.height, frame.width, 3), np.uint8)
                    converter.write(frame, pixels[0])
                    self.pixels[index] = self._display.shown(pixels, turn)[0]
                index += 1
                yield frame

    def _note_size(self, size: Size) -> None:
        check_size(self._path, *size)
        if len(self.sizes) < _MOST_SIZES:
            self.sizes[size] = None

    def run(self, foreseen: Collection[int], packets: Sequence[Packet[VideoStream]] = ()) -> FullDecode:
        """Decodes the whole file; `packets` are all of its packets if they have been read already."""
        all_pts, own = list[int | None](), 0
        base, matrix = self.stream.time_base or Fraction(1), None
        width, height, pixel_format = 0, 0, ""
        for frame in self.frames(foreseen, packets):
            if not all_pts:
                base, matrix = frame.time_base or base, matrix_of(frame)
                width, height, pixel_format = frame.width, frame.height, frame.format.name
            all_pts.append(frame.pts)
            own = frame.duration
        self._check(len(all_pts))
        shown = self._presentation(all_pts, base, own)
        stored, display = stored_clip(self._container, self.stream, self._path), self._display
        count, orientation = len(shown.times_s), orientation_of(matrix)
        described = display.described(replace(stored, width=width, height=height))
        width, height = next(iter(self.sizes))
        clip = replace(
            described,
            width=width,
            height=height,
            frame_count=count,
            duration_s=shown.duration_s,
            fps=shown.fps,
            pixel_format=pixel_format,
            is_rate_constant=shown.is_rate_constant,
            way="decode",
            rotation=orientation.rotation,
            sizes=tuple(f"{width}x{height}" for width, height in self.sizes) if len(self.sizes) > 1 else (),
            faults=self._faults(count, stored.frame_count),
        )
        return FullDecode(
            clip=clip,
            times_s=shown.times_s,
            reported=self.reported,
            is_clean=count == self.packet_count and not (self._refused or self._corrupt or self.is_cut),
            pixels=self.pixels,
            origin_s=float(shown.start * base),
        )

    def _presentation(self, all_pts: Sequence[int | None], base: Fraction, own: int) -> Presentation:
        """Finds when the decoded frames are shown; `own` is the duration in the last one's packet."""
        container, stream = self._container, self.stream
        rate = declared_rate(container, stream)
        stamps = [pts for pts in all_pts if pts is not None]
        if len(stamps) < len(all_pts) or has_no_clock(container):
            return Presentation.of(range(len(all_pts)), base=1 / rate, rate=rate, own=1)
        stamps = in_order(stamps, jump=round(JUMP_S / base), restart=clock_restart(container, base))
        start, end = origin(container, stream, stamps[0]), declared_end(container, stream)
        return Presentation.of(stamps, base=base, rate=rate, own=own, end=end, start=start)

    def _check(self, decoded: int) -> None:
        """Raises a MediaError if nothing was decoded, or if what was decoded can only be noise."""
        if (self._refused or not decoded) and is_encrypted(self._path):
            raise MediaError(f"{quoted(self._path)} is encrypted: nothing in it can be shown. Name a copy that isn't.")
        if not decoded:
            fault = f"No frame of {quoted(self._path)} could be decoded: it is damaged. Copy or download it again."
            raise MediaError(part) if (part := stream_part(self._path)) else DamagedError(fault)

    def _faults(self, decoded: int, promised: int) -> tuple[str, ...]:
        name, expected = quoted(self._path), max(promised, self.packet_count)
        if decoded < expected and (self._refused or self.is_cut or self.packet_count < promised):
            return (f"{decoded} of {expected} frames of {name} could be decoded: the file is truncated or damaged.",)
        if self.is_cut:
            return (f"{name} breaks off after {counted(decoded, 'frame')}: the file is truncated or damaged.",)
        if self._corrupt:
            return (f"{self._corrupt} of {decoded} frames of {name} are damaged: parts of them are made up.",)
        return ()
