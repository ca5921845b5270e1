from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from tests.clips import cut, index_of, picture, write_animation, write_clip
from vllava_cli.errors import MediaError
from vllava_cli.media import images
from vllava_cli.media.images import look, natural, read_folder, read_still
from vllava_cli.media.sample import header, probe, sample
from vllava_cli.nouns import Clip, Framing


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
    image = Image.fromarray(picture(5)).convert(mode)
    path = write_image(name, image)
    with Image.open(path) as image:
        assert image.mode == mode or mode == "YCbCr"  # Pillow before 13 calls that RGB
        expected = np.asarray(image.convert("RGB"))
    assert (read_still(path).pixels[0] == expected).all()


@pytest.mark.parametrize(("name", "dtype"), [("a.png", "<u2"), ("a.tiff", "<u2"), ("a.tiff", ">u2"), ("a.pgm", "<u2")])
def test_sixteen_bit_grey_keeps_its_shades(name: str, dtype: str) -> None:
    grey = (np.arange(64 * 48).reshape(48, 64) * 21).astype(dtype)
    pixels = read_still(write_image(name, Image.fromarray(grey))).pixels[0]
    assert np.abs(pixels[..., 0].astype(int) - grey / 257).max() < 1
    assert (pixels[..., 1] == pixels[..., 0]).all() and (pixels[..., 2] == pixels[..., 0]).all()


@pytest.mark.parametrize(
    ("values", "shades"),
    [
        (np.float32([[0, 0.25, 1, np.nan]]), [0, 63, 255, 0]),
        (np.float32([[0, 64, 200.5, 255]]), [0, 64, 200, 255]),
        (np.float32([[-1000, 0, 1000, 3000]]), [0, 64, 128, 255]),
        (np.float32([[7, 7, 7, 7]]), [7, 7, 7, 7]),
        (np.float32([[7000, 7000, 7000, 7000]]), [0, 0, 0, 0]),
        (np.int32([[0, 1 << 20, 1 << 21, 1 << 22]]), [0, 64, 128, 255]),
        (np.int32([[0, 1, 128, 255]]), [0, 1, 128, 255]),
    ],
)
def test_fractions_and_large_numbers_are_seen(values: np.ndarray, shades: list[int]) -> None:
    path = write_image("a.tiff", Image.fromarray(values))
    assert read_still(path).pixels[0, 0].tolist() == [[shade] * 3 for shade in shades]


def test_where_zero_is_white_sixteen_bits_are_turned_round() -> None:
    grey = Image.fromarray(np.uint16([[0, 32768, 65535]]))
    path = write_image("a.tiff", grey, tiffinfo={262: 0})
    assert read_still(path).pixels[0, 0, :, 0].tolist() == [255, 127, 0]


# --- transparency


def glass(*, levels: tuple[int, ...] = (255, 128, 0)) -> Image.Image:
    """[16, 48]: red that is opaque, half transparent and not there, over a hidden black."""
    pixels = np.zeros((16, 48, 4), np.uint8)
    for place, level in enumerate(levels):
        pixels[:, 16 * place : 16 * place + 16] = (200 * (level > 0), 0, 0, level)
    return Image.fromarray(pixels)


RED, PINK, NOTHING = [200, 0, 0], [227, 127, 127], [255, 255, 255]
"""PINK is 200 * 128 / 255 + 255 * 127 / 255, and 255 * 127 / 255."""


def seen(path: Path, background: str = "#ffffff") -> list[list[int]]:
    """The colours of the three parts of the first frame."""
    return sample(path, Framing(background=background)).pixels[0, 8, 8::16].tolist()


def near(found: list[list[int]], expected: list[list[int]], most: int = 3) -> bool:
    return np.abs(np.array(found) - expected).max() <= most


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tiff", "a.avif", "a.jp2"])
def test_a_transparent_image_lies_on_white_or_what_is_asked_for(name: str) -> None:
    path = write_image(name, glass(), lossless=True, quality=100)
    if name == "a.jp2":
        glass().save(name, irreversible=False)
    assert near(seen(path), [RED, PINK, NOTHING])
    assert near(seen(path, "#0000ff"), [RED, [100, 0, 127], [0, 0, 255]])


