from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.clips import FFV1, Encoding, cut, index_of, picture, write_clip, write_sound, write_two_videos
from tests.media.faults import LIST, NEITHER, TEXT, message_for
from tests.media.zoo import remuxed, spread, x264
from vllava_cli.errors import MediaError
from vllava_cli.media.container import opened, video_stream
from vllava_cli.media.file_check import check_file
from vllava_cli.media.sample import header, sample
from vllava_cli.nouns import Framing

WHOLE = "whole.mp4"


def make_socket() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("x.mp4")


def make_loop() -> None:
    Path("x.mp4").symlink_to("x.mp4")


def naming_another(text: str) -> None:
    write_clip(Path(WHOLE))
    Path("x.mp4").write_text(text)


def segmented() -> tuple[bytes, bytes]:
    """Returns the beginning of a segmented stream, and its segments."""
    whole = write_clip(Path(WHOLE), encoding=Encoding(muxer_options={"movflags": "frag_keyframe+empty_moov"}))
    data = whole.read_bytes()
    at = data.index(b"moof") - 4
    return data[:at], data[at:]


def encrypted() -> None:
    key = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    write_clip(Path("x.mp4"), encoding=Encoding(muxer_options={"encryption_scheme": "cenc-aes-ctr", **key}))


M3U8 = "'x.mp4' is a playlist (M3U8)" + LIST
DAMAGED = "'x.mp4' is truncated or damaged: nothing in it can be decoded. Copy or download it again."
SILENT = "'x.mp4' has sound but no video. Name a video or an image."


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "There is no file 'x.mp4'. Check the path."),
        (lambda: Path("x.mp4").symlink_to("gone.mp4"), "There is no file 'x.mp4'. Check the path."),
        (lambda: Path("x.mp4").mkdir(), "'x.mp4' is a folder. Name the video or image files in it."),
        (lambda: Path("x.mp4").touch(), "'x.mp4' is empty (0 bytes). Copy or download it again."),
        (lambda: os.mkfifo("x.mp4"), "'x.mp4' is a named pipe, not a regular file. Save it to a file first."),
        (
            lambda: socket.socket(socket.AF_UNIX).bind("x.mp4"),
            "'x.mp4' is a socket, not a regular file. Save it to a file first.",
        ),
        (
            lambda: Path("x.mp4").symlink_to("x.mp4"),
            "'x.mp4' can't be read: too many levels of symbolic links. Check the path.",
        ),
        (lambda: Path("x.mp4").write_text("Dear diary, today…\n" * 100), TEXT),
        (lambda: Path("x.mp4").write_bytes(b"x"), NEITHER),
        (lambda: Path("x.mp4").write_bytes(bytes(range(256)) * 20), NEITHER),
        (
            lambda: naming_another(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{WHOLE}\n#EXT-X-ENDLIST\n"),
            M3U8,
        ),
        (lambda: naming_another(f"ffconcat version 1.0\nfile {WHOLE}\n"), "'x.mp4' is a playlist" + LIST),
        (lambda: Path("x.mp4").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 20), TEXT),
        (lambda: cut(write_clip(Path("whole.mp4")), 0.5, "x.mp4"), DAMAGED),
        (lambda: cut(write_clip(Path("whole.mkv")), 0.02, "x.mp4"), DAMAGED),
        (lambda: Path("x.mp4").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), DAMAGED),
        (lambda: write_sound(Path("x.mp4")), SILENT),
        (
            lambda: Path("x.mp4").write_bytes(segmented()[0]),
            "'x.mp4' is the beginning of a segmented stream: join it with its segments.",
        ),
        (
            lambda: Path("x.mp4").write_bytes(segmented()[1]),
            "'x.mp4' is a later part of a segmented stream: put the stream's beginning before it.",
        ),
        (encrypted, "'x.mp4' is encrypted: nothing in it can be shown. Name a copy that isn't."),
    ],
)
def test_a_file_that_cannot_be_used(make: Callable[[], object], message: str) -> None:
    make()
    assert message_for(Path("x.mp4")) == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/dev/null", "'/dev/null' is a device, not a regular file. Save it to a file first."),
        ("a.mp4/b.mp4", "There is no file 'a.mp4/b.mp4'. Check the path."),
        ("http://127.0.0.1:9/a.mp4", "There is no file 'http:/127.0.0.1:9/a.mp4'. Check the path."),
        (os.fsdecode(b"caf\xe9.mp4"), "There is no file 'caf\N{REPLACEMENT CHARACTER}.mp4'. Check the path."),
    ],
)
def test_a_name_that_no_file_has(name: str, message: str) -> None:
    Path("a.mp4").touch()
    assert message_for(Path(name)) == message


