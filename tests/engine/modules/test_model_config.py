"""A usual config is read as transformers reads it; whatever is new or odd is left to transformers."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vllava_cli import demo
from vllava_cli.engine.checkpoint import CONFIG, DEFAULT_CHECKPOINT, PARTS, facts, read_config, read_full_config
from vllava_cli.engine.modules.model_config import ModelConfig, usual
from vllava_cli.nouns import Source

USUAL: dict[str, dict[str, Any]] = {
    "as it is": {},
    "what older versions write": {"text": {"rope_theta": 5000.0, "rope_scaling": None, "torch_dtype": "float16"}},
    "what newer versions write": {"text": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}},
    "both": {"text": {"rope_parameters": {"rope_theta": 5000.0}, "rope_theta": 1e6}},
    "shared keys": {"text": {"num_key_value_heads": 1, "head_dim": None}},
    "wide heads": {"text": {"head_dim": 48, "num_key_value_heads": None}},
    "other functions": {"text": {"hidden_act": "gelu"}, "vision": {"hidden_act": "gelu", "layer_norm_eps": 1e-6}},
    "biases": {"text": {"attention_bias": True, "mlp_bias": True}, "top": {"multimodal_projector_bias": False}},
    "the last layer": {"top": {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}},
}
UNUSUAL: dict[str, dict[str, Any]] = {
    "a setting of tomorrow": {"text": {"sliding_window": 512}},
    "another rotation": {"text": {"rope_scaling": {"type": "linear", "factor": 2.0}}},
    "a part of each head": {"text": {"rope_parameters": {"partial_rotary_factor": 0.5}}},
    "a function that is not built here": {"text": {"hidden_act": "relu"}},
    "features of several layers": {"top": {"vision_feature_layer": [-2, -3]}},
    "one matrix for embedding and head": {"top": {"tie_word_embeddings": True}},
    "a name of another version": {"top": {"image_token_id": 7}},
    "four colours": {"vision": {"num_channels": 4}},
    "heads of no size": {"text": {"num_attention_heads": 7}},
    "towers with heads of no size": {"vision": {"num_attention_heads": 7}},
    "padding elsewhere": {"text": {"pad_token_id": 5000}},
    "a number in words": {"text": {"vocab_size": "many"}},
    "no language model": {"top": {"text_config": None}},
    "a list for a tower": {"top": {"vision_config": [1]}},
}


def changed(change: dict[str, Any]) -> dict[str, Any]:
    """The demo's config with other fields in its parts; those of the config itself stand under "top"."""
    whole: dict[str, Any] = json.loads((demo.CHECKPOINT / CONFIG).read_text())
    for part in ("text", "vision"):
        whole[f"{part}_config"] |= change.get(part, {})
    return whole | change.get("top", {})


@pytest.mark.parametrize("name", USUAL)
def test_a_usual_config_has_the_values_that_transformers_reads(name: str, tmp_path: Path) -> None:
    given = changed(USUAL[name])
    (tmp_path / CONFIG).write_text(json.dumps(given))
    ours, theirs = usual(given), read_full_config(tmp_path)
    assert ours
    for values, found in ((ours, theirs), *((getattr(ours, part), getattr(theirs, part)) for part in PARTS)):
        plain = {each.name for each in fields(values)} - {*PARTS, "dtype", "rope_theta"}
        assert {each: getattr(values, each) for each in plain} == {each: getattr(found, each) for each in plain}
    assert ours.text_config.rope_parameters == theirs.text_config.rope_parameters
    assert f"torch.{ours.dtype}" == str(theirs.dtype)
    assert (ours.image_token_id, ours.video_token_id) == (theirs.image_token_id, theirs.video_token_id)


def test_what_a_file_leaves_out_is_what_transformers_takes(tmp_path: Path) -> None:
    """Three fields are there, by which a checkpoint is known."""
    kinds = {"text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip_vision_model"}}
    (tmp_path / CONFIG).write_text(json.dumps({"model_type": "video_llava", **kinds}))
    ours, theirs = read_config(tmp_path), read_full_config(tmp_path)
    assert isinstance(ours, ModelConfig)
    source, recipe = Source(model="bare", folder=tmp_path), DEFAULT_CHECKPOINT.video_recipe
    assert facts(ours, source, recipe) == facts(theirs, source, recipe)
    assert ours.text_config.rms_norm_eps == theirs.text_config.rms_norm_eps
    assert ours.vision_config.layer_norm_eps == theirs.vision_config.layer_norm_eps


def test_the_published_config_is_usual(published: Path) -> None:
    assert isinstance(read_config(published), ModelConfig)


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_config_is_left_to_transformers(name: str) -> None:
    assert usual(changed(UNUSUAL[name])) is None
