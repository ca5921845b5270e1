from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.clips import cut, index_of, picture, write_animation, write_clip
from vllava_cli.errors import MediaError
from vllava_cli.media import images
from vllava_cli.media.images import look, natural, read_folder, read_still
from vllava_cli.media.sample import sample
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
    if mode == "RGBA":
        image.putalpha(0)  # transparency is dropped
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
    assert look(write_clip(Path("b.mp4"), 3).rename("b.jpg")) == "video"


@pytest.mark.parametrize(
    ("name", "form", "faults"),
    [("a.tiff", "TIFF", ("Only the first of the 3 pages of 'a.tiff' is used.",)), ("a.jpg", "MPO", ())],
)
def test_of_several_pages_or_pictures_the_first_is_used(name: str, form: str, faults: tuple[str, ...]) -> None:
    pages = [Image.fromarray(picture(index)) for index in (5, 6, 7)]
    pages[0].save(name, format=form, save_all=True, append_images=pages[1:], quality=95)
    frames = sample(Path(name), Framing())
    assert (frames.kind, index_of(frames.pixels[0]), frames.clip.faults) == ("image", 5, faults)


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


@pytest.mark.parametrize("text", ["%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "<svg xmlns='x' width='9'/>"])
def test_formats_that_would_start_other_programs_are_not_opened(text: str) -> None:
    Path("a.png").write_text(text)
    assert message_for(Path("a.png")) == ("'a.png' is text, not a video or an image. Check the path.")


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
    assert frames.clip.faults == ("5 entries of 'holiday' left out: not a picture.",)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "bmp", "tiff", "avif", "ppm"])
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
    assert frames.clip.faults == (
        "1 of the 2 pictures read from 'holiday' were scaled to the size of the first, 80x60.",
    )


def test_a_photo_taken_upright_is_upright_before_it_is_scaled() -> None:
    path, exif = write_pictures(0), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(3, 80, 40)).save(path / "1.jpg", exif=exif)
    Image.fromarray(picture(3, 80, 40)).save(path / "2.jpg", exif=exif)
    frames = read_folder(path, Framing())
    assert frames.pixels.shape == (8, 80, 40, 3)
    assert frames.clip.faults == ()


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
