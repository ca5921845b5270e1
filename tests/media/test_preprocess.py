from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllava_cli.errors import CheckpointError
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import VideoRecipe

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
REAL = VideoRecipe(short_side=224, crop_height=224, crop_width=224, mean=MEAN, std=STD)

# As the checkpoint on the hub has it.
HUB = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(MEAN),
    "image_processor_type": "VideoLlavaImageProcessor",
    "image_std": list(STD),
    "processor_class": "VideoLlavaProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}


def write(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def small(side: int) -> dict[str, object]:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def test_the_recipe_of_the_real_checkpoint(tmp_path: Path) -> None:
    assert read_video_recipe(write(tmp_path, preprocessor_config=HUB)) == REAL


def test_a_silent_file_means_the_defaults_of_transformers(tmp_path: Path) -> None:
    assert read_video_recipe(write(tmp_path, preprocessor_config={"size": None})) == REAL


def test_the_old_way_to_write_sizes(tmp_path: Path) -> None:
    recipe = read_video_recipe(write(tmp_path, preprocessor_config={"size": 73, "crop_size": 64}))
    assert (recipe.short_side, recipe.crop_height, recipe.crop_width) == (73, 64, 64)


@pytest.mark.parametrize(
    ("files", "side"),
    [
        ({"preprocessor_config": small(32)}, 32),
        ({"preprocessor_config": small(32), "video_preprocessor_config": small(48)}, 48),
        ({"video_preprocessor_config": small(48), "processor_config": {"video_processor": small(64)}}, 64),
        ({"preprocessor_config": small(32), "processor_config": {"processor_class": "VideoLlavaProcessor"}}, 32),
    ],
)
def test_which_of_several_files_counts(tmp_path: Path, files: dict[str, object], side: int) -> None:
    recipe = read_video_recipe(write(tmp_path, **files))
    assert (recipe.short_side, recipe.crop_height, recipe.crop_width) == (side, side, side)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("do_center_crop", False, "do_center_crop to false, but it must be true"),
        ("do_resize", False, "do_resize to false, but it must be true"),
        ("do_rescale", False, "do_rescale to false, but it must be true"),
        ("do_normalize", False, "do_normalize to false, but it must be true"),
        ("resample", 2, "resample to 2, but it must be 3"),
        ("rescale_factor", 0.0078, "rescale_factor to 0.0078, but it must be 1/255"),
        ("rescale_factor", "x", 'rescale_factor to "x", but it must be 1/255'),
        (
            "size",
            {"height": 224, "width": 224},
            'size to {"height": 224, "width": 224}, but it must be {"shortest_edge": N}',
        ),
        ("size", 0, 'size to 0, but it must be {"shortest_edge": N}'),
        ("size", 10**12, 'size to 1000000000000, but it must be {"shortest_edge": N}'),
        ("size", True, 'size to true, but it must be {"shortest_edge": N}'),
        (
            "crop_size",
            {"height": 224},
            'crop_size to {"height": 224}, but it must be {"height": N, "width": N}',
        ),
        (
            "crop_size",
            {"height": 224, "width": 200},
            'crop_size to {"height": 224, "width": 200}, but it must be a square no larger than 224',
        ),
        ("crop_size", 256, "crop_size to 256, but it must be a square no larger than 224"),
        ("image_mean", [0.5, 0.5], "image_mean to [0.5, 0.5], but it must be three numbers"),
        ("image_std", [0.5, 0.5, "x"], 'image_std to [0.5, 0.5, "x"], but it must be three numbers'),
        ("image_std", [0.5, 0.5, 10**400], f"image_std to [0.5, 0.5, 1{'0' * 68}…, but it must be three numbers"),
        ("image_std", [0.5, 0.5, 0], "image_std to [0.5, 0.5, 0], but it must be three numbers above 0"),
    ],
)
def test_a_recipe_that_would_give_other_pixels_is_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    write(tmp_path, preprocessor_config={**HUB, key: value})
    with pytest.raises(CheckpointError) as error:
        read_video_recipe(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    assert str(error.value) == f"{file} sets {message}. Use another checkpoint."


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        read_video_recipe(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} has no preprocessor_config.json, which says how frames are prepared: copy the base model's."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "it is not a JSON object (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b"[]", "it is not a JSON object (but a list)"),
    ],
)
def test_a_broken_file(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_video_recipe(tmp_path)
    assert str(error.value) == f"The file {file} can't be used: {message}. Replace it with the original checkpoint's."
