"""What the model sees, for eyes: compared with the tensors that it gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.clips import Pixels
from vllava_cli.errors import MediaError
from vllava_cli.media.contact_sheet import seen
from vllava_cli.media.pixels import video_pixels
from vllava_cli.media.preprocess import crop_corner, padding, padding_colour, short_side_size
from vllava_cli.nouns import Clip, Fit, Frames, VideoRecipe

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FITS: tuple[Fit, ...] = ("crop", "pad", "squash")
SIZES = [
    *((224, 224, 224, 224), (224, 224, 480, 640), (224, 224, 1080, 1920), (224, 224, 100, 1000), (224, 224, 17, 13)),
    *((64, 64, 48, 64), (64, 64, 33, 35), (64, 64, 720, 405), (73, 64, 80, 91), (73, 64, 91, 80)),
]


def recipe(short_side: int, crop: int) -> VideoRecipe:
    return VideoRecipe(short_side=short_side, crop_height=crop, crop_width=crop, mean=MEAN, std=STD)


def frames_of(pixels: Pixels) -> Frames:
    count, height, width, _ = pixels.shape
    clip = Clip(path=Path("a.mp4"), kind="video", width=width, height=height, frame_count=count)
    return Frames(clip=clip, pixels=pixels, times_s=tuple(float(index) for index in range(count)))


def scene(height: int, width: int) -> Pixels:
    """Two frames of gradients, stripes and noise, [2, H, W, 3]."""
    noise = np.random.default_rng(0).integers(0, 40, (2, height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    stripes = (x // 3 + y // 5) % 2 * 255
    base = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), stripes], axis=-1)
    return np.clip(base[None] + noise - 20, 0, 255).astype(np.uint8)


def given_to_the_model(frames: Frames, recipe_: VideoRecipe, fit: Fit) -> Pixels:
    """The model's tensor with its colours as they were before normalisation, [T, S, S, 3]."""
    tensor = video_pixels(frames, recipe_, fit=fit)[0].numpy()
    levels = np.moveaxis(tensor, 1, 3) * (np.float32(STD) * 255) + np.float32(MEAN) * 255
    return np.rint(levels).astype(np.uint8)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("short_side", "crop", "height", "width"), SIZES)
def test_eyes_see_what_the_model_is_given(short_side: int, crop: int, height: int, width: int, fit: Fit) -> None:
    frames, recipe_ = frames_of(scene(height, width)), recipe(short_side, crop)
    squares = seen(frames, recipe_, fit=fit)
    expected = given_to_the_model(frames, recipe_, fit)
    assert (squares.shape, squares.dtype) == ((2, crop, crop, 3), np.uint8)
    assert np.abs(squares.astype(int) - expected).max() <= 2


def test_only_the_middle_of_a_very_long_picture_is_resized() -> None:
    thin = np.zeros((1, 1, 2_000_001, 3), np.uint8)
    thin[0, 0, 1_000_000] = 255
    squares = seen(frames_of(thin), recipe(224, 224))
    assert squares.shape == (1, 224, 224, 3)
    assert squares[0, 112, 112].tolist() == [255, 255, 255]


@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_the_whole_of_a_very_long_picture_is_refused(fit: Fit) -> None:
    thin = frames_of(np.zeros((1, 1 << 19, 1, 3), np.uint8))
    with pytest.raises(MediaError) as error:
        seen(thin, recipe(224, 224), fit=fit)
    assert str(error.value) == f"A frame of 1x524288 is too long and thin for --fit {fit}. Use --fit crop."


def test_the_geometry_of_squares() -> None:
    assert short_side_size((480, 640), 224) == (224, 298)
    assert short_side_size((640, 480), 224) == (298, 224)
    assert crop_corner((224, 298), recipe(224, 224)) == (0, 37)
    assert crop_corner((299, 224), recipe(224, 224)) == (37, 0)
    assert padding((31, 64)) == (64, 16, 0)
    assert padding((64, 31)) == (64, 0, 16)
    assert padding_colour(MEAN) == (123, 117, 104)
