"""Makes the odd media files that `test_zoo.py` holds the sampler to; each shows `picture(i)` as its frame i.

A maker writes the file at a path with so many frames: `Maker`. Those that change a file write a plain one beside first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from PIL import Image

from tests.clips import Encoding, picture, shown_stream, write_clip, write_two_videos

Maker = Callable[[Path, int], Path]
Change = Callable[[list[av.Packet]], Iterable[av.Packet]]

_WRAP = 1 << 33
"""MPEG-TS counts its 90 kHz clock in 33 bits."""


def x264(parameters: str = "", **options: str) -> Encoding:
    """Groups of 16 frames, three B-frames in a row of which one is referred to."""
    plain = "bframes=3:b-pyramid=normal:b-adapt=0:keyint=16:min-keyint=16:ref=3:scenecut=0:threads=1"
    return Encoding(options={"preset": "ultrafast", "x264-params": f"{plain}:{parameters}".rstrip(":"), **options})


def x265(parameters: str = "", pix_fmt: str = "yuv420p") -> Encoding:
    """Groups of 20 frames, open unless the parameters say otherwise."""
    plain = "log-level=none:keyint=20:min-keyint=20:bframes=4:scenecut=0:pools=none:frame-threads=1"
    options = {"preset": "ultrafast", "x265-params": f"{plain}:{parameters}".rstrip(":")}
    return Encoding(codec="libx265", pix_fmt=pix_fmt, options=options)


def svt_av1(group: int = 24, parameters: str = "lp=1", pix_fmt: str = "yuv420p") -> Encoding:
    options = {"preset": "12", "svtav1-params": parameters, "g": str(group)}
    return Encoding(codec="libsvtav1", pix_fmt=pix_fmt, options=options)


CLOSED = x264()
OPEN = x264("open-gop=1")
MPEG4_B = Encoding(codec="mpeg4", options={"g": "15", "bf": "2"})
MPEG2_B = Encoding(codec="mpeg2video", fps=25, options={"g": "12", "bf": "2"})
VP8 = Encoding(codec="libvpx", options={"deadline": "realtime", "cpu-used": "8", "g": "25"})
VP9 = Encoding(
    codec="libvpx-vp9",
    options={"deadline": "good", "cpu-used": "8", "lag-in-frames": "12", "g": "25"},
)


FIRST_FRAGMENT = (*("frag_keyframe", "frag_keyframe+default_base_moof", "frag_keyframe+default_base_moof+global_sidx"),)
"""Options of FFmpeg's mp4 muxer with which the header lists the first fragment as if it were all."""

_WRITTEN: dict[str, bytes] = {}
"""Encoding takes longer than all else here, and most odd files begin as the same few plain ones."""


def plain_clip(path: Path, frames: int, *, encoding: Encoding, width: int = 64, height: int = 48) -> Path:
    """`write_clip`, which is done once for each kind of file."""
    key = repr((path.suffix, frames, encoding, width, height))
    if key not in _WRITTEN:
        _WRITTEN[key] = write_clip(path, frames, encoding=encoding, width=width, height=height).read_bytes()
    path.write_bytes(_WRITTEN[key])
    return path


def encoded(encoding: Encoding, width: int = 64, height: int = 48) -> Maker:
    return lambda path, frames: plain_clip(path, frames, encoding=encoding, width=width, height=height)


def timed(encoding: Encoding, milliseconds: Callable[[int], int]) -> Maker:
    """Frame i is shown at `milliseconds(i)`."""
    return lambda path, frames: write_clip(
        path, frames, encoding=encoding, times=[milliseconds(i) for i in range(frames)]
    )


def beside(path: Path, name: str) -> Path:
    """beside(a/b.ts, "x.mp4") → a/b.ts-x.mp4"""
    return path.with_name(f"{path.name}-{name}")


def packets_of(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(shown_stream(container)) if packet.size]


