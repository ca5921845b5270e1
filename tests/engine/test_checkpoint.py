"""What a checkpoint's config says, and which folders are refused."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from tests.checkpoints import edit_json, write_checkpoint
from vllava_cli import demo
from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT, describe
from vllava_cli.engine.hub import shapes_in
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


def test_the_default_model_is_described_as_published() -> None:
    """Its three shards have 4.98, 4.95 and 4.81 GB, two bytes a parameter."""
    assert DEFAULT_CHECKPOINT.parameters * 2 / 1e9 == pytest.approx(4.98 + 4.95 + 4.81, abs=0.015)
    assert DEFAULT_CHECKPOINT.tokens_per_video == 2056
    assert DEFAULT_CHECKPOINT.cache_values_per_token * 2 * 4096 == 2 * 1024**3


def test_a_tower_that_keeps_its_class_token_has_one_more_image_token(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    edit_json(folder / "config.json", vision_feature_select_strategy="full")
    assert described(folder).tokens_per_image == 5


def test_parameters_are_counted_as_they_are(published: Path, small_checkpoint: Path) -> None:
    for folder in (published, small_checkpoint, demo.CHECKPOINT):
        shapes = {name: shape for file in folder.glob("*.safetensors") for name, shape in shapes_in(file).items()}
        language = [
            each for name, each in shapes.items() if re.search("language_model.*layers", name) and len(each) == 2
        ]
        tower = [each for name, each in shapes.items() if "video_tower" in name]
        whole, matrices, of_a_tower = (sum(map(math.prod, some)) for some in (shapes.values(), language, tower))
        found = described(folder)
        assert (found.parameters, found.language_parameters, found.tower_parameters) == (whole, matrices, of_a_tower)
        assert found.seeing(["image"]).other_parameters == whole - matrices - of_a_tower
        assert found.seeing(["image", "video", "image"]) == found
        assert found.seeing(["video"]).parameters == whole
