from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.clips import cut, index_of, picture, write_animation, write_clip
from vllava_cli.errors import MediaError
from vllava_cli.media.images import look, read_still
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Clip, Framing


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_image(name: str, image: Image.Image | None = None, **options: object) -> Path:
    (image or Image.fromarray(picture(5))).save(name, **options)
    return Path(name)


def test_the_facts_of_an_image() -> None:
    frames = read_still(write_image("a.png"))
    assert frames.clip == Clip(
        path=Path("a.png"),
        kind="image",
        width=64,
        height=48,
        frame_count=1,
        codec="png",
        container="png",
        pixel_format="rgb",
    )
    assert frames.times_s == (0.0,)
    assert (frames.pixels == picture(5)[np.newaxis]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode: str) -> None:
    name = "a.tiff" if mode in ("CMYK", "YCbCr") else "a.png"
    path = write_image(name, Image.fromarray(picture(5)).convert(mode))
    with Image.open(path) as image:
        assert image.mode == mode or mode == "YCbCr"  # Pillow before 13 calls that RGB
        expected = np.asarray(image.convert("RGB"))
    assert (read_still(path).pixels[0] == expected).all()


def test_transparency_is_dropped() -> None:
    image = Image.fromarray(picture(5)).convert("RGBA")
    image.putalpha(0)
    assert (read_still(write_image("a.png", image)).pixels[0] == picture(5)).all()


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_sixteen_bit_grey_keeps_its_shades(name: str) -> None:
    grey = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    pixels = read_still(write_image(name, Image.fromarray(grey))).pixels[0]
    assert np.abs(pixels[..., 0].astype(int) - grey / 257).max() < 1
    assert (pixels[..., 1] == pixels[..., 0]).all() and (pixels[..., 2] == pixels[..., 0]).all()


def test_big_endian_sixteen_bit_grey() -> None:
    grey = np.arange(64 * 48, dtype=">u2").reshape(48, 64) * 21
    Path("a.tiff").write_bytes(_big_endian_tiff(grey))
    assert np.abs(read_still(Path("a.tiff")).pixels[0, ..., 0].astype(int) - grey / 257).max() < 1


def _big_endian_tiff(grey: np.ndarray) -> bytes:
    height, width = grey.shape
    entries = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags = [tag.to_bytes(2) + (3).to_bytes(2) + (1).to_bytes(4) + value.to_bytes(2) + b"\0\0" for tag, value in entries]
    tags.append((279).to_bytes(2) + (4).to_bytes(2) + (1).to_bytes(4) + grey.nbytes.to_bytes(4))
    data = grey.astype(">u2").tobytes()
    header = b"MM\0*" + (8 + len(data)).to_bytes(4)
    return header + data + len(tags).to_bytes(2) + b"".join(tags) + bytes(4)


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_is_applied(value: int, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    with Image.open(write_image("expected.png", exif=exif)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    frames = read_still(write_image(name, exif=exif))
    assert (frames.pixels[0] == expected).all()
    assert (frames.clip.width, frames.clip.height) == ((64, 48) if value < 5 else (48, 64))
    if value in (1, 3, 6, 8):
        assert frames.clip.rotation == {1: 0, 3: 180, 6: 90, 8: 270}[value]


def test_a_damaged_exif_block_is_passed_over() -> None:
    path = write_image("a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert index_of(read_still(path).pixels[0]) == 5


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.webp", "animation"), ("a.avif", "animation"), ("a.gif", "video"), ("a.png", "video")],
)
@pytest.mark.parametrize("frames", [1, 2])
def test_what_moves_is_told_by_the_content(name: str, kind: str, frames: int) -> None:
    assert look(write_animation(Path(name), frames)) == (kind if frames > 1 else "still")
    renamed = Path(name).rename("a.mp4")
    assert look(renamed) == (kind if frames > 1 else "still")


def test_a_video_named_like_an_image_is_a_video() -> None:
    assert look(write_clip(Path("a.mp4"), 3).rename("a.jpg")) == "video"


def test_of_a_tiff_with_several_pages_the_first_is_used() -> None:
    pages = [Image.fromarray(picture(index)) for index in (5, 6, 7)]
    pages[0].save("a.tiff", save_all=True, append_images=pages[1:])
    frames = sample(Path("a.tiff"), Framing())
    assert index_of(frames.pixels[0]) == 5
    assert frames.clip.faults == ("Only the first of the 3 pages of 'a.tiff' is used.",)


def test_of_a_photo_with_a_second_picture_the_first_is_used() -> None:
    pages = [Image.fromarray(picture(index)) for index in (5, 6)]
    pages[0].save("a.jpg", format="MPO", save_all=True, append_images=pages[1:], quality=95)
    frames = sample(Path("a.jpg"), Framing())
    assert (frames.kind, index_of(frames.pixels[0])) == ("image", 5)
    assert frames.clip.faults == ()


def message_for(path: Path) -> str:
    with pytest.raises(MediaError) as error:
        sample(path, Framing())
    return str(error.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tiff", "a.webp"])
def test_a_truncated_image(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    message = message_for(cut(write_image(name, Image.fromarray(noise)), 0.5, f"b-{name}"))
    assert message == f"'b-{name}' is a truncated or damaged image. Copy or download it again."


def test_an_image_that_would_fill_the_memory() -> None:
    for side, size in ((10_000, "10000x10000 pixels, more than 89 million"), (20_000, "larger than 89 million pixels")):
        header = b"P6\n%d %d\n255\n" % (side, side)
        Path("a.ppm").write_bytes(header + bytes(100))
        assert message_for(Path("a.ppm")) == f"'a.ppm' is {size}. Scale it down first."


@pytest.mark.parametrize("text", ["%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "<svg xmlns='x'/>", "GIF"])
def test_formats_that_would_start_other_programs_are_not_opened(text: str) -> None:
    Path("a.png").write_text(text)
    assert message_for(Path("a.png")) == (
        "'a.png' is neither a video nor an image that can be read. Check the file or convert it to mp4."
    )