def remux(
    source: Path,
    target: Path,
    change: Change = iter,
    *,
    container: str = "",
    options: dict[str, str] | None = None,
    filters: str = "",
    tag: str = "",
) -> Path:
    """Writes a video's packets, changed or not, and passed through a bitstream filter or not, into another file."""
    with (
        av.open(str(source)) as from_,
        av.open(str(target), "w", format=container or None, options=options or {}) as to,
    ):
        old = shown_stream(from_)
        new = to.add_stream_from_template(old, opaque=True)
        new.time_base = old.time_base
        if tag:
            new.codec_context.codec_tag = tag
        packets = list(change([packet for packet in from_.demux(old) if packet.size]))
        if filters:
            passage = BitStreamFilterContext(filters, old)
            packets = [out for packet in (*packets, None) for out in passage.filter(packet)]
        for packet in packets:
            packet.stream = new
            to.mux_one(packet)
    return target


def remuxed(encoding: Encoding, change: Change = iter, *, first: str = "plain.mp4", **how: Any) -> Maker:
    def make(path: Path, frames: int) -> Path:
        return remux(plain_clip(beside(path, first), frames, encoding=encoding), path, change, **how)

    return make


def patched(maker: Maker | Encoding, patch: Callable[[bytes], bytes]) -> Maker:
    """What `maker` makes, with its bytes changed."""
    write = encoded(maker) if isinstance(maker, Encoding) else maker

    def make(path: Path, frames: int) -> Path:
        write(path, frames)
        path.write_bytes(patch(path.read_bytes()))
        return path

    return make


# --- time stamps


