"""What a checkpoint's config says, and which folders are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.checkpoints import edit_json, write_checkpoint
from vllava_cli import demo
from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT, describe
from vllava_cli.nouns import Checkpoint, Source


def described(folder: Path) -> Checkpoint:
    return describe(Source(model="small", folder=folder, revision="abc"))


def test_the_facts_come_from_the_files(small_checkpoint: Path) -> None:
    checkpoint = described(small_checkpoint)
    assert (checkpoint.model, checkpoint.revision, checkpoint.folder) == ("small", "abc", small_checkpoint)
    assert checkpoint.context_tokens == 1024
    assert checkpoint.tokens_per_video == 8 * (2 * 2 + 1)
    assert checkpoint.tokens_per_image == 2 * 2
    assert checkpoint.cache_values_per_token == 2 * 2 * 64
    assert checkpoint.video_recipe.short_side == 32


def test_the_parameters_are_those_of_the_weights(small_checkpoint: Path) -> None:
    checkpoint = described(small_checkpoint)
    language = other = tower = 0
    with safe_open(small_checkpoint / "model.safetensors", framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118  (safe_open is no dict)
            shape = weights.get_slice(name).get_shape()
            size = 1
            for side in shape:
                size *= side
            if ".language_model." in f".{name}" and "layers" in name and len(shape) == 2:
                language += size
            else:
                other += size
                tower += size * ("video_tower" in name)
    assert checkpoint.language_parameters == language
    assert checkpoint.other_parameters == pytest.approx(other, rel=0.05)  # norms and biases are left out
    assert checkpoint.tower_parameters == pytest.approx(tower, rel=0.05)
    assert checkpoint.seeing(["image"]).other_parameters == pytest.approx(other - tower, rel=0.05)
    assert checkpoint.seeing(["image", "video", "image"]) == checkpoint


def test_the_default_model_is_described_as_published() -> None:
    """Its three shards have 4.98, 4.95 and 4.81 GB, two bytes a parameter."""
    assert DEFAULT_CHECKPOINT.parameters * 2 / 1e9 == pytest.approx(4.98 + 4.95 + 4.81, abs=0.015)
    assert DEFAULT_CHECKPOINT.tokens_per_video == 2056
    assert DEFAULT_CHECKPOINT.cache_values_per_token * 2 * 4096 == 2 * 1024**3


def test_a_tower_that_keeps_its_class_token_has_one_more_image_token(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    edit_json(folder / "config.json", vision_feature_select_strategy="full")
    assert described(folder).tokens_per_image == 5


def values_in(folder: Path) -> int:
    """How many numbers the weight files in a folder hold, by their headers."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        count += sum(math.prod(each["shape"]) for name, each in header.items() if name != "__metadata__")
    return count


def test_parameters_are_counted_as_they_are(published: Path, small_checkpoint: Path) -> None:
    for folder in (published, small_checkpoint, demo.CHECKPOINT):
        assert described(folder).parameters == described(folder).seeing(["video"]).parameters == values_in(folder)
