"""Reads the preprocessing that a checkpoint's JSON files ask for, and computes the sizes that follow from it.

Needs no torch. A recipe that `pixels` can't reproduce exactly is an error, so the model never gets other pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vllava_cli.errors import CheckpointError
from vllava_cli.nouns import VideoRecipe
from vllava_cli.storage.fields import read_object

Size = tuple[int, int]
"""(height, width)"""

MOST_SIDE = 4096
"""The longest side, in pixels, of a frame as the model takes it."""
MOST_SHOWN = 80
MOST = 1e9
"""Numbers in a file, such as a mean, must be smaller than this."""
_EXPECTED: Mapping[str, Any] = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
}
# The values that VideoLlavaVideoProcessor uses for keys that a file doesn't have.
_DEFAULTS: Mapping[str, Any] = {
    **_EXPECTED,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def read_video_recipe(folder: Path) -> VideoRecipe:
    """Reads the recipe for videos from the first of these that exists, in transformers' order: `video_processor` in
    processor_config.json, video_preprocessor_config.json, preprocessor_config.json. Errors: CheckpointError.
    """
    if not (found := _found(folder)):
        what = "has no preprocessor_config.json, which says how frames are prepared"
        raise CheckpointError(f"{folder} {what}: copy the base model's.")
    path, written = found
    values: dict[str, Any] = {
        key: default if written.get(key) is None else written[key] for key, default in _DEFAULTS.items()
    }

    def check(key: str, is_right: bool, wanted: str) -> None:
        if not is_right:
            shown = f"{path} sets {key} to {_shown(values[key])}"
            raise CheckpointError(f"{shown}, but it must be {wanted}. Use another checkpoint.")

    for key, wanted in _EXPECTED.items():
        if key != "rescale_factor":
            check(key, values[key] == wanted, json.dumps(wanted))
        elif not (_is_number(values[key]) and math.isclose(values[key], wanted, rel_tol=1e-6)):
            check(key, False, "1/255")
    size, crop = values["size"], values["crop_size"]
    short_side: Any = size.get("shortest_edge") if isinstance(size, dict) and len(size) == 1 else size
    check("size", _is_side(short_side), '{"shortest_edge": N}')
    height: Any = crop.get("height") if isinstance(crop, dict) else crop
    width: Any = crop.get("width") if isinstance(crop, dict) else crop
    check("crop_size", _is_side(height) and _is_side(width), '{"height": N, "width": N}')
    check("crop_size", height == width and height <= short_side, f"a square no larger than {short_side}")
    for key in ("image_mean", "image_std"):
        is_list = isinstance(values[key], list) and len(values[key]) == 3
        check(key, is_list and all(map(_is_number, values[key])), "three numbers")
    check("image_std", min(values["image_std"]) > 0, "three numbers above 0")
    mean, std = tuple(values["image_mean"]), tuple(values["image_std"])
    return VideoRecipe(short_side=short_side, crop_height=height, crop_width=width, mean=mean, std=std)


def has_recipe(folder: Path) -> bool:
    """Returns True if a file in the folder says how to prepare frames. Errors: CheckpointError if it can't be read."""
    return _found(folder) is not None


def short_side_size(size: Size, short_side: int) -> Size:
    """Scales a size so that its short side is `short_side`; truncates the long one: (480, 640) to 224 → (224, 298)."""
    height, width = size
    if width <= height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)


def crop_corner(size: Size, recipe: VideoRecipe) -> tuple[int, int]:
    """Returns (top, left) of the square that is cut from the middle of a picture: (224, 298) → (0, 37)."""
    height, width = size
    return int((height - recipe.crop_height) / 2.0), int((width - recipe.crop_width) / 2.0)


def padded(frame: npt.NDArray[np.uint8], mean: tuple[float, ...]) -> npt.NDArray[np.uint8]:
    """Puts a frame [H, W, 3] in the middle of a square of the mean colour; an odd row or column goes below or right."""
    height, width, _ = frame.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.empty((side, side, 3), np.uint8)
    square[:] = padding_colour(mean)
    square[top : top + height, left : left + width] = frame
    return square


def padding_colour(mean: tuple[float, ...]) -> tuple[int, ...]:
    """Returns the mean as a colour: (0.481, 0.458, 0.408) → (123, 117, 104)."""
    return tuple(round(value * 255) for value in mean)


def _found(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    nested = folder / "processor_config.json"
    if nested.exists():
        inside = read_object(nested).get("video_processor")
        if isinstance(inside, dict):
            return nested, inside
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            return folder / name, read_object(folder / name)
    return None


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= MOST_SIDE


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def _shown(value: object) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "something deeply nested"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
