"""The preprocessing that a checkpoint's JSON files ask for, and the sizes that follow from it.

Free of torch. Only what `pixels` reproduces exactly is accepted: another recipe is an error, never other pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from vllava_cli.errors import CheckpointError
from vllava_cli.nouns import VideoRecipe
from vllava_cli.storage.fields import read_object

Size = tuple[int, int]
"""(height, width)"""

MOST_SIDE = 4096
"""Pixels of a frame as the model takes it."""
MOST_SHOWN = 80
MOST = 1e9
"""The limit of a mean or another factor."""
# What VideoLlavaVideoProcessor takes where a file is silent.
_DEFAULTS: Mapping[str, object] = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_EXPECTED: Mapping[str, object] = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def read_video_recipe(folder: Path) -> VideoRecipe:
    """The recipe of the first that exists, as transformers looks for it: `video_processor` in processor_config.json,
    video_preprocessor_config.json, preprocessor_config.json."""
    path, written = _find(folder)
    _check_expected(path, written)
    values = {key: _default(default, written.get(key)) for key, default in _DEFAULTS.items()}
    short_side = _short_side(path, values["size"])
    crop_height, crop_width = _crop(path, values["crop_size"])
    if crop_height != crop_width or crop_height > short_side:
        raise _refusal(path, "crop_size", values["crop_size"], f"a square no larger than {short_side}")
    mean, std = _triple(path, "image_mean", values["image_mean"]), _triple(path, "image_std", values["image_std"])
    if not all(value > 0 for value in std):
        raise _refusal(path, "image_std", values["image_std"], "three numbers above 0")
    return VideoRecipe(short_side=short_side, crop_height=crop_height, crop_width=crop_width, mean=mean, std=std)


def has_recipe(folder: Path) -> bool:
    """Say whether a file describes how frames are prepared. Errors: CheckpointError where it can't be read."""
    return _found(folder) is not None


def short_side_size(size: Size, short_side: int) -> Size:
    """The size once its short side is `short_side`, the long one truncated: (480, 640) to 224 → (224, 298)."""
    height, width = size
    if width <= height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)


def crop_corner(size: Size, recipe: VideoRecipe) -> tuple[int, int]:
    """(top, left) of the square that is cut from the middle: (224, 298) → (0, 37)."""
    height, width = size
    return int((height - recipe.crop_height) / 2.0), int((width - recipe.crop_width) / 2.0)


def padding(size: Size) -> tuple[int, int, int]:
    """(side, top, left) of a picture in the middle of a square; the odd row or column goes below or right."""
    height, width = size
    side = max(height, width)
    return side, (side - height) // 2, (side - width) // 2


def padding_colour(mean: tuple[float, ...]) -> tuple[int, ...]:
    """The mean as a colour: (0.481, 0.458, 0.408) → (123, 117, 104)."""
    return tuple(round(value * 255) for value in mean)


def _find(folder: Path) -> tuple[Path, Mapping[str, object]]:
    if found := _found(folder):
        return found
    raise CheckpointError(
        f"{folder} has no preprocessor_config.json, which says how frames are prepared: copy the base's."
    )


def _found(folder: Path) -> tuple[Path, Mapping[str, object]] | None:
    nested = folder / "processor_config.json"
    if nested.exists():
        inside = read_object(nested).get("video_processor")
        if isinstance(inside, dict):
            return nested, inside
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            return folder / name, read_object(folder / name)
    return None


def _check_expected(path: Path, written: Mapping[str, object]) -> None:
    for key, wanted in _EXPECTED.items():
        value = _default(wanted, written.get(key))
        if isinstance(wanted, float) and _is_number(value) and math.isclose(float(str(value)), wanted, rel_tol=1e-6):
            continue
        if value != wanted:
            raise _refusal(path, key, value, "1/255" if key == "rescale_factor" else json.dumps(wanted))


def _short_side(path: Path, size: object) -> int:
    """224 → 224; {"shortest_edge": 224} → 224; anything else is another way to resize."""
    value = size.get("shortest_edge") if isinstance(size, dict) and len(size) == 1 else size
    return _whole(path, "size", value, '{"shortest_edge": N}')


def _crop(path: Path, crop_size: object) -> tuple[int, int]:
    """224 → (224, 224); {"height": 224, "width": 224} → (224, 224)."""
    sides = [crop_size.get("height"), crop_size.get("width")] if isinstance(crop_size, dict) else [crop_size, crop_size]
    if None in sides:
        raise _refusal(path, "crop_size", crop_size, '{"height": N, "width": N}')
    height, width = (_whole(path, "crop_size", side, '{"height": N, "width": N}') for side in sides)
    return height, width


def _whole(path: Path, key: str, value: object, wanted: str) -> int:
    if type(value) is not int or not 1 <= value <= MOST_SIDE:
        raise _refusal(path, key, value, wanted)
    return value


def _triple(path: Path, key: str, value: object) -> tuple[float, float, float]:
    if not isinstance(value, list) or len(value) != 3 or not all(_is_number(part) for part in value):
        raise _refusal(path, key, value, "three numbers")
    return float(value[0]), float(value[1]), float(value[2])


def _default(default: object, value: object) -> object:
    return default if value is None else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def _refusal(path: Path, key: str, value: object, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"{path} sets {key} to {_shown(value)}, but it must be {wanted}. Use a checkpoint saved with it."
    )


def _shown(value: object) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "something deeply nested"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
