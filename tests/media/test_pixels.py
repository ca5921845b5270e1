from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from tests.clips import Pixels
from vllava_cli.errors import CheckpointError, MediaError
from vllava_cli.media.contact_sheet import seen
from vllava_cli.media.pixels import fitted, fitted_image, image_pixels, video_pixels
from vllava_cli.media.preprocess import crop_corner, padded, padding_colour, short_side_size
from vllava_cli.media.select import spread
from vllava_cli.nouns import (
    Clip,
    Fit,
    Frames,
    MediaKind,
    VideoRecipe,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# SHA-256 of what transformers' own VideoLlavaVideoProcessor made of `scene(height, width)`, as
# (short side, crop, height, width, start of the digest). Versions 5.17 and 5.23 agreed, with torch 2.13 on x86-64.
GOLDEN = [
    (224, 224, 224, 224, "789a4a2aaf5301e7"),
    (224, 224, 224, 301, "f07160eb488e3890"),
    (224, 224, 301, 224, "d378e2e4d17bfe12"),
    (64, 64, 64, 97, "98b2950f544f644c"),
    (224, 224, 480, 640, "006d711123961f76"),
    (224, 224, 63, 47, "e994c6571d5c9f67"),
    (224, 224, 1080, 1920, "482f1e41268ba729"),
    (224, 224, 100, 1000, "215dac0862cace0d"),
    (224, 224, 17, 13, "23cb45cb7861c572"),
    (64, 64, 33, 35, "8eea182ceb41d5fc"),
    (73, 64, 80, 91, "04c699930bf64c43"),
    (73, 64, 91, 80, "a6c6d7e114fbfe2a"),
]
SIZES = [golden[:4] for golden in GOLDEN]


def scene(height: int, width: int) -> Pixels:
    """Two frames of gradients, stripes and noise, [2, H, W, 3]."""
    noise = np.random.default_rng(0).integers(0, 40, (2, height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    stripes = (x // 3 + y // 5) % 2 * 255
    base = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), stripes], axis=-1)
    return np.clip(base[None] + noise - 20, 0, 255).astype(np.uint8)


def recipe(short_side: int, crop: int) -> VideoRecipe:
    return VideoRecipe(short_side=short_side, crop_height=crop, crop_width=crop, mean=MEAN, std=STD)


def frames_of(pixels: Pixels, kind: MediaKind = "video") -> Frames:
    count, height, width, _ = pixels.shape
    clip = Clip(path=Path("a.mp4"), kind=kind, width=width, height=height, frame_count=count)
    return Frames(clip=clip, pixels=pixels, times_s=tuple(float(index) for index in range(count)))


def normalised(pixels: Pixels) -> npt.NDArray[np.float32]:
    """[T, S, S, 3] uint8 → [1, T, 3, S, S] float32, in numpy."""
    mean, std = np.float32(MEAN) * np.float32(255), np.float32(STD) * np.float32(255)
    return np.moveaxis((pixels.astype(np.float32) - mean) / std, 3, 1)[None]


@pytest.mark.parametrize(("short_side", "crop", "height", "width", "digest"), GOLDEN)
def test_a_video_equals_transformers_own_output(
    short_side: int, crop: int, height: int, width: int, digest: str
) -> None:
    is_resized = min(height, width) != short_side
    if is_resized and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("torch resizes with another kernel on this CPU, and so would transformers")
    pixels = video_pixels(frames_of(scene(height, width)), recipe(short_side, crop))
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.float32, (1, 2, 3, crop, crop))
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest().startswith(digest)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 32), (31, 64), (64, 33), (64, 64)])
def test_a_padded_video_shows_everything_on_the_mean_colour(height: int, width: int) -> None:
    frames = scene(height, width)
    square = np.full((2, 64, 64, 3), (123, 117, 104), np.uint8)
    top, left = (64 - height) // 2, (64 - width) // 2
    square[:, top : top + height, left : left + width] = frames
    pixels = video_pixels(frames_of(frames), recipe(64, 64), fit="pad").numpy()
    assert (pixels == normalised(square)).all()


