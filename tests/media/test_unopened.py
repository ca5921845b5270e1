"""Files that aren't opened are called by their names: containers, playlists, archives, pages, text."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.clips import Encoding, write_clip
from tests.media.faults import LIST, NEITHER, message_for
from vllava_cli.media.unopened import is_text

CONTAINER = ", a container that vllava doesn't open. Convert it to mp4."
PAGE = ", not a video; maybe an error was saved in its place. Download it again."
PACKED = ". Unpack it and name the files in it."


def written(encoding: Encoding) -> bytes:
    return write_clip(Path("whole"), 3, encoding=encoding, width=176, height=144).read_bytes()


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a.mp4", b"moov")
    return data.getvalue()


def tarred() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.mp4"))
    return data.getvalue()


@pytest.mark.parametrize(
    ("codec", "container", "what"),
    [
        ("rv20", "rm", "a RealMedia file"),
        ("flv", "swf", "a Flash animation (SWF)"),
        ("mpeg2video", "wtv", "a TV recording of Windows (WTV)"),
        ("mjpeg", "mpjpeg", "a multipart motion JPEG stream"),
    ],
)
def test_a_container_that_is_not_opened(codec: str, container: str, what: str) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    Path("x.mp4").write_bytes(written(Encoding(codec=codec, container=container, fps=25, pix_fmt=pix_fmt)))
    assert message_for(Path("x.mp4")) == f"'x.mp4' is {what}{CONTAINER}"


HEADS = [
    (b"....RED2", "a Redcode raw video (R3D)" + CONTAINER),
    (b"DHAV\xfc", "a Dahua recording" + CONTAINER),
    (bytes(0x8001) + b"CD001\1", "a disc image, which vllava doesn't open. Mount it and name the video files in it."),
    (bytes(0x8001) + b"BEA01\1", "a disc image, which vllava doesn't open. Mount it and name the video files in it."),
    (b"DVDVIDEO-VTS", "a DVD's table of contents, which has no video in it. Name the .VOB files beside it."),
    (b"MPLS0200", "a Blu-ray's table of contents, which has no video in it. Name the .m2ts files."),
    (b"#EXTM3U\n#EXTINF:10,\na.ts\n", "a playlist (M3U8)" + LIST),
    (b'<?xml version="1.0"?>\n<!-- a -->\n<MPD xmlns="urn:mpeg:dash">', "a playlist (DASH)" + LIST),
    (b"<ASX version='3.0'>", "a playlist" + LIST),
    (b"ffconcat version 1.0\nfile a.mp4\n", "a playlist" + LIST),
    (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "the description of a stream (SDP)" + LIST),
    (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<title>404</title>", "an HTML page" + PAGE),
    (b"<HTML><body>Sign in", "an HTML page" + PAGE),
    (b"<?xml version='1.0'?><!DOCTYPE html PUBLIC ''><html>", "an HTML page" + PAGE),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "an XML document" + PAGE),
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "a pointer of Git LFS, not the file itself. Run git lfs pull.",
    ),
    (b"%PDF-1.7\n", "a PDF document, not a video. Save its pages as images."),
    (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive" + PACKED),
    (gzip.compress(b"moov"), "a compressed file" + PACKED),
    (b"#!AMR\n\x3c", "a sound file. Name a video or an image."),
    (bytes(5000), "all zeros where it begins: a copy or download that didn't end. Copy or download it again."),
    (b"1\n00:00:01,000 --> 00:00:02,000\nhello\n", "text, not a video or an image. Check the path."),
    ("<\u4f60\u597d>\n".encode() * 999, "text, not a video or an image. Check the path."),
    ("Dear diary".encode("utf-16"), "text, not a video or an image. Check the path."),
    (b'{"error": "not found"}', "text, not a video or an image. Check the path."),
    (zipped, "a ZIP archive" + PACKED),
    (tarred, "a tar archive" + PACKED),
]


@pytest.mark.parametrize(("data", "what"), HEADS, ids=[what[:30] for _, what in HEADS])
def test_a_file_of_another_kind(data: object, what: str) -> None:
    Path("x.mp4").write_bytes(data() if callable(data) else data)
    assert message_for(Path("x.mp4")) == f"'x.mp4' is {what}"


@pytest.mark.parametrize("data", [bytes(range(256)) * 20, b"\xff" * 99, b"\1", b"Dear diary"])
def test_a_file_that_nothing_is_known_of(data: bytes) -> None:
    Path("x.mp4").write_bytes(data)
    assert message_for(Path("x.mp4")) == NEITHER


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", False),
        (b"a\tb\r\n\x1b[0m", True),
        (b"caf\xe9 au lait, " * 3, True),
        (b"caf\xe9\0", False),
        (b"\xff\xfea\0", True),
    ],
)
def test_text(head: bytes, expected: bool) -> None:
    assert is_text(head) == expected
