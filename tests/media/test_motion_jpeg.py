"""A file of JPEGs is a video; a JPEG with something else in it or behind it is a picture."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.clips import index_of, picture, write_clip
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing


def jpeg(index: int, width: int = 64, height: int = 48, **how: Any) -> bytes:
    written = BytesIO()
    Image.fromarray(picture(index, width, height)).save(written, "JPEG", quality=95, **how)
    return written.getvalue()


def exif(thumbnail: bytes = b"") -> bytes:
    """An empty directory, and behind it a thumbnail."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail


def several(**how: Any) -> bytes:
    return b"".join(jpeg(index, **how) for index in range(9))


def mpo() -> bytes:
    written = BytesIO()
    first, *others = (Image.fromarray(picture(index)) for index in range(3))
    first.save(written, "MPO", save_all=True, append_images=others)
    return written.getvalue()


MOVING: dict[str, Callable[[], bytes]] = {
    "a.mjpeg": several,
    "a.jpg": several,
    "a": several,
    "two.mjpg": lambda: jpeg(0) + jpeg(1),
    "larger.mjpeg": lambda: jpeg(0) + jpeg(1, 96, 80),
    "turned.mjpeg": lambda: jpeg(0) + jpeg(1, 48, 64),
    "padded.mjpeg": lambda: b"".join(jpeg(index) + b"\0\0\xff" for index in range(9)),
    "without-ends.mjpeg": lambda: several().replace(b"\xff\xd9", b""),
    "progressive.mjpeg": lambda: several(progressive=True),
    "restarts.mjpeg": lambda: several(restart_marker_blocks=1),
    "photos.mjpeg": lambda: several(exif=exif()),
    "thumbnails.mjpeg": lambda: several(exif=exif(jpeg(7))),
    "cut.mjpeg": lambda: several()[:-500],
}
STILL: dict[str, Callable[[], bytes]] = {
    "one.mjpeg": lambda: jpeg(0),
    "thumbnail.mjpeg": lambda: jpeg(0, exif=exif(jpeg(7))),
    "thumbnail.jpg": lambda: jpeg(0, comment=jpeg(7)),
    "preview.jpg": lambda: jpeg(0) + jpeg(7, 32, 24),
    "photo.jpg": lambda: jpeg(0, exif=exif()) + jpeg(7),
    "mpo.mjpeg": mpo,
    "motion-photo.jpg": lambda: jpeg(0) + write_clip(Path("clip.mp4")).read_bytes(),
    "preview-later.jpg": lambda: jpeg(0) + b"SEFT" + jpeg(7),
    "text.jpg": lambda: jpeg(0) + b"Dear diary",
    "start.jpg": lambda: jpeg(0) + b"\xff\xd8\xff",
}


@pytest.mark.parametrize("name", MOVING)
def test_pictures_one_behind_the_other_are_a_video(name: str) -> None:
    Path(name).write_bytes(MOVING[name]())
    got = sample(Path(name), Framing())
    assert (got.clip.kind, got.clip.container, got.clip.codec) == ("video", "mjpeg", "mjpeg")
    assert index_of(got.pixels[0]) == 0
    assert index_of(got.pixels[-1]) == (7 if got.clip.frame_count > 2 else 1)


@pytest.mark.parametrize("name", STILL)
def test_a_picture_with_another_in_it_or_something_behind_it_is_an_image(name: str) -> None:
    Path(name).write_bytes(STILL[name]())
    got = sample(Path(name), Framing())
    assert (got.clip.kind, got.clip.frame_count, len(got.pixels)) == ("image", 1, 1)
    assert index_of(got.pixels[0]) == 0