def test_a_padded_video_is_resized_after_padding() -> None:
    wide = scene(60, 120)
    square = np.full((2, 120, 120, 3), (123, 117, 104), np.uint8)
    square[:, 30:90] = wide
    padded = video_pixels(frames_of(wide), recipe(64, 64), fit="pad")
    assert torch.equal(padded, video_pixels(frames_of(square), recipe(64, 64)))


def test_a_squashed_video_shows_everything_distorted() -> None:
    wide = scene(64, 128)
    squashed = video_pixels(frames_of(wide), recipe(73, 64), fit="squash").numpy()
    resized = np.stack(
        [np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BICUBIC)) for frame in wide]
    )
    assert squashed.shape == (1, 2, 3, 64, 64)
    assert np.abs(squashed - normalised(resized)).max() < 2.5 / 255 / min(STD)


class Largest(TorchDispatchMode):
    """How many bytes the largest tensor has that is made."""

    bytes = 0

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_what_is_made_on_the_way_to_the_square_is_of_one_frame_at_a_time(fit: Fit) -> None:
    frames = frames_of(np.zeros((8, 400, 600, 3), np.uint8))
    with Largest() as largest:
        assert video_pixels(frames, recipe(64, 64), fit=fit).shape == (1, 8, 3, 64, 64)
    assert 0 < largest.bytes <= 3 * 600 * (600 if fit == "pad" else 400)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (161, 90), (33, 200), (20, 31)])
def test_a_video_that_was_fitted_before_gives_the_same_pixels(height: int, width: int, fit: Fit) -> None:
    whole = frames_of(scene(height, width))
    small = fitted(whole, recipe(64, 64), fit=fit)
    assert (small.pixels.shape, small.pixels.flags.c_contiguous) == ((2, 64, 64, 3), True)
    assert (small.clip, small.times_s) == (whole.clip, whole.times_s)
    assert (whole.pixels == scene(height, width)).all(), "they are left as they were"
    assert torch.equal(video_pixels(small, recipe(64, 64), fit=fit), video_pixels(whole, recipe(64, 64), fit=fit))


@pytest.mark.parametrize(("short_side", "kind"), [(73, "video"), (64, "image")])
def test_what_cannot_be_fitted_twice_is_left(short_side: int, kind: MediaKind) -> None:
    frames = frames_of(scene(90, 160)[:1], kind)
    assert fitted(frames, recipe(short_side, 64), fit="crop") is frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 64, "width": 64},
        "image_processor_type": "VideoLlavaImageProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    return tmp_path


def by_transformers(image: Image.Image, folder: Path) -> torch.Tensor:
    from transformers import VideoLlavaImageProcessor

    (tensor,) = VideoLlavaImageProcessor.from_pretrained(folder)(image, return_tensors="pt").values()
    assert isinstance(tensor, torch.Tensor)
    return tensor


@pytest.mark.parametrize(
    ("height", "width"),
    [(64, 64), (48, 86), (33, 35), (720, 405), (200, 1000), (5, 9)],
)
def test_an_image_equals_transformers_own_output(folder: Path, height: int, width: int) -> None:
    pixels = scene(height, width)[:1]
    tensor = image_pixels(frames_of(pixels, "image"), folder)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, (1, 3, 64, 64))
    assert torch.equal(tensor, by_transformers(Image.fromarray(pixels[0]), folder))


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 64), (161, 90), (33, 200), (3, 5)])
def test_an_image_that_was_fitted_before_gives_the_same_pixels(folder: Path, height: int, width: int, fit: Fit) -> None:
    whole = frames_of(scene(height, width)[:1], "image")
    small = fitted_image(whole, folder, fit=fit)
    assert small.pixels.shape[1:] == image_pixels(whole, folder).permute(0, 2, 3, 1).shape[1:]
    assert torch.equal(image_pixels(small, folder, fit=fit), image_pixels(whole, folder, fit=fit))
    assert fitted_image(replace(whole, clip=replace(whole.clip, kind="video")), folder, fit=fit).pixels is whole.pixels


def test_an_image_three_pixels_high(folder: Path) -> None:
    thin = np.zeros((1, 3, 3, 3), np.uint8)
    thin[0, :, 1] = (255, 0, 0)
    tensor = image_pixels(frames_of(thin, "image"), folder)
    assert tensor[0, 0, 32, 32] > tensor[0, 0, 32, 0]
    assert tensor[0, 1, 32, 32] == tensor[0, 1, 32, 0]