@pytest.mark.parametrize("name", ["a.webp", "a.avif"])
def test_so_does_a_transparent_animation(name: str) -> None:
    others = [glass(levels=(0, 255, 128)), glass()] * 5
    glass().save(name, save_all=True, append_images=others, duration=100, lossless=True, quality=100)
    assert sample(Path(name), Framing()).kind == "video"
    assert near(seen(Path(name)), [RED, PINK, NOTHING])
    assert near(seen(Path(name), "#000000"), [RED, [100, 0, 0], [0, 0, 0]])


def test_so_do_grey_and_palettes() -> None:
    grey = glass().convert("LA")
    assert seen(write_image("a.png", grey)) == [[60] * 3, [157] * 3, NOTHING]
    assert seen(write_image("b.png", glass().quantize(8))) == [RED, PINK, NOTHING]
    assert seen(write_image("a.gif", glass(levels=(255, 255, 0)))) == [RED, RED, NOTHING]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(bits: int, colours: int, row: bytes, key: bytes) -> Path:
    """One row of three pixels, of which the last has the transparent colour."""
    facts = struct.pack(">IIBBBBB", 3, 1, bits, colours, 0, 0, 0)
    parts = ((b"IHDR", facts), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    Path("key.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return Path("key.png")


@pytest.mark.parametrize(
    ("bits", "colours", "row", "key", "shades"),
    [
        (1, 0, b"\x40", b"\0\0", [0, 255, 0]),
        (2, 0, b"\x24", b"\0\1", [0, 170, 85]),
        (4, 0, b"\x0f\x10", b"\0\1", [0, 255, 17]),
        (8, 0, b"\x00\xff\x11", b"\0\x11", [0, 255, 17]),
        (16, 0, b"\0\0\xff\xff\x12\x34", b"\x12\x34", [0, 255, 18]),
        (8, 2, bytes(3) + b"\xff" * 3 + b"\x11" * 3, b"\0\x11" * 3, [0, 255, 17]),
        (16, 2, bytes(6) + b"\xff" * 6 + b"\x12\x34" * 3, b"\x12\x34" * 3, [0, 255, 18]),
    ],
)
def test_the_transparent_colour_of_a_png(bits: int, colours: int, row: bytes, key: bytes, shades: list[int]) -> None:
    pixels = read_still(write_png(bits, colours, row, key), "#00ff00").pixels[0, 0].tolist()
    expected = [[0, 255, 0] if shade == shades[2] else [shade] * 3 for shade in shades]
    assert pixels == expected


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


def test_an_animation_is_turned_as_its_exif_block_says() -> None:
    exif, images = Image.Exif(), [Image.fromarray(picture(index)) for index in range(9)]
    exif[0x0112] = 7
    images[0].save("a.webp", save_all=True, append_images=images[1:], duration=100, lossless=True, exif=exif)
    frames = sample(Path("a.webp"), Framing())
    assert (frames.pixels[0] == np.rot90(picture(0)[:, ::-1], -1)).all()
    assert (frames.clip.width, frames.clip.height, frames.clip.rotation) == (48, 64, 90)


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
    assert look(write_clip(Path("b.mp4"), 3).rename("b.jpg")) == "video"


@pytest.mark.parametrize(
    ("name", "form", "notes"),
    [
        ("a.tiff", "TIFF", ("Only the first of the 3 pages of 'a.tiff' is used.",)),
        ("a.jpg", "MPO", ("Only the first of the 3 pictures of 'a.jpg' is used.",)),
    ],
)
def test_of_several_pages_or_pictures_the_first_is_used(name: str, form: str, notes: tuple[str, ...]) -> None:
    pages = [Image.fromarray(picture(index)) for index in (5, 6, 7)]
    pages[0].save(name, format=form, save_all=True, append_images=pages[1:], quality=95)
    frames = sample(Path(name), Framing())
    assert (frames.kind, index_of(frames.pixels[0]), frames.clip.notes) == ("image", 5, notes)


def test_a_preview_or_a_gain_map_is_not_another_picture() -> None:
    photo, small, gains = (Image.fromarray(pixels) for pixels in (picture(5), picture(6, 32, 24), picture(7)))
    photo.save("a.jpg", format="MPO", save_all=True, append_images=[small, gains], quality=95)
    note = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description hdrgm:Version="1.0"/>'
    before, _, last = Path("a.jpg").read_bytes().rpartition(b"\xff\xd8\xff")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(note)) + note
    Path("a.jpg").write_bytes(before + b"\xff\xd8" + segment + b"\xff" + last)
    assert sample(Path("a.jpg"), Framing()).clip.remarks == ()
    reduced = TiffImagePlugin.ImageFileDirectory_v2()
    reduced[254] = 1
    with TiffImagePlugin.AppendingTiffWriter("a.tiff", True) as pages:
        for image, tags in ((small, reduced), (photo, {}), (small, reduced)):
            image.save(pages, format="TIFF", tiffinfo=tags)
            pages.newFrame()
    frames = sample(Path("a.tiff"), Framing())
    assert (index_of(frames.pixels[0]), frames.clip.width, frames.clip.remarks) == (5, 64, ())
    assert (header(Path("a.tiff")).width, header(Path("a.tiff")).height) == (64, 48)


@pytest.mark.parametrize("ending", ["jp2", "j2k"])
def test_jpeg_2000_is_an_image(ending: str) -> None:
    frames = sample(write_image(f"a.{ending}"), Framing())
    assert (frames.kind, frames.clip.codec, index_of(frames.pixels[0])) == ("image", "jpeg2000", 5)


@pytest.mark.parametrize("name", ["a.webp", "a.avif"])
@pytest.mark.parametrize("duration_ms", [0, 10])
def test_frames_without_a_duration_are_shown_as_browsers_show_them(name: str, duration_ms: int) -> None:
    path = write_animation(Path(name), 12, durations_ms=duration_ms)
    for clip in (probe(path), probe(path, is_full=True)):
        assert (clip.frame_count, clip.fps, clip.is_rate_constant) == (12, pytest.approx(10), True)
        assert clip.duration_s == pytest.approx(1.2)
    assert sample(path, Framing(at_s=(1.15,))).times_s == (pytest.approx(1.1),)


def test_an_apng_of_one_frame_is_a_still_and_shows_that_frame() -> None:
    first, second = Image.fromarray(picture(5)), Image.fromarray(picture(6))
    first.save("a.png", save_all=True, append_images=[second], default_image=True)
    frames = sample(Path("a.png"), Framing())
    assert (frames.kind, index_of(frames.pixels[0]), header(Path("a.png")).kind) == ("image", 6, "image")
    first.save("b.png", save_all=True, append_images=[second, first], default_image=True)
    assert (sample(Path("b.png"), Framing()).clip.frame_count, look(Path("b.png"))) == (2, "video")


def message_for(path: Path) -> str:
    with pytest.raises(MediaError) as error:
        sample(path, Framing())
    return str(error.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tiff", "a.webp"])
def test_a_truncated_image(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    message = message_for(cut(write_image(name, Image.fromarray(noise)), 0.5, f"b-{name}"))
    assert message == f"'b-{name}' is a truncated or damaged image. Copy or download it again."


def test_a_still_avif_that_cannot_be_opened_is_no_video() -> None:
    path = cut(write_image("a.avif"), 0.5, "b.avif")
    assert message_for(path) == (
        "'b.avif' is damaged, or an AVIF image of a rare kind, which vllava doesn't open. Convert it to PNG."
    )


def test_an_image_that_would_fill_the_memory() -> None:
    for side, size in ((10_000, "10000x10000 pixels, more than 89 million"), (20_000, "larger than 89 million pixels")):
        header = b"P6\n%d %d\n255\n" % (side, side)
        Path("a.ppm").write_bytes(header + bytes(100))
        assert message_for(Path("a.ppm")) == f"'a.ppm' is {size}. Scale it down first."


TIFF_OF_NO_KIND = b"II*\0\x08\0\0\0" + bytes(8)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a PostScript file"),
        (b"<svg xmlns='x'/>", "an SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- <a> -->\n<svg width='1'>", "an SVG drawing"),
        (b"\xff\x0a" + bytes(99), "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"gimp xcf v011\0", "a GIMP file"),
        (b"v/1\x01\2\0\0\0", "an OpenEXR image"),
        (b"#?RADIANCE\n", "a Radiance HDR image"),
        (b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x68\4", "an icon"),
        (bytes(128) + b"DICM", "a DICOM image"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a raw photo of a camera"),
        (b"FUJIFILMCCD-RAW 0201", "a raw photo of a camera"),
        (TIFF_OF_NO_KIND, "damaged, or a TIFF image of a rare kind"),
    ],
)
def test_an_image_that_is_not_opened_is_named(content: bytes, kind: str) -> None:
    Path("a.png").write_bytes(content)
    assert message_for(Path("a.png")) == f"'a.png' is {kind}, which vllava doesn't open. Convert it to PNG."


@pytest.mark.parametrize("tags", [{50706: b"\1\4\0\0"}, {254: 1, 330: 8}])
def test_the_preview_in_a_raw_photo_is_not_the_photo(tags: dict[int, object]) -> None:
    path = write_image("a.tiff", tiffinfo=tags)
    assert message_for(path) == ("'a.tiff' is a raw photo of a camera, which vllava doesn't open. Convert it to PNG.")


def test_what_is_no_image() -> None:
    Path("a.png").write_text("GIF")
    assert message_for(Path("a.png")).startswith("'a.png' is neither a video nor an image that can be read.")
    Path("a.png").write_text("<!DOCTYPE html><html><svg width='1'></svg>Not found</html>")
    assert message_for(Path("a.png")).startswith("'a.png' is an HTML page, not a video;")


# --- folders of pictures


def write_pictures(count: int, name: str = "holiday") -> Path:
    """holiday/1.png to holiday/12.png, shade by shade lighter."""
    Path(name).mkdir()
    for number in range(1, count + 1):
        Image.new("RGB", (40, 30), (number, number, number)).save(Path(name) / f"{number}.png")
    return Path(name)


def folder_message(path: Path, framing: Framing | None = None) -> str:
    with pytest.raises(MediaError) as caught:
        read_folder(path, framing or Framing())
    return str(caught.value)


def shades(path: Path, framing: Framing | None = None) -> list[int]:
    return read_folder(path, framing or Framing()).pixels[:, 0, 0, 0].tolist()


def test_twelve_pictures_are_a_clip_of_twelve_seconds() -> None:
    path = write_pictures(12)
    frames = sample(path, Framing())
    assert frames.clip == Clip(
        path=path,
        kind="video",
        width=40,
        height=30,
        frame_count=12,
        duration_s=12.0,
        fps=1.0,
        codec="png",
        container="folder",
        pixel_format="rgb",
        is_rate_constant=True,
        way="seek",
        way_reason="Each picture is a file of its own: only those that are shown are read.",
    )
    assert frames.times_s == (0.0, 1.0, 3.0, 4.0, 6.0, 7.0, 9.0, 10.0)
    assert frames.pixels[:, 0, 0, 0].tolist() == [1, 2, 4, 5, 7, 8, 10, 11]


def test_a_part_and_moments_are_by_the_second() -> None:
    path = write_pictures(12)
    assert shades(path, Framing(start_s=2, end_s=4)) == [3, 3, 3, 3, 4, 4, 4, 4]
    assert shades(path, Framing(at_s=(11.9, 0, 5))) == [12, 1, 6]
    assert folder_message(path, Framing(start_s=12)) == (
        "--start 12 s is past the end of 'holiday', which lasts 12.00 s. Start earlier."
    )


def test_names_are_sorted_as_people_count() -> None:
    names = ["b10.png", "B2.png", "a.png", "10.png", "9.png", "b2.png", "b.png"]
    assert sorted(names, key=natural) == ["9.png", "10.png", "a.png", "b.png", "B2.png", "b2.png", "b10.png"]


def test_what_is_no_picture_is_left_out_and_told() -> None:
    path = write_pictures(2)
    (path / "2.png").unlink()
    (path / "2.png").symlink_to("1.png")
    (path / ".hidden.png").write_bytes(b"x")
    (path / "notes.txt").write_text("Dear diary")
    (path / "0.jpg").write_text("Dear diary, this is no picture")
    (path / "sub.png").mkdir()
    os.mkfifo(path / "pipe.png")
    (path / "gone.png").symlink_to("nowhere")
    frames = read_folder(path, Framing())
    assert frames.clip.frame_count == 2
    assert frames.clip.notes == ("5 entries of 'holiday' left out: not a picture.",)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "bmp", "tiff", "avif", "ppm", "jp2"])
def test_every_kind_of_picture_is_found_by_its_content(kind: str) -> None:
    path = write_pictures(0)
    Image.fromarray(picture(3)).save(path / f"a.{kind}")
    frames = read_folder(path, Framing())
    assert (frames.pixels[7] == read_still(path / f"a.{kind}").pixels[0]).all()


def test_pictures_of_other_sizes_are_scaled_to_the_first() -> None:
    path = write_pictures(0)
    large, small = Image.fromarray(picture(3, 80, 60)), Image.fromarray(picture(4, 64, 48))
    large.save(path / "1.png")
    small.save(path / "2.png")
    frames = read_folder(path, Framing())
    assert (frames.pixels[0] == np.asarray(large)).all()
    assert (frames.pixels[4] == np.asarray(small.resize((80, 60), Image.Resampling.BICUBIC))).all()
    assert frames.clip.notes == (
        "1 of the 2 pictures read from 'holiday' were scaled to the size of the first, 80x60.",
    )


def test_a_photo_taken_upright_is_upright_before_it_is_scaled() -> None:
    path, exif = write_pictures(0), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(3, 80, 40)).save(path / "1.jpg", exif=exif)
    Image.fromarray(picture(3, 80, 40)).save(path / "2.jpg", exif=exif)
    frames = read_folder(path, Framing())
    assert frames.pixels.shape == (8, 80, 40, 3)
    assert frames.clip.remarks == ()


def test_only_the_pictures_shown_are_decoded() -> None:
    path = write_pictures(16)
    (path / "2.png").write_bytes((path / "2.png").read_bytes()[:40])
    assert shades(path) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert folder_message(path, Framing(at_s=(1,))) == (
        "'holiday/2.png' is a truncated or damaged image. Copy or download it again."
    )


def test_a_folder_without_pictures_or_that_is_not_there() -> None:
    assert folder_message(Path("nowhere")) == "'nowhere' can't be read: no such file or directory. Check the folder."
    path = write_pictures(0)
    assert folder_message(path) == "'holiday' is a folder. Name the video or image files in it."
    write_clip(path / "a.mp4", 2)
    assert folder_message(path) == "'holiday' has videos but no pictures in it. Name the videos themselves."


def test_a_folder_of_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pictures(3)
    monkeypatch.setattr(images, "MAX_ENTRIES", 2)
    assert folder_message(path) == "'holiday' has more than 2 entries. Move the pictures to show into a smaller folder."
