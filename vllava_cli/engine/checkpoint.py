"""What a checkpoint is, from its config files: sizes, context, tokens per medium. No weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.engine.hub import Source
from vllava_cli.errors import CheckpointError
from vllava_cli.media.recipe import read_video_recipe
from vllava_cli.nouns import FRAMES_PER_CLIP, Checkpoint, VideoRecipe

if TYPE_CHECKING:
    from transformers import VideoLlavaConfig


def describe(source: Source) -> Checkpoint:
    """The facts of a checkpoint. Errors: CheckpointError for any folder that is no Video-LLaVA checkpoint."""
    check_architecture(source.folder)
    return facts(read_config(source.folder), source, read_video_recipe(source.folder))


def facts(config: VideoLlavaConfig, source: Source, recipe: VideoRecipe) -> Checkpoint:
    """What follows from a config."""
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    text = config.text_config
    return Checkpoint(
        model=source.model,
        revision=source.revision,
        folder=source.folder,
        language_parameters=_language_matrices(text),
        other_parameters=_other_parameters(config),
        tower_parameters=_tower_parameters(config.vision_config),
        cache_values_per_token=2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim,
        context_tokens=text.max_position_embeddings,
        tokens_per_video=FRAMES_PER_CLIP * (patches + 1),
        tokens_per_image=patches + (config.vision_feature_select_strategy != "default"),
        video_recipe=recipe,
    )


def read_config(folder: Path) -> VideoLlavaConfig:
    """transformers' own config object, with its defaults for what the file leaves out."""
    from transformers import VideoLlavaConfig

    try:
        return VideoLlavaConfig.from_pretrained(folder, local_files_only=True)
    except Exception as exc:  # its strict classes raise many types for a bad value
        raise CheckpointError(f"The file {folder / 'config.json'} can't be used: {_first_line(exc)}.") from exc


def check_architecture(folder: Path) -> None:
    """Raises CheckpointError where config.json is missing, unreadable, or of a model that this tool can't run."""
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"The folder {folder} is no checkpoint: it has no config.json.")
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        kinds = (config["model_type"], config["text_config"]["model_type"], config["vision_config"]["model_type"])
    except (ValueError, KeyError, TypeError, OSError) as exc:
        kind = config.get("model_type") if "config" in locals() and isinstance(config, dict) else None
        raise CheckpointError(_other_model(path, kind)) from exc
    if kinds != ("video_llava", "llama", "clip_vision_model"):
        raise CheckpointError(_other_model(path, " + ".join(kinds)))
    if "quantization_config" in config:
        raise CheckpointError(
            f"The checkpoint {folder} is already quantised: give the original, with --precision 4bit."
        )


def _other_model(path: Path, kind: str | None) -> str:
    found = f"of type {kind}" if kind else "not a model's config"
    return f"The file {path} is {found}: vllava runs Video-LLaVA checkpoints (model_type video_llava) only."


def _language_matrices(text: Any) -> int:
    attention = text.hidden_size * text.head_dim * 2 * (text.num_attention_heads + text.num_key_value_heads)
    return int(text.num_hidden_layers * (attention + 3 * text.hidden_size * text.intermediate_size))


def _other_parameters(config: VideoLlavaConfig) -> int:
    vision, text = config.vision_config, config.text_config
    words = (1 if config.tie_word_embeddings else 2) * text.vocab_size * text.hidden_size
    norms = (2 * text.num_hidden_layers + 1) * text.hidden_size
    projector = projector_parameters(vision.hidden_size, text.hidden_size)
    return int(2 * _tower_parameters(vision) + projector + words + norms)


def _tower_parameters(vision: Any) -> int:
    return tower_parameters(
        hidden=vision.hidden_size,
        inner=vision.intermediate_size,
        layers=vision.num_hidden_layers,
        patch=vision.patch_size,
        side=vision.image_size,
    )


def tower_parameters(*, hidden: int, inner: int, layers: int, patch: int, side: int) -> int:
    """The parameters of a CLIP vision tower, biases and norms included."""
    layer = 4 * (hidden + 1) * hidden + 2 * hidden * inner + inner + hidden + 4 * hidden
    embeddings = hidden * (1 + 3 * patch**2 + (side // patch) ** 2 + 1)
    return layers * layer + embeddings + 4 * hidden


def projector_parameters(vision_hidden: int, hidden: int) -> int:
    """The parameters of the two layers between tower and language model."""
    return (vision_hidden + 1) * hidden + (hidden + 1) * hidden


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")
