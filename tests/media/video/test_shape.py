"""How stored frames are shown: sizes as a table, and headers that lie."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from tests.media import zoo
from vllava_cli.errors import MediaError
from vllava_cli.media.container import opened, video_stream
from vllava_cli.media.sample import sample
from vllava_cli.media.video.shape import Display, Edges, Size, display_of
from vllava_cli.nouns import Framing


@pytest.mark.parametrize(
    ("display", "stored", "shown"),
    [
        (Display(aspect=Fraction(64, 45)), (720, 576), (1024, 576)),
        (Display(aspect=Fraction(32, 27)), (720, 480), (853, 480)),
        (Display(aspect=Fraction(8, 9)), (720, 480), (720, 540)),
        (Display(aspect=Fraction(4, 3)), (1440, 1080), (1920, 1080)),
        (Display(aspect=Fraction(640, 639)), (426, 240), (426, 240)),
        (Display(aspect=Fraction(1, 16)), (3, 1), (3, 16)),
        (Display(edges=Edges(left=8, right=8, top=1)), (720, 576), (704, 575)),
        (Display(edges=Edges(left=8, right=8), aspect=Fraction(12, 11)), (720, 576), (768, 576)),
        (Display(edges=Edges(left=20, right=44)), (64, 48), (64, 48)),
        (Display(), (64, 48), (64, 48)),
    ],
)
def test_the_size_that_is_shown(display: Display, stored: Size, shown: Size) -> None:
    assert display.size(stored) == shown


@pytest.mark.parametrize(
    ("name", "make", "part"),
    [
        ("a.mp4", zoo.cropped(zoo.CLOSED, 56, 36, -2, -2), (b"moov", b"udta")),
        ("a.mkv", zoo.shown_as(zoo.CLOSED, {zoo.CROP[0]: 4}), (b"\x15\x49\xa9\x66", b"\x1f\x43\xb6\x75")),
    ],
)
def test_a_header_with_any_wrong_byte_is_read_without_an_error(
    tmp_path: Path, name: str, make: zoo.Maker, part: tuple[bytes, bytes]
) -> None:
    right, wrong = make(tmp_path / name, 2), tmp_path / "wrong"
    data = right.read_bytes()
    with opened(right) as container:
        stream = video_stream(container, right)
        assert display_of(right, container, stream) != Display()
        for at in range(data.rindex(part[0]), data.rindex(part[1])):
            for value in (0, 1, 0x7F, 0xFF):
                wrong.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
                display = display_of(wrong, container, stream)
                assert min(display.size((64, 48))) > 0
        for length in range(len(data)):
            wrong.write_bytes(data[:length])
            display_of(wrong, container, stream)


def test_a_frame_that_would_be_shown_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    zoo.encoded(zoo.replace(zoo.x264("bframes=0"), aspect=Fraction(16)), 4096, 1408)(path, 1)
    with pytest.raises(MediaError) as error:
        sample(path, Framing())
    assert str(error.value) == f"'{path}' is 65536x1408 pixels, more than 89 million. Scale it down first."
    assert sample(path, Framing(is_as_stored=True)).pixels.shape == (8, 1408, 4096, 3)
