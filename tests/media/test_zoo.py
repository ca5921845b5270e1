"""Odd files of every kind: all eight frames of each, byte for byte those of a plain decode of the whole file."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from _pytest.mark import ParameterSet
from av.packet import Packet
from av.video.frame import VideoFrame
from PIL import Image

from tests.clips import APNG, FFV1, GIF, MJPEG, Encoding, Pixels, Truth, as_it_is, shown_stream, truth
from tests.media import zoo
from tests.media.zoo import (
    CLOSED,
    MPEG2_B,
    MPEG4_B,
    OPEN,
    VP8,
    VP9,
    Maker,
    encoded,
    patched,
    remuxed,
    timed,
    x264,
    x265,
)
from vllava_cli.errors import MediaError
from vllava_cli.media.sample import probe, sample
from vllava_cli.media.select import pick
from vllava_cli.nouns import Frames, Framing, Way

Look = Callable[[Pixels], Pixels]

WHOLE, AS_STORED = Framing(), Framing(is_as_stored=True)
SHORT, LONG = 30, 400


@dataclass(frozen=True, kw_only=True)
class Animal:
    """One odd file, made of each of these numbers of frames; `way` is that of a long one, where only one is right."""

    name: str
    make: Maker
    way: Way | None
    frames: tuple[int, ...]
    look: Look = as_it_is
    """How a person sees a stored frame, before it is turned."""
    framing: Framing = WHOLE


def animal(name: str, make: Maker | Encoding, way: Way | None = None, *frames: int, look: Look = as_it_is) -> Animal:
    maker = encoded(make) if isinstance(make, Encoding) else make
    return Animal(name=name, make=maker, way=way, frames=frames or (SHORT, LONG), look=look)


def as_stored(name: str, make: Maker | Encoding) -> Animal:
    """One that a person would see otherwise, but of which the stored pixels are wanted."""
    return replace(animal(name, make), framing=AS_STORED)


def wide(width: int, height: int, *box: int) -> Look:
    """The part (left, top, right, bottom) of a frame, scaled to a size."""

    def look(stored: Pixels) -> Pixels:
        left, top, right, bottom = box or (0, 0, stored.shape[1], stored.shape[0])
        part = Image.fromarray(stored[top:bottom, left:right])
        return np.asarray(part.resize((width, height), Image.Resampling.BICUBIC))

    return look


def _irregular(index: int) -> int:
    """Milliseconds: 0, 40, 240, 280, 480, …"""
    return 120 * index - 80 * (index % 2)


def _half_back(number: int, pts: int, dts: int) -> tuple[int, int]:
    """Each fifteenth frame and those after it a second earlier than they were."""
    back = 90000 * (number // 15)
    return pts - back, dts - back


def _now_and_then_earlier(number: int, pts: int, dts: int) -> tuple[int, int]:
    return pts - 9000 * (number % 7 == 3), dts


def _all_at_once(_number: int, _pts: int, _dts: int) -> tuple[int, int]:
    return 90000, 90000


def _decoded_too_early(number: int, pts: int, dts: int) -> tuple[int, int]:
    return pts, dts - 27000 * (number % 5 == 4)


def animals(
    stem: str, endings: str, make: Maker | Encoding, way: Way | None = None, *, look: Look = as_it_is
) -> list[Animal]:
    """The same in several containers."""
    return [animal(f"{stem}.{ending}", make, way, look=look) for ending in endings.split()]


ONE_KEY = zoo.marked(lambda number: number == 0)
ALL_KEYS = zoo.marked(lambda _: True)
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}

CODECS = [
    *animals("b-pyramid", "mp4 mov mkv", CLOSED, "seek"),
    *animals("b-pyramid", "ts avi", CLOSED),
    *animals("raw", "h264 264", CLOSED),
    *animals("open", "mp4 mkv ts", OPEN),
    animal("open-many-b.mp4", x264("open-gop=1:bframes=8")),
    *animals("intra-refresh", "mp4 mkv ts", x264("intra-refresh=1"), "decode"),
    *animals("interlaced", "mp4 ts", x264("interlaced=1")),
    animal("fake-interlaced.mkv", x264("fake-interlaced=1:tff=1")),
    animal("one-group.mp4", x264("keyint=1000:min-keyint=1000")),
    animal("all-keys.mp4", x264("keyint=1:min-keyint=1:bframes=0"), "seek"),
    animal("in-band.mp4", remuxed(x264("bframes=0"), zoo.spread, first="plain.h264", tag="avc3")),
    animal("in-band-hevc.mp4", remuxed(x265("bframes=0"), zoo.spread, first="plain.hevc", tag="hev1")),
    animal("4-4-4.mp4", replace(CLOSED, pix_fmt="yuv444p")),
    animal("10-bit.mp4", replace(CLOSED, pix_fmt="yuv420p10le")),
    animal("full-range.mp4", replace(CLOSED, pix_fmt="yuvj420p")),
    animal("gray.mkv", replace(CLOSED, pix_fmt="gray")),
    as_stored("hdr.mp4", zoo.hdr("smpte2084")),
    as_stored("hdr-h264.mkv", zoo.hdr("arib-std-b67", replace(CLOSED, pix_fmt="yuv420p10le"))),
    *animals("hevc-open", "mp4 mkv ts", x265()),
    animal("hevc-closed.mp4", x265("open-gop=0")),
    animal("hevc-12-bit.mkv", x265(pix_fmt="yuv420p12le")),
    *animals("raw", "hevc 265", replace(x265(), container="hevc")),
    animal("spatial.mov", zoo.spatial, "seek"),
    animal("vp8.webm", VP8),
    animal("vp8-hidden.webm", remuxed(VP8, zoo.hide_some_vp8, first="plain.webm")),
    *animals("vp9", "webm mp4 ivf", VP9),
    animal("vp9-hidden.mkv", remuxed(VP9, zoo.hide_keys_vp9, first="plain.webm", options={"fflags": "-autobsf"})),
    animal("vp9-superframes.webm", remuxed(VP9, zoo.hide_keys_within_vp9, first="plain.webm")),
    animal("vp9-again.mkv", remuxed(VP9, zoo.show_existing_vp9, first="plain.webm")),
    *animals("av1", "mp4 webm ivf", encoded(zoo.svt_av1(), 64, 64)),
    animal("av1.obu", encoded(replace(zoo.svt_av1(), container="obu"), 64, 64)),
    animal("av1-low-delay.mp4", encoded(zoo.svt_av1(24, "lp=1:pred-struct=1"), 64, 64)),
    animal("av1-10-bit.mkv", encoded(zoo.svt_av1(pix_fmt="yuv420p10le"), 64, 64)),
    *animals("mpeg4", "avi mp4", MPEG4_B),
    animal(
        "mpeg4-packed.avi", remuxed(replace(MPEG4_B, options={"g": "15", "bf": "1"}), zoo.packed, first="plain.mp4")
    ),
    *animals("mpeg2", "ts mpg mkv", MPEG2_B),
    animal("mpeg2-interlaced.ts", replace(MPEG2_B, options={**MPEG2_B.options, "flags": "+ildct+ilme"})),
    animal("mpeg1.mpg", replace(MPEG2_B, codec="mpeg1video")),
    *animals("mjpeg", "avi mov mjpeg", MJPEG),
    animal("animated.gif", GIF, "decode"),
    animal("animated.png", APNG, "decode"),
    animal("ffv1.mkv", replace(FFV1, options={"g": "12"})),
    animal("ffv1-context.mkv", replace(FFV1, options={"g": "50", "context": "1"})),
    animal("ffv1-alpha.mkv", replace(FFV1, pix_fmt="bgra")),
    animal("ffv1-gray-16-bit.mkv", replace(FFV1, pix_fmt="gray16le")),
    animal("prores.mov", Encoding(codec="prores", pix_fmt="yuv422p10le")),
    animal("prores-alpha.mov", Encoding(codec="prores_ks", pix_fmt="yuva444p10le", options={"profile": "4444"})),
    animal(
        "dnxhr.mov",
        encoded(Encoding(codec="dnxhd", pix_fmt="yuv422p", options={"profile": "dnxhr_sq"}), 256, 128),
        None,
        SHORT,
    ),
    animal("qtrle-alpha.mov", Encoding(codec="qtrle", pix_fmt="argb", options={"g": "12"})),
    animal("huffyuv.avi", Encoding(codec="huffyuv", pix_fmt="yuv422p")),
    animal("raw-pictures.avi", Encoding(codec="rawvideo", pix_fmt="bgr24")),
    animal("png.mov", Encoding(codec="png", pix_fmt="rgb24")),
    *animals("flv1", "avi flv", Encoding(codec="flv", options={"g": "12"})),
    animal("raw.h263", encoded(Encoding(codec="h263", options={"g": "12"}), 176, 144), look=wide(192, 144)),
    animal("divx3.avi", Encoding(codec="msmpeg4", options={"g": "12"})),
    animal("wmv2.asf", Encoding(codec="wmv2", options={"g": "12"})),
    animal("odd-size.mkv", encoded(x264(), 66, 50)),
    animal("odd-size-4-4-4.mp4", encoded(replace(CLOSED, pix_fmt="yuv444p"), 67, 51)),
]


CONTAINERS = [
    animal("index-last.mp4", encoded(CLOSED), "seek"),
    animal("index-first.mp4", replace(CLOSED, muxer_options={"movflags": "faststart"}), "seek"),
    animal("fragments.mp4", replace(CLOSED, muxer_options=FRAGMENTED)),
    animal("fragments-open.mp4", replace(OPEN, muxer_options=FRAGMENTED)),
    animal(
        "fragments-sidx.mp4",
        replace(CLOSED, muxer_options={"movflags": "frag_keyframe+empty_moov+default_base_moof+global_sidx"}),
    ),
    animal("fragments-dash.mp4", replace(CLOSED, muxer_options={"movflags": "frag_keyframe+empty_moov+dash"})),
    animal("fragments-delay.mp4", replace(CLOSED, muxer_options={"movflags": "frag_keyframe+delay_moov"})),
    animal("fragment-each.mp4", replace(CLOSED, muxer_options={"movflags": "frag_every_frame+empty_moov"})),
    *(
        animal(f"first-fragment-in-header-{number}.mp4", replace(CLOSED, muxer_options={"movflags": flags}))
        for number, flags in enumerate(zoo.FIRST_FRAGMENT)
    ),
    animal("fragments-hevc.mp4", replace(x265(), muxer_options=FRAGMENTED)),
    animal("no-edit-list.mp4", replace(CLOSED, muxer_options={"use_editlist": "0"})),
    animal("negative-offsets.mp4", replace(CLOSED, muxer_options={"movflags": "negative_cts_offsets"})),
    *(
        animal(f"rotated-{turn}{'-mirrored' * mirrored}.mp4", replace(CLOSED, rotation=turn, is_mirrored=mirrored))
        for turn in (90, 180, 270)
        for mirrored in (False, True)
    ),
    animal("brands.m4v", CLOSED),
    *animals("clip", "3gp 3g2 f4v nut flv", CLOSED),
    animal("hevc.flv", x265()),
    animal("av1.flv", encoded(zoo.svt_av1(), 64, 64)),
    animal("clip.vob", replace(MPEG2_B, container="vob")),
    animal("clip.m2v", replace(MPEG2_B, container="mpeg2video")),
    animal("clip.y4m", Encoding(codec="wrapped_avframe", container="yuv4mpegpipe")),
    animal("clip.dv", encoded(Encoding(codec="dvvideo", fps=25), 720, 576), None, SHORT, look=wide(768, 576)),
    animal("clip.mxf", replace(MPEG2_B, pix_fmt="yuv422p")),
    animal("no-cues.mkv", replace(CLOSED, muxer_options={"live": "1"})),
    animal("cluster-each.mkv", replace(CLOSED, muxer_options={"cluster_time_limit": "0"})),
    *animals("sound", "mp4 mkv ts avi", zoo.with_sound),
    *animals("sound-first", "mp4 mkv ts", partial(zoo.with_sound, lead=20)),
    *animals("second-is-default", "mkv mp4", zoo.second_is_default),
    animal("subtitles-first.mkv", zoo.with_subtitles),
    animal("cover-first.mp4", zoo.cover_first),
    animal("cover-attached.mkv", zoo.with_attachment),
    animal("two-descriptions.mov", zoo.two_descriptions),
]

EDITS = [
    animal("starts-late.mp4", zoo.edited(CLOSED, (2.0, 0.5)), None, SHORT),
    animal("starts-late.mp4", zoo.edited(CLOSED, (37.5, 0.7)), None, LONG),
    animal("starts-at-key.mp4", zoo.edited(CLOSED, (33.0, 3.4)), None, LONG),
    animal("starts-open.mp4", zoo.edited(OPEN, (30.0, 4.1)), None, LONG),
    animal("cut-between-b-frames.mp4", remuxed(CLOSED, lambda packets: packets[:-2])),
    animal("ends-early.mp4", zoo.edited(CLOSED, (29.5, 0.2)), None, LONG),
    animal("pause-first.mp4", zoo.edited(CLOSED, (3.0, -1), (30.0, 0.2)), None, LONG),
    animal("middle-left-out.mp4", zoo.edited(CLOSED, (10.0, 0.2), (20.0, 15.3)), None, LONG),
    animal("played-twice.mp4", zoo.edited(CLOSED, (10.0, 1.2), (10.0, 1.2)), None, LONG),
    animal("played-backwards.mp4", zoo.edited(CLOSED, (10.0, 25.2), (10.0, 1.2)), None, LONG),
    animal("starts-late-hevc.mp4", zoo.edited(x265(), (30.0, 1.5)), None, LONG),
    animal("starts-late-all-keys.mp4", zoo.edited(x264("keyint=1:min-keyint=1:bframes=0"), (30.0, 1.5)), None, LONG),
    animal("starts-late-mpeg4.mp4", zoo.edited(MPEG4_B, (30.0, 1.5)), None, LONG),
    animal("starts-late-av1.mp4", zoo.edited(zoo.svt_av1(), (30.0, 1.5)), None, LONG),
]

COUNTS = [
    animal("counted-more.mp4", patched(CLOSED, lambda data: zoo.stts_count(data, 9))),
    animal("counted-far-more.mp4", patched(CLOSED, lambda data: zoo.stts_count(data, 900))),
    animal("counted-fewer.mp4", patched(CLOSED, lambda data: zoo.stts_count(data, -9))),
    animal("counted-far-fewer.mp4", patched(CLOSED, lambda data: zoo.stts_count(data, -26)), None, SHORT),
    animal("counted-more.avi", patched(MPEG4_B, lambda data: zoo.avi_count(data, 34)), None, SHORT),
    animal("counted-more.avi", patched(MPEG4_B, lambda data: zoo.avi_count(data, 440)), None, LONG),
    animal("counted-far-more.avi", patched(MPEG4_B, lambda data: zoo.avi_count(data, 4400))),
    animal("counted-fewer.avi", patched(MPEG4_B, lambda data: zoo.avi_count(data, 23))),
    animal("counted-as-three.avi", patched(CLOSED, lambda data: zoo.avi_count(data, 3))),
    animal("counted-as-none.avi", patched(MPEG4_B, lambda data: zoo.avi_count(data, 0))),
    animal("counted-in-tag.mkv", zoo.tagged),
    animal("dropped.avi", remuxed(MJPEG, zoo.dropped, first="plain.mov")),
    *(animal(f"few.{end}", CLOSED, None, 1, 2, 3, 7, 8, 9) for end in ("mp4", "mkv", "ts", "avi", "h264")),
    animal("few.webm", VP9, None, 1, 2, 7, 8, 9),
    animal("few-av1.mp4", zoo.svt_av1(), None, 1, 2, 7, 8, 9),
    animal("few-hevc.mp4", x265("bframes=0"), None, 1, 2),  # with B-frames x265 gives so few frames no sure times
    animal("few-hevc.mp4", x265(), None, 7, 8, 9),
    animal("few.mpg", MPEG2_B, None, 1, 2, 7, 8, 9),
    animal("few-mpeg4.avi", MPEG4_B, None, 1, 2, 7, 8, 9),
    animal("ninety-minutes-every-5-s.mp4", timed(CLOSED, lambda i: 5000 * i), "seek", 1080),
    animal("ninety-minutes-every-5-s.mkv", timed(CLOSED, lambda i: 5000 * i), "seek", 1080),
    animal("ninety-minutes-1-fps.mp4", replace(CLOSED, fps=1), "seek", 5400),
]

WIDE = replace(CLOSED, aspect=Fraction(64, 45))


def wider(stored: Pixels) -> Pixels:
    return wide(round(stored.shape[1] * 64 / 45), stored.shape[0])(stored)


EDGES = dict(zip(zoo.CROP, (4, 8, 2, 6), strict=True))


STAMPS = [
    *animals("variable", "mp4 mkv", timed(CLOSED, _irregular)),
    animal("variable-hevc.mp4", timed(x265(), _irregular)),
    *animals("slides", "mp4 mkv ts", timed(CLOSED, zoo.slides)),
    animal("long-pause.mkv", timed(CLOSED, lambda i: 100 * i + 600_000 * (i > 12))),
    *animals("doubled", "mkv mp4", remuxed(CLOSED, zoo.doubled_stamps)),
    animal("all-alike.mkv", remuxed(CLOSED, zoo.all_alike)),
    animal("all-alike-vp9.mkv", remuxed(VP9, zoo.all_alike, first="plain.webm")),
    animal("starts-at-1000-s.mkv", remuxed(CLOSED, zoo.shifted(1000))),
    animal("starts-at-1000-s.ts", remuxed(CLOSED, zoo.shifted(1000), options=zoo.COPY_STAMPS)),
    animal("starts-negative.mkv", remuxed(CLOSED, zoo.shifted(-0.3), options={"avoid_negative_ts": "disabled"})),
    animal("jumps-ahead.ts", remuxed(CLOSED, zoo.jump_in(500), options=zoo.COPY_STAMPS)),
    animal("jumps-ahead.mkv", remuxed(CLOSED, zoo.jump_in(500))),
    animal("none.ts", zoo.clocked(encoded(CLOSED), None)),
    animal("doubled.ts", zoo.clocked(encoded(CLOSED), _now_and_then_earlier)),
    animal("doubled-rarely.mkv", zoo.blocks_moved(encoded(CLOSED), lambda n, total: -100 * (n == total // 3))),
    animal("dts-runs-back.ts", zoo.clocked(encoded(CLOSED), _decoded_too_early)),
    animal("all-alike.ts", zoo.clocked(encoded(x264("bframes=0")), _all_at_once)),
    animal("jumps-back.ts", zoo.clocked(encoded(CLOSED), _half_back)),
    animal("jumps-back.mkv", zoo.blocks_moved(encoded(CLOSED), lambda n, total: -900 * (n > total // 2))),
    animal("runs-backwards.mkv", zoo.blocks_moved(encoded(x264("bframes=0")), lambda n, _: -150 * n), None, SHORT),
    animal("wraps.ts", zoo.wrapping),
    animal("two-in-a-row.ts", zoo.two_in_a_row(0, 0)),
    animal("two-in-a-row-ahead.ts", zoo.two_in_a_row(0, 700)),
    animal("two-in-a-row-back.ts", zoo.two_in_a_row(700, 0)),
    *animals("two-in-a-row", "h264 mpg", zoo.two_in_a_row(0, 0)),
    animal("two-in-a-row.mjpeg", patched(MJPEG, lambda data: 2 * data)),
    *animals("two-sizes", "ts h264", zoo.two_in_a_row(0, 0, width=96, height=80)),
    animal("two-sizes.mkv", zoo.changing(CLOSED, [(64, 48), (96, 80)], "part.h264")),
    animal("two-sizes-vp9.mkv", zoo.changing(VP9, [(64, 48), (96, 80), (64, 48)], "part.webm")),
    animal("three-sizes-vp8.webm", zoo.changing(VP8, [(64, 36), (128, 72), (36, 64)], "part.webm")),
    animal("two-sizes-wide.mkv", zoo.changing(WIDE, [(64, 48), (96, 80)], "part.h264"), look=wider),
    animal("turned-midway.mkv", zoo.turned_midway),
    animal("turned-by-keys.mp4", remuxed(x264("bframes=0"), zoo.spread, first="plain.h264", filters=zoo.TURN)),
    animal("two-sizes-of-one-shape.mkv", zoo.changing(CLOSED, [(64, 48), (64, 48)], "part.h264")),
]

KEYS = [
    *animals("begins-without-key", "mkv mp4", remuxed(CLOSED, zoo.from_second_on)),
    animal("begins-without-key.ts", zoo.started_late(encoded(CLOSED), 0.04, unit=188)),
    animal("begins-without-key.h264", zoo.started_late(encoded(CLOSED), 0.04)),
    animal("begins-without-key.mpg", zoo.started_late(encoded(MPEG2_B), 0.04)),
    animal("begins-without-key.hevc", zoo.started_late(encoded(replace(x265(), container="hevc")), 0.04)),
    animal("begins-without-key-vp9.mkv", remuxed(VP9, zoo.from_second_on, first="plain.webm")),
    animal("begins-without-key-mpeg4.avi", remuxed(MPEG4_B, zoo.from_second_on)),
    animal("begins-without-key-av1.mkv", remuxed(zoo.svt_av1(), zoo.from_second_on)),
    animal("begins-open.mkv", remuxed(OPEN, zoo.from_group(1))),
    *animals("begins-open-hevc", "mkv mp4", remuxed(x265(), zoo.from_group(1))),
    animal("begins-open-mpeg2.ts", remuxed(MPEG2_B, zoo.from_group(1), first="plain.mpg")),
    *animals("one-key-marked", "mkv mp4", remuxed(CLOSED, ONE_KEY)),
    *animals("no-key-is-one", "mp4 mkv", remuxed(CLOSED, ALL_KEYS)),
    animal("no-key-is-one-hevc.mp4", remuxed(x265(), ALL_KEYS)),
    animal("no-key-is-one-vp9.mp4", remuxed(VP9, ALL_KEYS, first="plain.webm")),
    animal("no-key-is-one-av1.mp4", remuxed(zoo.svt_av1(), ALL_KEYS)),
    animal("no-key-is-one-mpeg4.mp4", remuxed(MPEG4_B, ALL_KEYS)),
    animal("no-key-is-one-mpeg2.mkv", remuxed(MPEG2_B, ALL_KEYS, first="plain.mpg")),
    animal("no-key-is-one-ffv1.mkv", remuxed(replace(FFV1, options={"g": "12"}), ALL_KEYS, first="plain.mkv")),
]

ENDED = [
    animal(f"ends-at-{keep}-{name}", zoo.ended(maker, keep / 100), None, LONG)
    for keep in (30, 60, 90)
    for name, maker in (
        ("index-first.mp4", replace(CLOSED, muxer_options={"movflags": "faststart"})),
        ("fragments.mp4", replace(CLOSED, muxer_options=FRAGMENTED)),
        ("first-fragment.mp4", replace(CLOSED, muxer_options={"movflags": zoo.FIRST_FRAGMENT[0]})),
        ("open.mkv", OPEN),
        ("b-pyramid.ts", CLOSED),
        ("raw.h264", CLOSED),
        ("mpeg4.avi", MPEG4_B),
        ("mpeg2.mpg", MPEG2_B),
        ("vp9.webm", VP9),
        ("vp9.ivf", VP9),
        ("hevc.mp4", replace(x265(), muxer_options={"movflags": "faststart"})),
        ("av1.mp4", replace(zoo.svt_av1(), muxer_options={"movflags": "faststart"})),
        ("mjpeg.avi", MJPEG),
        ("animated.gif", GIF),
        ("animated.png", APNG),
    )
]

PLACES = {"first-key": (0, 1), "in-first-group": (3, 6), "passed-over": (28, 34), "key": (48, 49), "wanted": (49, 52)}
"""Numbers of packets of a long file: its second wanted frame is number 50, and none is in a group with 28 to 34."""

PARTS = {"passed-over": (0.07, 0.085), "wanted": (0.122, 0.132), "second-half": (0.5, 0.99)}
"""Of the bytes of a file."""

DAMAGED = [
    animal(f"{place}-{'noise' if is_random else 'zeros'}-{name}", maker, None, LONG)
    for place, (first, until) in PLACES.items()
    for is_random in (False, True)
    for name, maker in (
        (name, zoo.overwritten(encoding, first, until, is_random=is_random))
        for name, encoding in (
            ("h264.mp4", CLOSED),
            ("h264.mkv", CLOSED),
            ("open.mp4", OPEN),
            ("hevc.mp4", x265()),
            ("hevc.mkv", x265()),
            ("mpeg4.avi", MPEG4_B),
            ("vp8.webm", VP8),
            ("vp9.webm", VP9),
            ("av1.mp4", zoo.svt_av1()),
            ("mjpeg.avi", MJPEG),
            ("all-keys.mp4", x264("keyint=1:min-keyint=1:bframes=0")),
        )
    )
] + [
    animal(f"{place}-bytes-{'noise' if is_random else 'zeros'}-{name}", maker, None, LONG)
    for place, (start, end) in PARTS.items()
    for is_random in (False, True)
    for name, maker in (
        (name, zoo.wiped(encoded(encoding), start, end, is_random=is_random))
        for name, encoding in (
            ("h264.ts", CLOSED),
            ("h264.mp4", replace(CLOSED, muxer_options={"movflags": "faststart"})),
            ("mpeg2.mpg", MPEG2_B),
            ("raw.h264", CLOSED),
        )
    )
]

SHAPES = [
    *animals("wide", "mp4 mkv ts avi", WIDE, look=wide(91, 48)),
    animal("wide.h264", WIDE, look=wide(91, 48)),
    animal("wide-mpeg2.mpg", replace(MPEG2_B, aspect=Fraction(16, 9) / Fraction(64, 48)), look=wide(85, 48)),
    animal("wide-mpeg4.avi", replace(MPEG4_B, aspect=Fraction(2)), look=wide(128, 48)),
    animal("wide-mjpeg.mov", replace(MJPEG, aspect=Fraction(4, 3)), look=wide(85, 48)),
    animal("high.mp4", replace(CLOSED, aspect=Fraction(8, 9)), look=wide(64, 54)),
    animal("high-turned.mp4", replace(CLOSED, aspect=Fraction(8, 9), rotation=90), look=wide(64, 54)),
    animal("wide-mirrored.mp4", replace(WIDE, is_mirrored=True), look=wide(91, 48)),
    as_stored("wide-turned-as-stored.mkv", replace(WIDE, rotation=90)),
    as_stored("cropped-as-stored.mkv", zoo.shown_as(CLOSED, EDGES)),
    as_stored("wide-mjpeg-as-stored.mov", replace(MJPEG, aspect=Fraction(4, 3))),
    animal("wide-by-rounding.mp4", replace(CLOSED, aspect=Fraction(640, 639))),
    animal("far-too-wide.mp4", replace(CLOSED, aspect=Fraction(17))),
    animal("wide-by-mistake.gif", replace(GIF, aspect=Fraction(3, 2))),
    animal(
        "pal.dv",
        encoded(Encoding(codec="dvvideo", fps=25, aspect=Fraction(64, 45)), 720, 576),
        None,
        8,
        look=wide(1024, 576),
    ),
    animal(
        "shown-larger.mkv", zoo.shown_as(CLOSED, dict(zip(zoo.DISPLAY, (128, 48, 0), strict=True))), look=wide(128, 48)
    ),
    animal(
        "shown-16-to-9.mkv", zoo.shown_as(CLOSED, dict(zip(zoo.DISPLAY, (16, 9, 3), strict=True))), look=wide(85, 48)
    ),
    animal("cropped.mkv", zoo.shown_as(CLOSED, EDGES), look=wide(56, 36, 2, 4, 58, 40)),
    animal("cropped.webm", zoo.shown_as(VP9, EDGES), look=wide(56, 36, 2, 4, 58, 40)),
    animal(
        "cropped-wide.mkv",
        zoo.shown_as(CLOSED, EDGES | dict(zip(zoo.DISPLAY, (112, 36, 0), strict=True))),
        look=wide(112, 36, 2, 4, 58, 40),
    ),
    animal("cropped.mp4", zoo.cropped(CLOSED, 56, 36, -2, -2), look=wide(56, 36, 2, 4, 58, 40)),
    animal(
        "cropped-wide-turned.mp4",
        zoo.cropped(replace(WIDE, rotation=90), 56, 36, -2, -2),
        look=wide(80, 36, 2, 4, 58, 40),
    ),
    animal("cropped-outside.mp4", zoo.cropped(CLOSED, 56, 36, 20, 0), look=wide(75, 48)),
]

FILES = {
    "shape": SHAPES,
    "codec": CODECS,
    "container": CONTAINERS,
    "edit": EDITS,
    "count": COUNTS,
    "stamp": STAMPS,
    "key": KEYS,
    "end": ENDED,
}


def places(got: Frames, expected: Truth, positions: Sequence[int]) -> list[int | None]:
    """Which frame of the plain decode each of these is: the expected one where several are alike, None for none."""
    shown = expected.pictures(positions)
    if len(got.pixels) == 8 and all(map(np.array_equal, got.pictures, (shown[place] for place in positions))):
        return list(positions)
    everything = expected.pictures(range(expected.count))
    return [
        next((place for place, other in everything.items() if np.array_equal(picture, other)), None)
        for picture in got.pictures
    ]


def _animal(name: str) -> Animal:
    return next(each for each in chain(*FILES.values()) if each.name == name and LONG in each.frames)


def cases(animals: Sequence[Animal]) -> list[ParameterSet]:
    return [pytest.param(entry, count, id=f"{entry.name}-{count}") for entry in animals for count in entry.frames]


@pytest.mark.parametrize(("entry", "frames"), cases([entry for entries in FILES.values() for entry in entries]))
def test_the_eight_frames_of_a_plain_decode(tmp_path: Path, entry: Animal, frames: int) -> None:
    path = entry.make(tmp_path / entry.name, frames)
    expected, got = truth(path, entry.look), sample(path, entry.framing)
    assert places(got, expected, expected.positions) == expected.positions
    assert got.times_s == pytest.approx(expected.times_s(expected.positions), abs=1e-9)
    if entry.way and frames == LONG:
        assert got.clip.way == entry.way, got.clip.way_reason
    quick, full = probe(path), probe(path, is_full=True)
    assert (quick.frame_count, quick.is_rate_constant) == (full.frame_count, full.is_rate_constant)
    assert (quick.duration_s, quick.fps) == pytest.approx((full.duration_s, full.fps), abs=1e-9)
    if not entry.name.startswith(("ends-at", "counted", "begins")):
        assert (quick.faults, full.faults) == ((), ())


@pytest.mark.parametrize("entry", KEYS, ids=lambda entry: entry.name)
def test_a_part_has_the_frames_that_a_plain_decode_shows_then(tmp_path: Path, entry: Animal) -> None:
    path = entry.make(tmp_path / entry.name, LONG)
    expected = truth(path, entry.look)
    part = [place for place, time_s in enumerate(expected.times_s(range(expected.count))) if 2.0 <= time_s < 2.45]
    chosen = [part[i * len(part) // 8] for i in range(8)]
    got = sample(path, Framing(start_s=2.0, end_s=2.45))
    assert places(got, expected, chosen) == chosen
    assert got.times_s == pytest.approx(expected.times_s(chosen), abs=1e-9)


DURATIONS = {
    "b-pyramid.avi": (40.0, 10.0),
    "first-fragment-in-header-0.mp4": (40.0, 10.0),
    "dropped.avi": (40.0, 378 / 39.9),
    "ends-early.mp4": (29.5, 10.0),
    "starts-late.mp4": (37.5, 10.0),
    "slides.mp4": (390.4, 399 / 390.36),
    "slides.mkv": (390.46, 399 / 390.36),
    "slides.ts": (390.4, 399 / 390.36),
    "raw.h264": (40.0, 10.0),
    "raw.hevc": (40.0, 10.0),
    "two-in-a-row.ts": (40.0, 10.0),
    "two-in-a-row-back.ts": (40.0, 10.0),
    "two-in-a-row.mpg": (40.0, 10.0),
    "jumps-back.mkv": (40.0, 10.0),
    "sound-first.mp4": (42.0, 10.0),
}


@pytest.mark.parametrize("name", DURATIONS)
def test_the_duration_and_the_rate_are_those_of_the_presentation(tmp_path: Path, name: str) -> None:
    path = _animal(name).make(tmp_path / name, LONG)
    clip = probe(path)
    assert (clip.duration_s, clip.fps) == pytest.approx(DURATIONS[name], abs=1e-3)
    with pytest.raises(MediaError, match="is past the end of"):
        sample(path, Framing(at_s=(DURATIONS[name][0] + 0.01,)))


@pytest.mark.parametrize(("entry", "frames"), cases(DAMAGED))
def test_a_damaged_file_gives_frames_of_its_plain_decode(tmp_path: Path, entry: Animal, frames: int) -> None:
    """Decoded in full, it gives the usual eight.

    An index counts frames that can't be decoded too. What it picks must still be what a plain decode shows at these
    times, and lie no earlier than the index says, nor later than all packets before would bring it.
    """
    path = entry.make(tmp_path / entry.name, frames)
    expected, got = truth(path), sample(path, WHOLE)
    positions = expected.positions
    if got.clip.way == "seek" and got.times_s != pytest.approx(expected.times_s(positions), abs=1e-9):
        times_s = expected.times_s(range(expected.count))
        positions = [times_s.index(pytest.approx(time_s, abs=1e-9)) for time_s in got.times_s]
        stamps, picked = sorted(packet.pts for packet in zoo.packets_of(path)), pick(got.clip.frame_count)
        most = [sum(stamp < expected.stamps[position] for stamp in stamps) for position in positions]
        assert all(map(operator.le, positions, picked)), (positions, picked)
        assert all(map(operator.le, picked, most)), (picked, most)
    assert places(got, expected, positions) == positions
    assert got.times_s == pytest.approx(expected.times_s(positions), abs=1e-9)


def _heads(packet: Packet) -> Iterator[tuple[int, int]]:
    """The first two bytes of each NAL unit of a packet of an mp4 or mkv, whose lengths take four bytes each."""
    data, at = bytes(packet), 0
    while at + 5 < len(data):
        yield data[at + 4], data[at + 5]
        at += 4 + int.from_bytes(data[at : at + 4], "big")


def _units(packet: Packet) -> list[int]:
    """The types of H.264's units."""
    return [first & 31 for first, _ in _heads(packet)]