def test_a_name_that_no_file_can_have() -> None:
    told = message_for(Path("a\0.mp4"))  # Python 3.13 has words of its own for it
    assert re.fullmatch(r"'a\0\.mp4' can't be read: .*embedded null (byte|character).*\. Check the path\.", told)


@pytest.mark.parametrize(("name", "codec"), [("wav", "pcm_s16le"), ("mp3", "mp3"), ("flac", "flac")])
def test_sound_files(name: str, codec: str) -> None:
    write_sound(Path(f"whole.{name}"), codec=codec).rename("x.mp4")
    assert message_for(Path("x.mp4")) == SILENT


def test_cover_art_is_not_a_video() -> None:
    Image.fromarray(picture(0)).save("cover.jpg")
    write_sound(Path("x.mp4"), cover=Path("cover.jpg"))
    assert message_for(Path("x.mp4")) == SILENT


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A folder that anyone may enter, and a process that isn't root while the test runs: root may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if is_root:
                os.seteuid(0)


def test_a_file_that_may_not_be_read(stranger: Path) -> None:
    path = stranger / "x.mp4"
    os.seteuid(os.getuid())
    path.write_bytes(b"secret")
    path.chmod(0)
    os.seteuid(65534 if os.getuid() == 0 else os.getuid())
    with pytest.raises(MediaError) as error:
        check_file(path)
    assert str(error.value) == (
        f"'{path}' can't be read: permission denied. Run chmod or choose a file that you may read."
    )


def test_errors_in_the_body_of_opened_name_the_file() -> None:
    write_clip(Path("x.mp4"), 3)
    for fault in (IndexError("list index out of range"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), OSError()):
        with pytest.raises(MediaError) as error, opened(Path("x.mp4")):
            raise fault
        assert str(error.value) == DAMAGED
        assert error.value.__cause__ is fault


def test_metadata_that_is_not_utf8() -> None:
    data = write_clip(Path("x.mkv"), 3).read_bytes()
    assert b"Lavf" in data
    Path("x.mkv").write_bytes(data.replace(b"Lavf", b"\xff\xfe\xfdf"))
    assert sample(Path("x.mkv"), Framing()).clip.frame_count == 3


def test_a_codec_without_a_decoder() -> None:
    data = write_clip(Path("x.mkv"), 3, encoding=FFV1).read_bytes()
    Path("x.mkv").write_bytes(data.replace(b"V_FFV1", b"V_NONE"))
    assert message_for(Path("x.mkv")) == ("'x.mkv' has a codec that can't be decoded here. Convert it to mp4 (H.264).")


def test_a_screen_recording_in_a_flash_video_is_refused_before_its_decoder_opens() -> None:
    path = write_clip(Path("x.flv"), 3, encoding=Encoding(codec="flashsv", pix_fmt="bgr24"))
    told = "'x.flv' is a Flash video coded in flashsv, which vllava doesn't open. Convert it to mp4 (H.264)."
    assert message_for(path) == told
    with pytest.raises(MediaError, match=re.escape(told)):
        header(path)
    with opened(path) as container:
        assert container.streams.video[0].codec_context.pix_fmt is None


def test_colours_that_nothing_here_can_convert() -> None:
    make = remuxed(
        x264("bframes=0"), spread, first="plain.h264", filters="h264_metadata=matrix_coefficients=8"
    )  # YCgCo
    make(Path("x.mkv"), 3)
    assert message_for(Path("x.mkv")) == (
        "'x.mkv' has colours coded in a way that nothing here can convert. Convert them to BT.709 first."
    )


def test_a_video_too_large_to_decode() -> None:
    Path("x.y4m").write_bytes(b"YUV4MPEG2 W16384 H8704 F25:1 Ip A1:1 C420\nFRAME\n" + bytes(10_000))
    assert message_for(Path("x.y4m")) == "'x.y4m' is 16384x8704 pixels, more than 89 million. Scale it down first."


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_video_of_several_is_taken(default: int) -> None:
    write_two_videos(Path("x.mkv"), default=default)
    with opened(Path("x.mkv")) as container:
        assert video_stream(container, Path("x.mkv")).index == default
    assert [index_of(frame) for frame in sample(Path("x.mkv"), Framing()).pixels] == [
        default * 8 + index for index in range(8)
    ]
