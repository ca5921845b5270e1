from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vllava_cli.media.pictures import Orientation, orientation_of, over, upright
from vllava_cli.media.sample import probe, sample
from vllava_cli.nouns import Framing

LETTERS = np.arange(1 * 2 * 3 * 3, dtype=np.uint8).reshape(1, 2, 3, 3)


def matrix(a: float, b: float, c: float, d: float) -> bytes:
    return struct.pack("=9i", *(round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0, 16384)))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (None, Orientation()),
        (b"short", Orientation()),
        (matrix(0, 0, 0, 0), Orientation()),
        (matrix(1, 0, 0, 1), Orientation()),
        (matrix(0, 1, -1, 0), Orientation(rotation=90)),
        (matrix(-1, 0, 0, -1), Orientation(rotation=180)),
        (matrix(0, -1, 1, 0), Orientation(rotation=270)),
        (matrix(0.01, 0.99, -0.99, 0.01), Orientation(rotation=90)),
        (matrix(-1, 0, 0, 1), Orientation(is_mirrored=True)),
        (matrix(1, 0, 0, -1), Orientation(is_mirrored=True, rotation=180)),
        (matrix(0, 1, 1, 0), Orientation(is_mirrored=True, rotation=270)),
        (matrix(0, -1, -1, 0), Orientation(is_mirrored=True, rotation=90)),
    ],
)
def test_what_a_display_matrix_says(stored: bytes | None, expected: Orientation) -> None:
    assert orientation_of(stored) == expected


@pytest.mark.parametrize("quarters", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
@pytest.mark.parametrize("flip", [1, -1])
def test_every_pixel_goes_where_the_matrix_sends_it(quarters: tuple[int, int, int, int], flip: int) -> None:
    a, b, c, d = quarters[0] * flip, quarters[1] * flip, quarters[2], quarters[3]
    sent = {(a * x + c * y, b * x + d * y): LETTERS[0, y, x] for y in range(2) for x in range(3)}
    left, top = min(x for x, _ in sent), min(y for _, y in sent)
    turned = upright(LETTERS, orientation_of(matrix(a, b, c, d)))
    assert turned.shape == ((1, 2, 3, 3) if b == 0 else (1, 3, 2, 3))
    assert all((turned[0, y - top, x - left] == pixel).all() for (x, y), pixel in sent.items())


def test_a_picture_over_a_background() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (600, 3, 4), dtype=np.uint8)
    share = colours[..., 3:] / 255
    expected = colours[..., :3] * share + np.array([255, 128, 0]) * (1 - share)
    assert np.abs(over(colours, "#ff8000") - expected).max() <= 0.501
    colours[..., 3] = 255
    assert (over(colours, "#ff8000") == colours[..., :3]).all()


_GLASS = {
    "libvpx": {"auto-alt-ref": "0", "b": "9M", "g": "8"},
    "libvpx-vp9": {"lossless": "1", "g": "8"},
}
"""Options of encoders, with which they keep transparency and colours."""


def write_glass(
    path: Path, codec: str, pixel_format: str, levels: tuple[int, int, int], *, frames: int = 9, fade: int = 0
) -> Path:
    """Frames of three bands of red, each with its alpha, which is `fade` less in every further frame."""
    pixels = np.zeros((48, 64, 4), np.uint8)
    for band, level in enumerate(levels):
        pixels[16 * band : 16 * band + 16] = (200, 50, 20, level)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=_GLASS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
            pixels[..., 3] -= fade
        container.mux(stream.encode())
    return path


def bands(path: Path, background: str = "#ffffff") -> list[list[int]]:
    return sample(path, Framing(background=background)).pixels[4, 8::16, 30].tolist()


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("ffv1.mkv", "ffv1", "bgra"),
        ("animation.mov", "qtrle", "argb"),
        ("prores.mov", "prores_ks", "yuva444p10le"),
        ("png.mov", "png", "rgba"),
        ("raw.avi", "rawvideo", "bgra"),
        ("a.apng", "apng", "rgba"),
        ("vp8.webm", "libvpx", "yuva420p"),
        ("vp9.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_a_transparent_video_lies_on_a_background(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    path = write_glass(tmp_path / name, codec, pixel_format, (255, 128, 0))
    red, on_white, on_blue = [200, 50, 20], [227, 152, 137], [100, 25, 137]
    assert np.abs(np.array(bands(path)) - [red, on_white, [255, 255, 255]]).max() <= 2
    assert np.abs(np.array(bands(path, "#0000ff")) - [red, on_blue, [0, 0, 255]]).max() <= 2


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_frames_of_a_transparent_webm_are_sought(tmp_path: Path, codec: str) -> None:
    path = write_glass(tmp_path / "long.webm", codec, "yuva420p", (255, 255, 255), frames=80, fade=3)
    got, full = sample(path, Framing(background="#000000")), probe(path, is_full=True)
    expected = [200 * (255 - 3 * index) / 255 for index in range(0, 80, 10)]
    assert got.clip.way == "seek"
    assert np.abs(got.pixels[:, 24, 30, 0] - expected).max() <= 2
    assert (got.clip.pixel_format, full.pixel_format) == ("yuva420p", "yuva420p")


@pytest.mark.parametrize(("name", "codec"), [("raw.avi", "rawvideo"), ("huff.avi", "huffyuv")])
def test_a_fourth_byte_that_only_fills_is_no_transparency(tmp_path: Path, name: str, codec: str) -> None:
    assert bands(write_glass(tmp_path / name, codec, "bgra", (0, 0, 0))) == [[200, 50, 20]] * 3


def test_a_moving_gif_lies_on_a_background(tmp_path: Path) -> None:
    picture = np.zeros((48, 64), np.uint8)
    picture[:16] = 1
    frames = []
    for shade in (1, 2):
        frame = Image.fromarray(picture * shade, "P")
        frame.putpalette([0, 0, 0, 200, 50, 20, 20, 50, 200])
        frames.append(frame)
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:] * 8, duration=100, transparency=0, disposal=2)
    assert bands(path)[1:] == [[255, 255, 255]] * 2
    assert bands(path, "#0000ff") == [[20, 50, 200], [0, 0, 255], [0, 0, 255]]
