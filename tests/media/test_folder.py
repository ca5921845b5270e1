"""A folder of pictures is a clip: its order, its size, what is left out and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import picture, write_clip
from vllava_cli.errors import MediaError
from vllava_cli.media import images
from vllava_cli.media.images import natural, read_folder, read_still
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Clip, Framing


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests name files as a user does, from the folder they are in."""
    monkeypatch.chdir(tmp_path)


def write_pictures(count: int, name: str = "holiday") -> Path:
    """holiday/1.png to holiday/12.png, shade by shade lighter."""
    Path(name).mkdir()
    for number in range(1, count + 1):
        Image.new("RGB", (40, 30), (number, number, number)).save(Path(name) / f"{number}.png")
    return Path(name)


def message_for(path: Path, framing: Framing | None = None) -> str:
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
    assert message_for(path, Framing(start_s=12)) == (
        "--start 12 s is past the end of 'holiday', which lasts 12.00 s. Start earlier."
    )


def test_names_are_sorted_as_people_count() -> None:
    names = ["b10.png", "B2.png", "a.png", "10.png", "9.png", "b2.png", "b.png"]
    assert sorted(names, key=natural) == ["9.png", "10.png", "a.png", "b.png", "B2.png", "b2.png", "b10.png"]


def test_what_is_no_picture_is_left_out_and_told() -> None:
    path = write_pictures(2)
    (path / ".hidden.png").write_bytes(b"x")
    (path / "notes.txt").write_text("Dear diary")
    (path / "0.jpg").write_text("Dear diary, this is no picture")
    (path / "sub.png").mkdir()
    os.mkfifo(path / "pipe.png")
    (path / "gone.png").symlink_to("nowhere")
    frames = read_folder(path, Framing())
    assert frames.pixels[:, 0, 0, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert frames.clip.faults == ("5 entries of 'holiday' left out: not a picture.",)


def test_a_link_to_a_picture_is_a_picture() -> None:
    path = write_pictures(1)
    (path / "2.png").symlink_to("1.png")
    assert read_folder(path, Framing()).clip.frame_count == 2


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
    assert message_for(path, Framing(at_s=(1,))) == (
        "'holiday/2.png' is a truncated or damaged image. Copy or download it again."
    )


def test_a_folder_without_pictures() -> None:
    path = write_pictures(0)
    assert message_for(path) == "'holiday' is a folder. Name the video or image files in it."
    write_clip(path / "a.mp4", 2)
    assert message_for(path) == "'holiday' has videos but no pictures in it. Name the videos themselves."


def test_a_folder_that_is_not_there() -> None:
    assert message_for(Path("nowhere")) == "'nowhere' can't be read: no such file or directory. Check the folder."


def test_a_folder_of_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pictures(3)
    monkeypatch.setattr(images, "MAX_ENTRIES", 2)
    assert message_for(path) == "'holiday' has more than 2 entries. Move those to show to a smaller folder."
