from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest

from tests.clips import H264, MJPEG, VP9, Encoding, write_clip
from vllava_cli.media.video.bitstream import Bitstream, Start

B_FRAMES = Encoding(options={"g": "12", "bf": "3", "x264-params": "scenecut=0:b-adapt=0"})
OPEN_H264 = Encoding(options={"g": "6", "bf": "3", "x264-params": "open-gop=1:scenecut=0"})
REFRESHED = Encoding(options={"g": "12", "x264-params": "intra-refresh=1:scenecut=0"})
HEVC = Encoding(codec="libx265", options={"g": "8", "bf": "3", "x265-params": "log-level=none:scenecut=0"})
VP8 = Encoding(codec="libvpx", options={"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "16"})
HIDDEN_VP9 = replace(VP9, options={"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"})
AV1 = Encoding(codec="libsvtav1", options={"preset": "12", "g": "8", "svtav1-params": "lp=1"})
MPEG2 = Encoding(codec="mpeg2video", fps=25, options={"g": "6", "bf": "2", "sc_threshold": "1000000000"})
MPEG4 = Encoding(codec="mpeg4", options={"g": "6", "bf": "2"})


def packets(path: Path) -> Iterator[tuple[Bitstream, av.Packet]]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        bitstream = Bitstream.of(stream.codec_context.name, stream.codec_context.extradata)
        for packet in container.demux(stream):
            if packet.size:
                yield bitstream, packet


@pytest.mark.parametrize(
    ("name", "encoding", "starts"),
    [
        ("a.mp4", H264, ["clean"]),
        ("a.ts", H264, ["clean"]),
        ("a.mp4", OPEN_H264, ["clean", "open"]),
        ("a.ts", OPEN_H264, ["clean", "open"]),
        ("a.mp4", REFRESHED, ["clean", "none"]),
        ("a.mkv", HEVC, ["clean"]),
        ("a.ts", HEVC, ["clean"]),
        ("a.webm", VP8, ["clean"]),
        ("a.webm", HIDDEN_VP9, ["clean"]),
        ("a.mp4", AV1, ["clean"]),
        ("a.mpg", MPEG2, ["clean"]),
        ("a.avi", MPEG4, ["open"]),
        ("a.avi", MJPEG, ["clean"]),
    ],
)
def test_where_decoding_may_start(tmp_path: Path, name: str, encoding: Encoding, starts: list[Start]) -> None:
    path = write_clip(tmp_path / name, 40, encoding=encoding)
    found = [bitstream.start(memoryview(packet)) for bitstream, packet in packets(path) if packet.is_keyframe]
    assert sorted(set(found)) == sorted(starts)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("a.mp4", H264), ("a.mp4", OPEN_H264), ("a.mkv", HEVC), ("a.webm", HIDDEN_VP9), ("a.mp4", AV1)],
)
def test_a_frame_between_key_frames_is_no_start(tmp_path: Path, name: str, encoding: Encoding) -> None:
    path = write_clip(tmp_path / name, 40, encoding=encoding)
    between = [bitstream.start(memoryview(packet)) for bitstream, packet in packets(path) if not packet.is_keyframe]
    assert set(between) == {"none"}


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("a.mp4", B_FRAMES),
        ("a.ts", B_FRAMES),
        ("a.mkv", HEVC),
        ("a.ts", HEVC),
        ("a.mpg", MPEG2),
        ("a.avi", MPEG4),
        ("a.mp4", replace(H264, options={"bf": "0", "g": "12"})),
    ],
)
def test_only_frames_that_no_other_refers_to_are_droppable(tmp_path: Path, name: str, encoding: Encoding) -> None:
    path = write_clip(tmp_path / name, 40, encoding=encoding)
    kept = av.CodecContext.create(encoding.codec.replace("libx264", "h264").replace("libx265", "hevc"), "r")
    whole = {}
    with av.open(path) as container:
        kept.extradata = container.streams.video[0].codec_context.extradata
        for packet in container.demux(video=0):
            whole |= {frame.pts: frame.to_ndarray(format="rgb24") for frame in packet.decode()}
    dropped, shown = 0, {}
    for bitstream, packet in packets(path):
        if bitstream.is_droppable(memoryview(packet)):
            dropped += 1
        else:
            shown |= {frame.pts: frame.to_ndarray(format="rgb24") for frame in kept.decode(packet)}
    shown |= {frame.pts: frame.to_ndarray(format="rgb24") for frame in kept.decode(None)}
    assert len(shown) == 40 - dropped
    assert all((pixels == whole[stamp]).all() for stamp, pixels in shown.items())
    assert (dropped > 0) == (encoding.options.get("bf") != "0")


@pytest.mark.parametrize("encoding", [VP8, VP9, HIDDEN_VP9])
def test_each_packet_with_a_shown_frame_is_shown(tmp_path: Path, encoding: Encoding) -> None:
    path = write_clip(tmp_path / "a.webm", 40, encoding=encoding)
    assert [bitstream.is_shown(memoryview(packet)) for bitstream, packet in packets(path)] == [True] * 40


def test_hidden_frames_are_told_from_shown_ones(tmp_path: Path) -> None:
    vp8 = [bytes(packet) for _, packet in packets(write_clip(tmp_path / "a.webm", 9, encoding=VP8))]
    hidden = [bytes([packet[0] & ~16]) + packet[1:] for packet in vp8]
    assert [Bitstream.of("vp8", None).is_shown(memoryview(packet)) for packet in hidden] == [False] * 9
    # frame marker 2, profile 0, no existing frame, inter frame; shown, then hidden
    assert Bitstream.of("vp9", None).is_shown(memoryview(b"\x86\0"))
    assert not Bitstream.of("vp9", None).is_shown(memoryview(b"\x84\0"))


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp8", "vp9", "av1", "mpeg2video", "mpeg4", "mjpeg"])
@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 9, b"\0\0\1", b"\0\0\1\xb6", b"\0\0\0\xff\x65", bytes(40)])
def test_any_bytes_are_judged_without_an_error(codec: str, content: bytes) -> None:
    for extradata in (None, b"\1", b"\1" + bytes(30), b"\1" + b"\xff" * 30):
        bitstream = Bitstream.of(codec, extradata)
        assert bitstream.start(memoryview(content)) in ("clean", "open", "none")
        assert bitstream.is_shown(memoryview(content)) in (True, False)
        assert bitstream.is_droppable(memoryview(content)) in (True, False)


@pytest.mark.parametrize(
    ("message", "start"),
    [("06 06 01 c4 80", "open"), ("06 06 01 50 80", "none"), ("06 05 02 00 00 06 01 c4 80", "open"), ("06 06", "none")],
)
def test_a_recovery_point_counts_when_nothing_is_left_to_recover(message: str, start: Start) -> None:
    packet = b"\0\0\0\1" + bytes.fromhex(message) + b"\0\0\1\x41\x9a\0\0\0"
    assert Bitstream.of("h264", b"").start(memoryview(packet)) == start