def _has_second_view(packet: Packet) -> bool:
    """Whether an HEVC packet has a NAL unit of layer 1, the number in the upper five bits of a unit's second byte."""
    return any(second >> 3 == 1 for _, second in _heads(packet))


def _keys(packets: list[Packet]) -> list[int]:
    return [number for number, packet in enumerate(packets) if packet.is_keyframe]


def _has_leading(packets: list[Packet]) -> bool:
    """Whether frames after a later key frame are shown before it."""
    return any(packets[key + 1].pts < packets[key].pts for key in _keys(packets)[1:] if key + 1 < len(packets))


def _falls(stamps: Sequence[int | None]) -> bool:
    return any(later < earlier for earlier, later in pairwise(stamps))


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What can be seen of a file without the sampler."""

    path: Path
    packets: list[Packet]
    truth: Truth

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @property
    def index_keys(self) -> int:
        with av.open(str(self.path)) as container:
            return sum(entry.is_keyframe for entry in shown_stream(container).index_entries)


ODDITIES: list[tuple[str, Callable[[Sight], object]]] = [
    ("b-pyramid.mp4", lambda it: _falls([packet.pts for packet in it.packets])),
    (
        "open.mp4",
        lambda it: _has_leading(it.packets) and all(5 not in _units(it.packets[k]) for k in _keys(it.packets)[1:]),
    ),
    ("open-many-b.mp4", lambda it: _has_leading(it.packets)),
    ("open.mkv", lambda it: _has_leading(it.packets) and len(_keys(it.packets)) > 20),
    ("intra-refresh.mp4", lambda it: sum(5 in _units(packet) for packet in it.packets) == 1 < len(_keys(it.packets))),
    ("in-band.mp4", lambda it: b"avc3" in it.data and 7 in _units(it.packets[0])),
    ("hevc-open.mp4", lambda it: {21, 8, 9} & set(_kinds(it)) >= {21, 8}),
    ("hevc-closed.mp4", lambda it: 21 not in _kinds(it) and not _has_leading(it.packets)),
    ("spatial.mov", lambda it: _kinds(it) > {1} and all(_has_second_view(packet) for packet in it.packets)),
    ("vp8-hidden.webm", lambda it: it.truth.count < LONG == len(it.packets)),
    ("vp9-superframes.webm", lambda it: any(bytes(packet)[-1] & 0xE0 == 0xC0 for packet in it.packets)),
    ("vp9-hidden.mkv", lambda it: it.truth.count == LONG < len(it.packets)),
    ("vp9-again.mkv", lambda it: it.truth.count == len(it.packets) > LONG),
    ("mpeg4.avi", lambda it: any(zoo.is_b_vop(bytes(packet)) for packet in it.packets)),
    ("mpeg4-packed.avi", lambda it: any(bytes(packet).count(b"\x00\x00\x01\xb6") == 2 for packet in it.packets)),
    ("mpeg2.ts", lambda it: it.truth.reported == 0 and _has_leading(it.packets)),
    ("rotated-270-mirrored.mp4", lambda it: it.truth.matrix[0] == 0 and it.truth.matrix[1] == it.truth.matrix[2]),
    ("second-is-default.mkv", lambda it: it.packets[0].stream_index == 1),
    ("second-is-default.mp4", lambda it: it.packets[0].stream_index == 1),
    ("subtitles-first.mkv", lambda it: it.packets[0].stream_index == 1),
    ("cover-first.mp4", lambda it: it.packets[0].stream_index == 1),
    ("two-descriptions.mov", lambda it: it.data.count(b"avc1") == 2),
    ("starts-late.mp4", lambda it: it.truth.count == 375 < len(it.packets) and it.packets[0].is_discard),
    ("starts-late-hevc.mp4", lambda it: it.truth.count == 300 < len(it.packets) and it.packets[0].is_discard),
    ("ends-early.mp4", lambda it: it.truth.count == 295),
    ("middle-left-out.mp4", lambda it: it.truth.count == 300),
    ("played-twice.mp4", lambda it: len(it.packets) != LONG),
    ("cropped.mp4", lambda it: b"clap" in it.data),
    ("cropped.mkv", lambda it: b"\x54\xbb\x82\0\4" in it.data),
    ("three-sizes-vp8.webm", lambda it: set(it.truth.sizes) == {(64, 36), (128, 72), (36, 64)}),
    ("turned-by-keys.mp4", lambda it: it.truth.matrix[0] == 0),
    (
        "turned-midway.mkv",
        lambda it: [picture.shape[:2] for picture in it.truth.pictures([0, LONG - 1]).values()] == [(48, 64), (64, 48)],
    ),
    ("variable.mkv", lambda it: {b - a for a, b in pairwise(it.truth.stamps)} == {40, 200}),
    ("none.ts", lambda it: None in {packet.pts for packet in it.packets}),
    ("doubled-rarely.mkv", lambda it: len({packet.pts for packet in it.packets}) == LONG - 1),
    ("dts-runs-back.ts", lambda it: _falls([packet.dts for packet in it.packets])),
    ("jumps-ahead.ts", lambda it: max(b - a for a, b in pairwise(it.truth.stamps)) > 400 * 90000),
    ("jumps-back.ts", lambda it: _falls(it.truth.stamps)),
    ("jumps-back.mkv", lambda it: _falls(it.truth.stamps)),
    ("wraps.ts", lambda it: it.truth.stamps[0] < 1 << 33 <= it.truth.stamps[-1] or it.truth.stamps[0] < 0),
    ("two-in-a-row.ts", lambda it: _falls(it.truth.stamps)),
    ("two-in-a-row-back.ts", lambda it: it.truth.stamps[-1] > 1 << 33),
    ("begins-without-key.mkv", lambda it: it.truth.count < LONG and not it.packets[0].is_keyframe),
    ("begins-without-key.ts", lambda it: not it.packets[0].is_keyframe),
    ("begins-open.mkv", lambda it: _has_leading(it.packets) and 5 not in _units(it.packets[0])),
    ("one-key-marked.mp4", lambda it: it.index_keys == 1 and sum(5 in _units(p) for p in it.packets) > 20),
    ("no-key-is-one.mp4", lambda it: it.index_keys == LONG and sum(5 in _units(p) for p in it.packets) < 30),
    ("in-band-hevc.mp4", lambda it: b"hev1" in it.data and 33 in _kinds(it)),
    *((f"no-key-is-one-{codec}.mp4", lambda it: it.index_keys == LONG) for codec in ("hevc", "vp9", "av1", "mpeg4")),
    *(
        (f"two-sizes{ending}", lambda it: set(it.truth.sizes) == {(64, 48), (96, 80)})
        for ending in (".ts", ".h264", ".mkv", "-vp9.mkv")
    ),
    *(
        (f"doubled.{ending}", lambda it: len({packet.pts for packet in it.packets}) < LONG)
        for ending in ("mkv", "mp4", "ts")
    ),
]


def _kinds(it: Sight) -> set[int]:
    """The types of HEVC's units."""
    return {first >> 1 & 63 for packet in it.packets for first, _ in _heads(packet)}


def _first_frame(path: Path) -> VideoFrame:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize(("name", "is_odd"), ODDITIES, ids=[name for name, _ in ODDITIES])
def test_an_odd_file_is_odd(tmp_path: Path, name: str, is_odd: Callable[[Sight], object]) -> None:
    path = _animal(name).make(tmp_path / name, LONG)
    assert is_odd(Sight(path=path, packets=zoo.packets_of(path), truth=truth(path)))