def slides(index: int) -> int:
    """Milliseconds: ten frames within a second, then nothing until ten seconds later; 0, 40, …, 360, 10000, …"""
    return 10_000 * (index // 10) + 40 * (index % 10)


def doubled_stamps(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """Every third packet repeats the stamp of the packet before it, where that isn't too early to decode it."""
    before = packets[0].pts
    for number, packet in enumerate(packets):
        if number % 3 == 2 and before >= packet.dts:
            packet.pts = before
        before = packet.pts
        yield packet


def all_alike(packets: list[av.Packet]) -> Iterable[av.Packet]:
    for packet in packets:
        packet.pts = packet.dts = 0
        yield packet


def shifted(seconds: float) -> Change:
    def change(packets: list[av.Packet]) -> Iterable[av.Packet]:
        for packet in packets:
            ticks = round(seconds / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            yield packet

    return change


def jump_in(seconds: float) -> Change:
    """From the second half on, every time stamp is moved by so many seconds."""

    def change(packets: list[av.Packet]) -> Iterable[av.Packet]:
        yield from packets[: len(packets) // 2]
        yield from shifted(seconds)(packets[len(packets) // 2 :])

    return change


COPY_STAMPS = {"mpegts_copyts": "1"}


def wrapping(path: Path, frames: int) -> Path:
    """A transport stream whose clock runs over in the middle."""
    plain = plain_clip(beside(path, "plain.ts"), frames, encoding=CLOSED)
    middle = packets_of(plain)[frames // 2].dts
    return remux(plain, path, shifted((_WRAP - middle) / 90000), options=COPY_STAMPS)


def two_in_a_row(first_s: float, second_s: float, *, width: int = 64, height: int = 48) -> Maker:
    """Two files one after the other, byte by byte; the clocks of transport streams start at these seconds."""

    def make(path: Path, frames: int) -> Path:
        parts = b""
        for start_s, wide, high in ((first_s, 64, 48), (second_s, width, height)):
            part = plain_clip(beside(path, f"part{path.suffix}"), frames // 2, encoding=CLOSED, width=wide, height=high)
            if start_s:
                part = remux(part, beside(path, "late.ts"), shifted(start_s), options=COPY_STAMPS)
            parts += part.read_bytes()
        path.write_bytes(parts)
        return path

    return make


def changing(encoding: Encoding, sizes: Sequence[tuple[int, int]], first: str, container: str = "") -> Maker:
    """One stream of several sizes in turn, its parameter sets inside."""

    def make(path: Path, frames: int) -> Path:
        parts = [
            plain_clip(beside(path, f"{number}-{first}"), frames // len(sizes), encoding=encoding, width=w, height=h)
            for number, (w, h) in enumerate(sizes)
        ]
        rest = [packet for part in parts[1:] for packet in packets_of(part)]

        def chain(packets: list[av.Packet]) -> Iterable[av.Packet]:
            for number, packet in enumerate([*packets, *rest]):
                packet.pts = packet.dts = number * 1000
                packet.time_base = Fraction(1, 10000)
                yield packet

        return remux(parts[0], path, chain, container=container)

    return make


TURN = "h264_metadata=display_orientation=insert:rotate=90"
"""Puts messages into H.264 that say how frames are turned; FFmpeg attaches each to one frame, but it holds after it."""


def turned_midway(path: Path, frames: int) -> Path:
    """H.264 whose second half says, in its own messages, that it is to be turned by 90 degrees."""
    half = plain_clip(beside(path, "half.h264"), frames // 2, encoding=x264("bframes=0"))
    turned = remux(half, beside(path, "turned.h264"), spread, filters=TURN)
    path.write_bytes(half.read_bytes() + turned.read_bytes())
    return remux(path.rename(beside(path, "both.h264")), path, spread)


Clock = Callable[[int, int, int], tuple[int, int]]
"""(number of the frame in the file, its pts, its dts) → the pts and dts that it gets instead."""


def clocked(maker: Maker, clock: Clock | None) -> Maker:
    """A transport stream whose frames carry other time stamps, or none."""

    def patch(data: bytes) -> bytes:
        stream, number, at = bytearray(data), 0, data.find(b"\x00\x00\x01\xe0")
        while at >= 0:
            if stream[at + 7] >> 6 == 3:
                pts, dts = _read_clock(stream[at + 9 : at + 14]), _read_clock(stream[at + 14 : at + 19])
            else:
                pts = dts = _read_clock(stream[at + 9 : at + 14])
            if clock is None:
                stream[at + 7] &= 0x3F
                stream[at + 9 : at + 9 + stream[at + 8]] = b"\xff" * stream[at + 8]
            elif stream[at + 7] >> 6 == 3:
                new_pts, new_dts = clock(number, pts, dts)
                stream[at + 9 : at + 19] = _written_clock(3, new_pts) + _written_clock(1, new_dts)
            else:
                stream[at + 9 : at + 14] = _written_clock(2, clock(number, pts, dts)[0])
            number, at = number + 1, data.find(b"\x00\x00\x01\xe0", at + 4)
        return bytes(stream)

    return patched(maker, patch)


def _read_clock(field: bytes) -> int:
    """33 bits in five bytes, a marker bit after 3, 15 and 15 of them."""
    return (field[0] >> 1 & 7) << 30 | field[1] << 22 | field[2] >> 1 << 15 | field[3] << 7 | field[4] >> 1


def _written_clock(kind: int, ticks: int) -> bytes:
    ticks %= _WRAP
    head = kind << 4 | ticks >> 30 << 1 | 1
    return bytes([head, ticks >> 22 & 255, (ticks >> 15 & 127) << 1 | 1, ticks >> 7 & 255, (ticks & 127) << 1 | 1])


def blocks_moved(maker: Maker, move_ms: Callable[[int, int], int]) -> Maker:
    """A matroska file whose blocks' times are moved: move_ms(number of the block, how many there are)."""

    def make(path: Path, frames: int) -> Path:
        maker(path, frames)
        packets, data, after = packets_of(path), bytearray(path.read_bytes()), 0
        for number, packet in enumerate(packets):
            at = data.index(bytes(packet), after) - 3
            time_ms = struct.unpack(">h", data[at : at + 2])[0] + move_ms(number, len(packets))
            data[at : at + 2], after = struct.pack(">h", time_ms), at
        path.write_bytes(data)
        return path

    return make


# --- packets left out, put in or hidden


def spread(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """Time stamps for the packets of a raw stream without B-frames: a tenth of a second each."""
    for number, packet in enumerate(packets):
        packet.time_base, packet.pts, packet.dts = Fraction(1, 10000), 1000 * number, 1000 * number
        yield packet


def dropped(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """Without frames 100 to 120, whose places stay empty."""
    yield from (packet for number, packet in enumerate(packets) if not 100 <= number <= 120)


def from_second_on(packets: list[av.Packet]) -> Iterable[av.Packet]:
    return packets[1:]


def from_group(number: int) -> Change:
    """From a later key frame on: what comes before it in presentation order refers to frames that aren't there."""

    def change(packets: list[av.Packet]) -> Iterable[av.Packet]:
        keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
        return packets[keys[number] :]

    return change


def marked(is_key: Callable[[int], bool]) -> Change:
    """The container marks these frames as key frames, by their numbers, whatever they are."""

    def change(packets: list[av.Packet]) -> Iterable[av.Packet]:
        for number, packet in enumerate(packets):
            packet.is_keyframe = is_key(number)
            yield packet

    return change


def _with_bytes(packet: av.Packet, data: bytes) -> av.Packet:
    new = av.Packet(data)
    new.pts, new.dts, new.time_base, new.duration = packet.pts, packet.dts, packet.time_base, packet.duration
    new.is_keyframe = packet.is_keyframe
    return new


def hide_some_vp8(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """Every fifth frame between two key frames loses its "show" bit: the decoder keeps it as a reference only."""
    for number, packet in enumerate(packets):
        data = bytearray(bytes(packet))
        if number % 5 == 3 and not packet.is_keyframe:
            data[0] &= ~16
        yield _with_bytes(packet, bytes(data))


def show_existing_vp9(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """After every fifth packet, between it and the next, a byte that shows what the first reference slot holds."""
    step = packets[1].pts - packets[0].pts
    for number, packet in enumerate(packets):
        packet.duration = step // 2
        yield packet
        if number % 5 == 2:
            again = _with_bytes(packet, b"\x88")
            again.pts = again.dts = packet.pts + step // 2
            again.is_keyframe = False
            yield again


def packed(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """MPEG-4 as DivX packs it into an avi: a P frame shares a packet with the B frame after it, then an empty one."""
    queue = list(packets)
    while queue:
        packet = queue.pop(0)
        data = bytes(packet)
        if packet.is_keyframe:
            at = data.find(b"\x00\x00\x01\xb6")
            data = data[:at] + b"\x00\x00\x01\xb2DivX503b1393p\x00" + data[at:]
        if queue and is_b_vop(bytes(queue[0])):
            yield _with_bytes(packet, data + bytes(queue[0]))
            yield _with_bytes(queue.pop(0), b"\x00\x00\x01\xb6\x50\x10")
        else:
            yield _with_bytes(packet, data)


def hide_keys_vp9(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """Key frames are decoded without being shown; a packet of one byte right after them shows them."""
    for packet in packets:
        packet.pts, packet.dts = packet.pts + 50, packet.dts + 50
        if packet.is_keyframe:
            hidden = _with_bytes(packet, _hidden_vp9(packet))
            hidden.pts = hidden.dts = packet.pts - 20
            yield hidden
            packet = _with_bytes(packet, b"\x88")
            packet.is_keyframe = False
        yield packet


def hide_keys_within_vp9(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """The same, with both in one packet: a superframe."""
    for packet in packets:
        if packet.is_keyframe:
            hidden = _hidden_vp9(packet)
            sizes = b"\xc9" + struct.pack("<HH", len(hidden), 1) + b"\xc9"
            packet = _with_bytes(packet, hidden + b"\x88" + sizes)
        yield packet


def _hidden_vp9(packet: av.Packet) -> bytes:
    """A key frame without its "show" bit."""
    data = bytes(packet)
    return bytes([data[0] & ~2]) + data[1:]


def is_b_vop(data: bytes) -> bool:
    at = data.find(b"\x00\x00\x01\xb6")
    return at >= 0 and data[at + 4] >> 6 == 2


# --- boxes of mp4 and mov


def _box(kind: bytes, *content: bytes) -> bytes:
    inside = b"".join(content)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


def _find(data: bytes, kind: bytes) -> tuple[int, int]:
    """Where the first box of a kind begins, and where it ends."""
    at = data.index(kind) - 4
    return at, at + int.from_bytes(data[at : at + 4], "big")


def _replaced(data: bytes, new: bytes, *around: bytes) -> bytes:
    """With a box in the place of the first of its kind; those around it grow."""
    at, end = _find(data, new[4:8])
    return _grown(data[:at] + new + data[end:], len(new) - (end - at), *around)


def _grown(data: bytes, by: int, *around: bytes) -> bytes:
    for kind in around:
        at, end = _find(data, kind)
        data = data[:at] + struct.pack(">I", end - at + by) + data[at + 4 :]
    return data


def edited(encoding: Encoding, *edits_s: tuple[float, float]) -> Maker:
    """An mp4 that plays only these stretches: (seconds, from second) each; from -1 plays nothing for a while."""

    def make(path: Path, frames: int) -> Path:
        plain = plain_clip(path, frames, encoding=encoding)
        with av.open(str(plain)) as container:
            ticks = 1 / container.streams.video[0].time_base
        starts = [-1 if start < 0 else round(start * ticks) for _, start in edits_s]
        lengths = [round(1000 * length) for length, _ in edits_s]
        rows = [struct.pack(">IiI", length, start, 0x10000) for length, start in zip(lengths, starts, strict=True)]
        new = _box(b"elst", struct.pack(">II", 0, len(rows)), *rows)
        plain.write_bytes(_replaced(plain.read_bytes(), new, b"moov", b"trak", b"edts"))
        return plain

    return make


def stts_count(data: bytes, by: int) -> bytes:
    """The table of durations, from which FFmpeg counts an mp4's frames, covers so many more or fewer."""
    at = data.index(b"stts") + 12
    count = struct.unpack(">I", data[at : at + 4])[0] + by
    return data[:at] + struct.pack(">I", count) + data[at + 4 :]


def avi_count(data: bytes, to: int) -> bytes:
    """The frame count in both headers of an avi."""
    header, stream = data.index(b"avih") + 24, data.index(b"strh") + 40
    data = data[:header] + struct.pack("<I", to) + data[header + 4 :]
    return data[:stream] + struct.pack("<I", to) + data[stream + 4 :]


def cover_first(path: Path, frames: int) -> Path:
    """An mp4 with cover art whose box stands before the video's track."""
    data = plain_clip(path, frames, encoding=CLOSED).read_bytes()
    items = _box(b"ilst", _box(b"covr", _box(b"data", struct.pack(">II", 13, 0), _cover_art())))
    box = _box(b"udta", _box(b"meta", bytes(4), _box(b"hdlr", bytes(8), b"mdirappl", bytes(9)), items))
    at, _ = _find(data, b"trak")
    path.write_bytes(_grown(data[:at] + box + data[at:], len(box), b"moov"))
    return path


def _cover_art() -> bytes:
    art = BytesIO()
    Image.fromarray(255 - picture(7, 96, 96)).save(art, "JPEG")
    return art.getvalue()


def two_descriptions(path: Path, frames: int) -> Path:
    """A mov whose samples are described twice, alike, and whose second half is of the second description."""
    data = plain_clip(path, frames, encoding=x264("bframes=0")).read_bytes()
    at, end = _find(data, b"stsd")
    entry = data[at + 16 : end]
    table = _box(b"stsd", struct.pack(">II", 0, 2), entry, entry)
    data = _replaced(data, table, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    chunks = struct.unpack(">I", data[data.index(b"stco") + 8 :][:4])[0]
    at, end = _find(data, b"stsc")
    runs = [
        struct.pack(">III", first, count, 2 if first > chunks // 2 else 1)
        for first, count, _ in struct.iter_unpack(">III", data[at + 16 : end])
    ]
    new = _box(b"stsc", struct.pack(">II", 0, len(runs)), *runs)
    path.write_bytes(_replaced(data, new))
    return path


def cropped(encoding: Encoding, *aperture: int) -> Maker:
    """An mp4 of which only a part is shown: its width and height, as in the track's header, and its middle's offset."""
    box = _box(b"clap", *(struct.pack(">iI", number, 1) for number in aperture))

    def patch(data: bytes) -> bytes:
        at, end = _find(data, b"stsd")
        entry = at + 16
        size = struct.unpack(">I", data[entry : entry + 4])[0] + len(box)
        data = data[:entry] + struct.pack(">I", size) + data[entry + 4 : end] + box + data[end:]
        _, shown = _find(data, b"tkhd")
        data = data[: shown - 8] + struct.pack(">HHHH", aperture[0], 0, aperture[1], 0) + data[shown:]
        return _grown(data, len(box), b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")

    return patched(encoding, patch)


# --- elements of matroska

DISPLAY = (0x54B0, 0x54BA, 0x54B2)
"""DisplayWidth, DisplayHeight and DisplayUnit: 0 for pixels, 3 for a ratio."""
CROP = (0x54BB, 0x54AA, 0x54CC, 0x54DD)
"""PixelCropTop, PixelCropBottom, PixelCropLeft and PixelCropRight."""


def shown_as(encoding: Encoding, elements: dict[int, int]) -> Maker:
    """A matroska file whose Video element says more; the gap before it gets so much smaller."""
    added = b"".join(struct.pack(">HBH", kind, 0x82, value) for kind, value in elements.items())

    def patch(data: bytes) -> bytes:
        # The ids before the kind of track are random, and could look like the element.
        video = re.search(rb"\x83\x81\x01.*?(\xe0[\x80-\xff]\xb0)", data, re.DOTALL)
        assert video
        start, end = video.start(1), video.start(1) + 2 + (data[video.start(1) + 1] & 0x7F)
        inside = data[start + 2 : end].replace(b"\x54\xb2\x81\x04", b"") + added
        entry, tracks = data.index(b"\xae\1\0\0\0"), data.rindex(b"\x16\x54\xae\x6b")
        gap, by = data.index(b"\xec\1\0\0\0"), len(inside) - (end - start - 2)
        sizes = [(gap + 2, 7, -by), (tracks + 4, 9 - data[tracks + 4].bit_length(), by), (entry + 2, 7, by)]
        data = data[: start + 1] + bytes([0x80 | len(inside)]) + inside + data[end:]
        for at, length, more in sizes:
            size = int.from_bytes(data[at : at + length], "big") + more
            data = data[:at] + size.to_bytes(length, "big") + data[at + length :]
        return data[: gap + 9] + data[gap + 9 + by :]

    return patched(encoding, patch)


# --- damage


def overwritten(encoding: Encoding, first: int, until: int, *, is_random: bool) -> Maker:
    """With the packets from one number up to another overwritten by zeros or noise."""

    def make(path: Path, frames: int) -> Path:
        plain_clip(path, frames, encoding=encoding)
        data, after, dice = bytearray(path.read_bytes()), 0, np.random.default_rng(1)
        for number, packet in enumerate(packets_of(path)[:until]):
            content = bytes(packet)
            at = data.index(content, after)
            after = at + len(content)
            if number >= first:
                data[at:after] = dice.bytes(len(content)) if is_random else bytes(len(content))
        path.write_bytes(data)
        return path

    return make


def wiped(maker: Maker, start: float, end: float, *, is_random: bool = False) -> Maker:
    """With a part of the bytes, from 0 to 1, overwritten by zeros or noise, whatever lies there."""

    def patch(data: bytes) -> bytes:
        first, until = int(start * len(data)), int(end * len(data))
        middle = np.random.default_rng(1).bytes(until - first) if is_random else bytes(until - first)
        return data[:first] + middle + data[until:]

    return patched(maker, patch)


def ended(maker: Maker | Encoding, keep: float) -> Maker:
    """Without the last part of the bytes."""
    return patched(maker, lambda data: data[: int(len(data) * keep)])


def started_late(maker: Maker, skip: float, *, unit: int = 1) -> Maker:
    """Without the first part of the bytes, in whole units."""
    return patched(maker, lambda data: data[int(len(data) * skip) // unit * unit :])


# --- several streams


def with_sound(path: Path, frames: int, *, lead: int = 0) -> Path:
    """Video and sound in turn, the sound's stream first; the video begins `lead` tenths of a second after the sound."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        video = container.add_stream("libx264", rate=10, options=dict(CLOSED.options))
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = index + lead, Fraction(1, 10)
            container.mux(video.encode(frame))
            for _ in range(2):
                quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                quiet.rate = 16000
                container.mux(sound.encode(quiet))
        for stream in (video, sound):
            container.mux(stream.encode())
    return path


def second_is_default(path: Path, frames: int) -> Path:
    return write_two_videos(path, frames, default=1, encoding=CLOSED)


def with_subtitles(path: Path, frames: int) -> Path:
    """A video beside a text stream, which comes first."""
    plain = plain_clip(beside(path, "plain.mkv"), frames, encoding=CLOSED)
    text = beside(path, "text.srt")
    text.write_text("".join(f"{n + 1}\n00:00:{n:02d},000 --> 00:00:{n:02d},900\nline {n}\n\n" for n in range(3)))
    with av.open(str(plain)) as video, av.open(str(text)) as words, av.open(str(path), "w") as to:
        lines = to.add_stream_from_template(words.streams.subtitles[0])
        moving = to.add_stream_from_template(video.streams.video[0])
        _copy(words.demux(subtitles=0), lines, to)
        _copy(video.demux(video=0), moving, to)
    return path


def with_attachment(path: Path, frames: int) -> Path:
    """A matroska file with its cover art as an attachment."""
    plain = plain_clip(beside(path, "plain.mkv"), frames, encoding=CLOSED)
    with av.open(str(plain)) as video, av.open(str(path), "w") as to:
        to.add_attachment("cover.jpg", "image/jpeg", _cover_art())
        moving = to.add_stream_from_template(video.streams.video[0])
        _copy(video.demux(video=0), moving, to)
    return path


def tagged(path: Path, frames: int) -> Path:
    """A matroska file whose tag tells another number of frames than it holds."""
    plain = plain_clip(beside(path, "plain.mkv"), frames, encoding=CLOSED)
    with av.open(str(plain)) as video, av.open(str(path), "w") as to:
        moving = to.add_stream_from_template(video.streams.video[0])
        moving.metadata["NUMBER_OF_FRAMES"] = "17"
        _copy(video.demux(video=0), moving, to)
    return path


def _copy(packets: Iterable[av.Packet], stream: av.stream.Stream, container: av.container.OutputContainer) -> None:
    for packet in packets:
        if packet.size:
            packet.stream = stream
            container.mux_one(packet)


def coloured(encoding: Encoding, **colours: str) -> Encoding:
    """With the tags of another colour space."""
    return replace(encoding, options={**encoding.options, **colours})


def hdr(transfer: str, encoding: Encoding | None = None) -> Encoding:
    """Ten bits in BT.2020; the transfer is FFmpeg's name, smpte2084 for PQ, arib-std-b67 for HLG."""
    x = x265(f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc", "yuv420p10le")
    return coloured(encoding or x, color_primaries="bt2020", color_trc=transfer, colorspace="bt2020nc")


# --- two views in one stream


def spatial(path: Path, frames: int) -> Path:
    """HEVC with a second view (MV-HEVC) in the same packets; players without glasses show the first one."""
    plain = plain_clip(beside(path, "plain.hevc"), frames, encoding=x265("bframes=0"))
    units = [unit.rstrip(b"\0") for unit in plain.read_bytes().split(b"\0\0\1")[1:]]
    plain.write_bytes(b"".join(b"\0\0\0\1" + new for unit in units for new in _with_second_view(unit)))
    return remux(plain, path, spread, tag="hvc1")


def _with_second_view(unit: bytes) -> Iterable[bytes]:
    """A parameter set of both views, or a slice and the same again as the second view's."""
    kind = unit[0] >> 1
    yield _two_layers(unit) if kind == 32 else unit
    if kind < 32:
        yield bytes((unit[0], unit[1] | 1 << 3)) + unit[2:]


def _two_layers(unit: bytes) -> bytes:
    """The video parameter set of H.265, 7.3.2.1, and its extension for two views of 64x48 pixels, F.7.3.2.1.1."""
    profile = unit.replace(b"\0\0\3", b"\0\0")[6:18]
    base = "0000 11 000001 000 1" + "1" * 16 + f"{int.from_bytes(profile, 'big'):096b}" + "1 00101 011 1"
    layers = "000001 010 11 0 1"
    bits = (base + layers).replace(" ", "")
    bits += "1" * (-len(bits) % 8) + f"{profile[-1]:08b}"
    views = "0 0100000000000000 000 0 1 0001 0 1 1 0 0 1 010 1 00 01"
    picture_format = f"1 {64:016b} {48:016b} 1 01 0000 0000 0"
    references = "1 0 0 00101 00101 011 1 1 1 10 1 0 0 1"
    bits += (views + picture_format + references).replace(" ", "")
    bits += "0" * (-len(bits) % 8)
    return unit[:2] + _escaped(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def _escaped(payload: bytes) -> bytes:
    """With a 3 between two zero bytes and a byte below 4: 00 00 01 → 00 00 03 01."""
    return re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)
