from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.clips import (
    APNG,
    GIF,
    H264,
    MJPEG,
    MPEG4,
    VP9,
    Encoding,
    cut,
    picture,
    write_animation,
    write_clip,
    write_sound,
)
from vllava_cli.errors import MediaError
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.sample import header, sample
from vllava_cli.nouns import Clip, Framing

WHOLE = Framing()
JPEG2000 = Encoding(codec="jpeg2000", pix_fmt="rgb24")


@pytest.fixture(scope="module")
def guard() -> Iterator[DecoderClient]:
    with DecoderClient() as guard:
        yield guard


def video(name: str, **facts: Any) -> Clip:
    """A clip of 24 frames as `write_clip` makes it; `facts` are those that differ."""
    plain = Clip(path=Path(name), kind="video", width=64, height=48, frame_count=24, duration_s=2.4, fps=10.0)
    return replace(plain, **{"codec": "h264", "container": Path(name).suffix[1:], **facts})


CLIPS: dict[str, tuple[Callable[[], Path], Clip]] = {
    "h264": (lambda: write_clip(Path("a.mp4")), video("a.mp4")),
    "turned": (lambda: write_clip(Path("a.mov"), encoding=replace(H264, rotation=90)), video("a.mov")),
    "not counted": (
        lambda: write_clip(Path("a.mkv")),
        video("a.mkv", container="matroska", frame_count=0),
    ),
    "transport stream": (lambda: write_clip(Path("a.ts")), video("a.ts", container="mpegts", frame_count=0)),
    "vp9": (lambda: write_clip(Path("a.webm"), encoding=VP9), video("a.webm", codec="vp9", frame_count=0)),
    "size in the frames alone": (
        lambda: write_clip(Path("a.mp4"), encoding=MPEG4),
        video("a.mp4", codec="mpeg4", pixel_format="yuv420p"),
    ),
    "gif": (lambda: write_clip(Path("a.gif"), encoding=GIF), video("a.gif", codec="gif")),
    "apng": (
        lambda: write_clip(Path("a.png"), encoding=APNG),
        video("a.png", codec="apng", container="apng", duration_s=None, frame_count=0),
    ),
    "no length": (
        lambda: write_clip(Path("a.h264"), encoding=replace(H264, container="h264")),
        video("a.h264", duration_s=None, frame_count=0),
    ),
    "animation": (
        lambda: write_animation(Path("a.webp")),
        video("a.webp", codec="webp", duration_s=None, fps=None, frame_count=12, pixel_format="rgba"),
    ),
}


@pytest.mark.parametrize("name", CLIPS)
def test_what_the_header_of_a_video_promises(name: str) -> None:
    make, expected = CLIPS[name]
    found = header(make())
    assert replace(found, pixel_format=expected.pixel_format) == expected
    assert expected.pixel_format in ("", found.pixel_format)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.bmp", "a.gif", "a.avif", "a.ppm"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_the_header_of_an_image_tells_all_that_decoding_tells(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(5)).save(name, **({} if name in ("a.gif", "a.ppm", "a.bmp") else {"exif": exif}))
    assert header(Path(name)) == sample(Path(name), WHOLE).clip


def test_the_header_of_a_folder_is_that_of_its_first_picture_a_second_each(guard: DecoderClient) -> None:
    Path("frames").mkdir()
    for number in (10, 9, 11):
        Image.fromarray(picture(number)).save(f"frames/{number}.png")
    expected = sample(Path("frames"), WHOLE).clip
    assert (expected.kind, expected.frame_count, expected.duration_s) == ("video", 3, 3.0)
    for found in (header(Path("frames")), guard.header(Path("frames"))):
        assert replace(found, way=expected.way, way_reason=expected.way_reason) == expected
    Path("empty").mkdir()
    with pytest.raises(MediaError, match=r"'empty' is a folder\. Name the video"):
        header(Path("empty"))


def test_nothing_is_decoded() -> None:
    path = write_clip(Path("a.mp4"))
    expected = header(path)
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + bytes(data.index(b"moov") - 4 - start) + data[data.index(b"moov") - 4 :])
    with pytest.raises(MediaError):
        sample(path, WHOLE)
    assert header(path) == expected


def test_an_image_that_breaks_off_behind_its_header() -> None:
    Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save("whole.png")
    found = header(cut(Path("whole.png"), 0.5, "a.png"))
    assert (found.kind, found.width, found.height) == ("image", 640, 480)


FAULTY: dict[str, Callable[[], object]] = {
    "missing": lambda: None,
    "pipe": lambda: os.mkfifo("x.mp4"),
    "device": lambda: Path("x.mp4").symlink_to("/dev/zero"),
    "empty": lambda: Path("x.mp4").touch(),
    "text": lambda: Path("x.mp4").write_text("Dear diary"),
    "playlist": lambda: Path("x.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n"),
    "truncated": lambda: cut(write_clip(Path("whole.mp4")), 0.5, "x.mp4"),
    "a truncated image": lambda: (Image.new("RGB", (64, 48)).save("a.jpg"), cut(Path("a.jpg"), 0.02, "x.mp4")),
    "too large": lambda: Path("x.mp4").write_bytes(b"P6 100000 100000 255\n" + bytes(100)),
    "sound": lambda: write_sound(Path("x.mp4")),
    "below a file": lambda: Path("x.mp4").symlink_to("a.txt/x.mp4"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_the_errors_are_those_of_sample(guard: DecoderClient, name: str) -> None:
    FAULTY[name]()
    messages = []
    for call in (lambda path: sample(path, WHOLE), lambda path: guard.sample(path, WHOLE), header, guard.header):
        with pytest.raises(MediaError) as caught:
            call(Path("x.mp4"))
        messages.append(str(caught.value))
    assert messages == messages[:1] * 4


def test_the_guard_tells_the_same(guard: DecoderClient) -> None:
    for make, _ in CLIPS.values():
        path = make()
        assert guard.header(path) == header(path)


def test_a_size_that_nothing_tells_is_zero(guard: DecoderClient) -> None:
    """The tables of a transport stream name an H.264 video, of which nothing but a beginning is there."""
    data = write_clip(Path("whole.ts")).read_bytes()
    Path("a.ts").write_bytes(data[: 188 * 4])
    found = guard.header(Path("a.ts"))
    assert (found.codec, found.width, found.height) == ("h264", 0, 0)
    with pytest.raises(MediaError):
        sample(Path("a.ts"), WHOLE)


def test_a_wrong_size_in_the_header_refuses_no_file_that_has_frames() -> None:
    path = write_clip(Path("a.mov"), encoding=JPEG2000)
    data = path.read_bytes()
    size = data.index(b"mjp2") + 28
    assert data[size : size + 4] == (64).to_bytes(2) + (48).to_bytes(2)
    path.write_bytes(data[:size] + (30_000).to_bytes(2) * 2 + data[size + 4 :])
    assert len(sample(path, WHOLE).pixels) == 8
    assert header(path) == video("a.mov", codec="jpeg2000", pixel_format="rgb24")


def test_a_width_below_zero_in_the_header_is_that_of_the_frames(guard: DecoderClient) -> None:
    path = write_clip(Path("a.avi"), encoding=MJPEG)
    data = path.read_bytes()
    at = data.index(b"strf") + 12
    path.write_bytes(data[:at] + (-64).to_bytes(4, "little", signed=True) + data[at + 4 :])
    assert len(guard.sample(path, WHOLE).pixels) == 8
    assert guard.header(path).width == 64