def test_a_padded_image_shows_everything_on_the_mean_colour_and_a_squashed_one_distorted(folder: Path) -> None:
    pixels = scene(60, 121)[:1]
    square, image = Image.new("RGB", (121, 121), (123, 117, 104)), Image.fromarray(pixels[0])
    square.paste(image, (0, 30))
    small = image.resize((64, 64), Image.Resampling.BICUBIC)
    padded, squashed = (image_pixels(frames_of(pixels, "image"), folder, fit=fit) for fit in ("pad", "squash"))
    assert torch.equal(padded, by_transformers(square, folder))
    assert torch.equal(squashed, by_transformers(small, folder))


def test_a_folder_without_a_preprocessor_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        image_pixels(frames_of(scene(8, 8)[:1], "image"), tmp_path)
    assert str(error.value) == f"{tmp_path} has no usable preprocessor_config.json: copy the base model's."


def given_to_the_model(frames: Frames, recipe_: VideoRecipe, fit: Fit) -> Pixels:
    """The model's tensor with its colours as they were before normalisation, [T, S, S, 3]."""
    tensor = video_pixels(frames, recipe_, fit=fit)[0].numpy()
    levels = np.moveaxis(tensor, 1, 3) * (np.float32(STD) * 255) + np.float32(MEAN) * 255
    return np.rint(levels).astype(np.uint8)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize(("short_side", "crop", "height", "width"), SIZES)
def test_eyes_see_what_the_model_is_given(short_side: int, crop: int, height: int, width: int, fit: Fit) -> None:
    frames, recipe_ = frames_of(scene(height, width)), recipe(short_side, crop)
    squares = seen(frames, recipe_, fit=fit)
    expected = given_to_the_model(frames, recipe_, fit)
    assert (squares.shape, squares.dtype) == ((2, crop, crop, 3), np.uint8)
    assert np.abs(squares.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_frames_of_several_sizes_become_squares_each_by_itself(fit: Fit) -> None:
    wide, high, recipe_ = frames_of(scene(36, 64)[:1]), frames_of(scene(72, 40)[:1]), recipe(64, 64)
    pixels = np.full((2, 72, 64, 3), 255, np.uint8)
    pixels[0, :36], pixels[1, :, :40] = wide.pixels[0], high.pixels[0]
    both = replace(wide, pixels=pixels, times_s=(0.0, 1.0), sizes=((64, 36), (40, 72)))
    alone = torch.cat([video_pixels(each, recipe_, fit=fit)[0] for each in (wide, high)])
    for frames in (both, fitted(both, recipe_, fit=fit)):
        assert torch.equal(video_pixels(frames, recipe_, fit=fit)[0], alone)
    assert torch.equal(video_pixels(spread(both, fit), recipe_, fit=fit)[0], alone[[0] * 4 + [1] * 4])
    assert (seen(both, recipe_, fit=fit)[1] == seen(high, recipe_, fit=fit)[0]).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_very_long_picture_is_refused(fit: Fit) -> None:
    thin = frames_of(np.zeros((1, 1 << 19, 1, 3), np.uint8))
    with pytest.raises(MediaError, match=f"1x524288 is too long and thin for --fit {fit}"):
        seen(thin, recipe(224, 224), fit=fit)


def test_the_geometry_of_squares() -> None:
    assert short_side_size((480, 640), 224) == (224, 298)
    assert short_side_size((640, 480), 224) == (298, 224)
    assert crop_corner((224, 298), recipe(224, 224)) == (0, 37)
    assert crop_corner((299, 224), recipe(224, 224)) == (37, 0)
    assert padding_colour(MEAN) == (123, 117, 104)
    for height, width, top, left in ((31, 64, 16, 0), (64, 31, 0, 16)):
        square = padded(np.zeros((height, width, 3), np.uint8), MEAN)
        assert square.shape == (64, 64, 3)
        assert (square[top : top + height, left : left + width] == 0).all()
        assert (square > 0).any(axis=2).sum() == 64 * 33
