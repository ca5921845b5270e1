"""HEIF files as phones and cameras write them: one upright picture, a burst, or a sequence."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import Pixels, index_of, picture, write_animation
from tests.media.heif import IMIR, IROT, Item, auxiliary, clap, coded, grid, sequence, size_of, write_heif
from tests.media.zoo import _box
from vllava_cli.errors import MediaError
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.sample import header, probe, sample
from vllava_cli.nouns import Framing

PHOTO = picture(5, 200, 120)
CROP = clap(100, 60, 50, 30, (200, 120))
WHOLE = Framing()


def difference(pixels: Pixels, expected: Pixels) -> float:
    assert pixels.shape == expected.shape
    return float(np.abs(pixels.astype(int) - expected).mean())


@pytest.mark.parametrize(
    ("properties", "expected", "rotation"),
    [
        ((), PHOTO, 0),
        ((IROT[1],), np.rot90(PHOTO, 1), 270),
        ((IROT[2],), np.rot90(PHOTO, 2), 180),
        ((IROT[3],), np.rot90(PHOTO, 3), 90),
        ((IMIR[0],), PHOTO[::-1], 180),
        ((IMIR[1],), PHOTO[:, ::-1], 0),
        ((IROT[1], IMIR[1]), np.rot90(PHOTO, 1)[:, ::-1], 90),
        ((CROP, IROT[3], IMIR[0]), np.rot90(PHOTO[30:90, 50:150], 3)[::-1], 90),
    ],
)
def test_a_photo_of_a_phone_is_whole_and_upright(properties: Sequence[bytes], expected: Pixels, rotation: int) -> None:
    path = write_heif(Path("a.heic"), grid(PHOTO, 2, 2, *properties))
    frames, height, width = sample(path, WHOLE), *expected.shape[:2]
    assert difference(frames.pixels[0], expected) < 2
    for clip in (frames.clip, header(path), probe(path), probe(path, is_full=True)):
        assert (clip.kind, clip.width, clip.height, clip.rotation) == ("image", width, height, rotation)
        assert (clip.frame_count, clip.codec, clip.way, clip.remarks) == (1, "heif", None, ())


def test_exif_does_not_turn_a_photo_again() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    block = b"\0\0\0\6Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    path = write_heif(
        Path("a.heic"),
        [coded(PHOTO, IROT[3]), Item(kind=b"Exif", data=block, is_hidden=True, references=((b"cdsc", (1,)),))],
    )
    assert difference(sample(path, WHOLE).pixels[0], np.rot90(PHOTO, 3)) < 2
    assert (header(path).width, header(path).height, header(path).rotation) == (120, 200, 90)


@pytest.mark.parametrize(
    ("transfer", "name", "code", "grey"), [(16, "PQ", 148, 230), (18, "HLG", 191, 230), (13, None, 148, 148)]
)
def test_an_hdr_photo_of_a_camera_is_shown_in_sdr(transfer: int, name: str | None, code: int, grey: int) -> None:
    """The codes of PQ and HLG are those of a white page, as in tests/media/test_tone_map.py."""
    colours = _box(b"colr", b"nclx", struct.pack(">3HB", 9, transfer, 1, 0))
    page = np.full((64, 96, 3), code, np.uint8)
    path = write_heif(Path("a.hif"), [coded(page, colours)])
    frames = sample(path, WHOLE)
    assert np.abs(frames.pixels.astype(int) - grey).max() <= 3
    assert (frames.clip.transfer, header(path).transfer) == (name, name)


SMALL = picture(9, 100, 60)
BESIDE = {
    "a thumbnail": ([coded(SMALL, references=((b"thmb", (1,)),))], ()),
    "a gain map": (
        [coded(SMALL, auxiliary("urn:com:apple:photo:2020:aux:hdrgainmap"), references=((b"auxl", (1,)),))],
        (),
    ),
    "a depth map": ([coded(SMALL, auxiliary("urn:mpeg:hevc:2015:auxid:2"), references=((b"auxl", (1,)),))], ()),
    "a tone map": (
        [
            coded(SMALL, is_hidden=True),
            Item(data=bytes(62), kind=b"tmap", properties=(size_of(200, 120),), references=((b"dimg", (1, 2)),)),
        ],
        [(b"altr", (3, 1))],
    ),
    "an alternative": ([coded(SMALL)], [(b"altr", (1, 2))]),
    "the other eye": ([coded(picture(6, 200, 120))], [(b"ster", (1, 2))]),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_a_photo_is_not_the_photo(what: str) -> None:
    others, groups = BESIDE[what]
    frames = sample(write_heif(Path("a.heic"), [coded(PHOTO), *others], groups=groups), WHOLE)
    assert (frames.kind, frames.pixels.shape, index_of(frames.pixels[0])) == ("image", (1, 120, 200, 3), 5)


def test_several_pictures_are_a_clip_of_a_second_each() -> None:
    items = [coded(picture(number, 96, 80), IROT[3]) for number in range(4)] + [coded(picture(4, 64, 48))]
    path = write_heif(Path("burst.heic"), items, groups=[(b"brst", (1, 2, 3, 4, 5))])
    frames = sample(path, Framing(at_s=(0, 1.5, 3, 4)))
    assert [index_of(np.rot90(pixels)) for pixels in frames.pixels[:3]] == [0, 1, 3]
    assert index_of(frames.pixels[3]) == 4
    assert frames.times_s == (0.0, 1.0, 3.0, 4.0)
    clip = frames.clip
    assert (clip.kind, clip.frame_count, clip.duration_s, clip.fps, clip.width) == ("video", 5, 5.0, 1.0, 80)
    assert clip.notes == ("1 of the 4 pictures read from 'burst.heic' were scaled to the size of the first, 80x96.",)
    assert (header(path).kind, header(path).frame_count, probe(path, is_full=True).duration_s) == ("video", 5, 5.0)


@pytest.mark.parametrize("brands", [b"hevcmsf1hevcmif1", b"msf1msf1hevcheic", b"heicmif1heicmsf1hevc"])
@pytest.mark.parametrize("still", [[], [coded(picture(50))], grid(PHOTO, 2, 2)], ids=["alone", "still", "grid"])
def test_a_sequence_is_a_video_whatever_lies_beside_it(brands: bytes, still: list[Item]) -> None:
    path = Path("a.heics")
    write_heif(path, still, brands=brands, movie=sequence(path, 12))
    frames = sample(path, WHOLE)
    assert [index_of(pixels) for pixels in frames.pixels] == [0, 1, 3, 4, 6, 7, 9, 10]
    assert (frames.clip.kind, frames.clip.frame_count, frames.clip.fps) == ("video", 12, 10.0)
    assert (header(path).kind, header(path).width, header(path).frame_count) == ("video", 64, 12)


@pytest.mark.parametrize("brand", [b"avis", b"avif", b"msf1"])
def test_an_avif_with_a_sequence_shows_the_sequence(brand: bytes) -> None:
    path = write_animation(Path("a.avif"), 12)
    data = path.read_bytes()
    path.write_bytes(data[:8] + brand + data[12:])
    frames = sample(path, WHOLE)
    assert [index_of(pixels) for pixels in frames.pixels] == [0, 1, 3, 4, 6, 7, 9, 10]
    assert (frames.clip.frame_count, header(path).frame_count) == (12, 12)


def test_a_photo_passes_the_bounded_process_and_counts_in_a_folder() -> None:
    Path("photos").mkdir()
    for number, name in enumerate(("a.heic", "b.HIF", "c.heif")):
        write_heif(Path("photos") / name, grid(picture(number, 200, 120), 2, 2))
    write_heif(Path("photos/d.heics"), [], brands=b"hevcmsf1", movie=sequence(Path("d.heics"), 3))
    with DecoderClient() as decoder:
        assert decoder.sample(Path("photos/a.heic"), WHOLE).pixels.shape == (1, 120, 200, 3)
        frames = decoder.sample(Path("photos"), WHOLE)
    assert [index_of(pixels) for pixels in frames.pixels] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert frames.clip.notes == ("1 entry of 'photos' left out: not a picture.",)


def test_a_crop_does_not_hide_a_picture_that_would_fill_the_memory() -> None:
    huge = Item(data=b"", properties=(*coded(PHOTO).properties[:1], size_of(30_000, 20_000)))
    for properties in ((), (clap(100, 60, 0, 0, (30_000, 20_000)),)):
        path = write_heif(Path("a.heic"), [Item(data=b"", properties=(*huge.properties, *properties))])
        with pytest.raises(MediaError, match=r"more than 89 million\.|larger than 89 million pixels\."):
            header(path)


@pytest.mark.parametrize(
    ("kind", "end", "fault"),
    [
        (b"hvc1", -9000, "is a truncated or damaged image. Copy or download it again."),
        (b"hvc1", 150, "is damaged, or an HEIF image of a rare kind, which vllava doesn't open. Convert it to PNG."),
        (b"avc1", None, "is damaged, or an HEIF image of a rare kind, which vllava doesn't open. Convert it to PNG."),
    ],
)
def test_a_photo_that_cannot_be_read(kind: bytes, end: int | None, fault: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, PHOTO.shape, dtype=np.uint8)
    item = coded(noise)
    data = write_heif(Path("a.heic"), [Item(data=item.data, kind=kind, properties=item.properties)]).read_bytes()
    Path("a.heic").write_bytes(data[:end])
    with pytest.raises(MediaError) as caught:
        sample(Path("a.heic"), WHOLE)
    assert str(caught.value) == f"'a.heic' {fault}"
