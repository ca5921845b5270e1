"""Describes a checkpoint by its config files: sizes, context, tokens per medium; and tells which files it lacks.

No weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.engine.modules.model_config import ModelConfig, usual
from vllava_cli.errors import CheckpointError, reason_of
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import (
    DEFAULT_MODEL,
    FRAMES_PER_CLIP,
    SHORT_NAMES,
    Checkpoint,
    Source,
    VideoRecipe,
)
from vllava_cli.storage.fields import read_object, unusable

if TYPE_CHECKING:
    from transformers import VideoLlavaConfig

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
QUANTISED = ("quantization_config", "compression_config")
PARTS = ("text_config", "vision_config")
MOST = {
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 18,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 10,
    "num_key_value_heads": 1 << 10,
    "head_dim": 1 << 12,
    "vocab_size": 1 << 20,
    "max_position_embeddings": 1 << 20,
    "image_size": 1 << 12,
    "patch_size": 1 << 12,
}
"""The largest numbers that a config may have: far more than any model has, and few enough to compute with."""
ROTATION = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
MOST_ROTATION = 1e12
"""The limit of the rotary embedding's numbers."""
MOST_TOKENS = 1 << 18
"""The most tokens that a video may have; with the published checkpoint it has 2056."""
DEFAULT_CHECKPOINT = Checkpoint(
    model=DEFAULT_MODEL,
    folder=Path(),
    language_parameters=6_476_005_376,
    other_parameters=890_273_792,
    embedding_parameters=2 * 32064 * 4096,
    tower_parameters=303_179_776,
    cache_values_per_token=2 * 32 * 4096,
    context_tokens=4096,
    tokens_per_video=FRAMES_PER_CLIP * 257,
    tokens_per_image=256,
    video_recipe=VideoRecipe(
        short_side=224,
        crop_height=224,
        crop_width=224,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
)
"""The default model's facts, from its published config, so that a plan can be shown before anything is fetched."""


def describe(source: Source) -> Checkpoint:
    """Reads the facts of a checkpoint. Errors: CheckpointError for a folder that is no Video-LLaVA checkpoint."""
    check_architecture(source.folder, named=source.model)
    missing = []
    if source.revision is None and not (source.folder / "tokenizer.json").exists():
        is_slow = (source.folder / "tokenizer.model").exists()
        missing.append("tokenizer.json" + " (tokenizer.model alone isn't enough)" * is_slow)
    if source.revision is None and not any((source.folder / name).exists() for name in PREPROCESSORS):
        missing.append(PREPROCESSORS[0])
    if missing:
        raise _lacking(source.folder, missing, "copy what is missing from")
    path, config, recipe = source.folder / CONFIG, read_config(source.folder), read_video_recipe(source.folder)
    side = config.vision_config.image_size
    if recipe.crop_height != side:
        raise unusable(path, f"frames are made {recipe.crop_height} pixels wide and image_size is {side}")
    found = facts(config, source, recipe)
    if found.tokens_per_video > MOST_TOKENS:
        raise unusable(path, f"image_size and patch_size make a video {found.tokens_per_video} tokens long")
    return found


def facts(config: ModelConfig | VideoLlavaConfig, source: Source, recipe: VideoRecipe) -> Checkpoint:
    """Computes the facts of a checkpoint from its config."""
    vision, text = config.vision_config, config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    attention = text.hidden_size * text.head_dim * 2 * (text.num_attention_heads + text.num_key_value_heads)
    words = (1 if config.tie_word_embeddings else 2) * text.vocab_size * text.hidden_size
    norms = (2 * text.num_hidden_layers + 1) * text.hidden_size
    projector = (vision.hidden_size + 1) * text.hidden_size + (text.hidden_size + 1) * text.hidden_size
    tower = _tower_parameters(vision)
    return Checkpoint(
        model=source.model,
        revision=source.revision,
        folder=source.folder,
        language_parameters=text.num_hidden_layers * (attention + 3 * text.hidden_size * text.intermediate_size),
        other_parameters=2 * tower + projector + words + norms,
        tower_parameters=tower,
        embedding_parameters=words,
        dtype=dtype if (dtype := str(config.dtype).removeprefix("torch.")) in SHORT_NAMES else "float16",
        cache_values_per_token=2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim,
        context_tokens=text.max_position_embeddings,
        tokens_per_video=FRAMES_PER_CLIP * (patches + 1),
        tokens_per_image=patches + (config.vision_feature_select_strategy != "default"),
        video_recipe=recipe,
        adapter=source.adapter,
    )


def read_config(folder: Path) -> ModelConfig | VideoLlavaConfig:
    """Reads a config with transformers' defaults for what the file leaves out. Errors: CheckpointError.

    A usual config is read without transformers, which takes seconds to import.
    """
    path = folder / CONFIG
    given = read_object(path)
    for part, values in ((part, given[part]) for part in PARTS if isinstance(given.get(part), dict)):
        _check_numbers(path, part, {name: value for name, value in values.items() if value is not None})
    config = usual(given)
    if config is None:
        return read_full_config(folder)
    _check(path, config)
    return config


def read_full_config(folder: Path) -> VideoLlavaConfig:
    """Reads a config as transformers does, into its own class. Errors: CheckpointError."""
    from transformers import VideoLlavaConfig
    from transformers.utils import logging

    logging.set_verbosity_error()  # it warns of values that are refused here or do no harm
    path = folder / CONFIG
    try:
        config = VideoLlavaConfig.from_dict(read_object(path))
    except Exception as exc:  # its strict classes raise many types for a bad value, and keep the cause
        raise unusable(path, reason_of(exc.__cause__ or exc)) from exc
    _check_functions(path, config)
    _check(path, config)
    return config


def _check(path: Path, config: ModelConfig | VideoLlavaConfig) -> None:
    """Raises CheckpointError for sizes and settings that are unknown or don't fit together."""
    for part in PARTS:
        _check_numbers(path, part, vars(getattr(config, part)))
    _check_vision(path, config)
    _check_language(path, config)


def check_architecture(folder: Path, *, named: str | None = None) -> None:
    """Raises CheckpointError if config.json is missing, unreadable, or of a model that this tool can't run."""
    path = folder / CONFIG
    if not path.exists():
        raise no_config(folder, named or str(folder))
    config = read_object(path)
    parts: list[Any] = [config, *(config.get(name) for name in PARTS)]
    kinds = [str(part["model_type"]) for part in parts if isinstance(part, dict) and "model_type" in part]
    if kinds != ["video_llava", "llama", "clip_vision_model"]:
        found = f"of type {' + '.join(kinds)}" if kinds else "not a model's config"
        raise CheckpointError(
            f"The file {path} is {found}: vllava runs Video-LLaVA checkpoints (model_type video_llava) only."
        )
    for quantised in (part[key] for part in parts for key in QUANTISED if part.get(key)):
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        raise CheckpointError(
            f"The checkpoint {folder} is already quantised{f' ({method})' if method else ''}: give the original, with "
            "--precision 4bit or 8bit, or dequantise it (model.dequantize() in transformers) and save that."
        )


def _check_numbers(path: Path, part: str, values: Mapping[str, Any]) -> None:
    """Raises CheckpointError if a value in a part of the config isn't a whole number from 1 to its limit in MOST."""
    for name, most in MOST.items():
        value = values.get(name, most)
        if type(value) is not int or not 1 <= value <= most:
            raise unusable(path, f"{part}.{name} is {str(value)[:40]} and must be a whole number from 1 to {most}")


def _check_vision(path: Path, config: ModelConfig | VideoLlavaConfig) -> None:
    """Raises CheckpointError for settings of the vision towers that are unknown or don't fit together."""
    vision, layers = config.vision_config, config.vision_feature_layer
    if vision.patch_size > vision.image_size:
        raise unusable(path, f"patch_size is {vision.patch_size} and image_size {vision.image_size}")
    for layer in layers if isinstance(layers, list | tuple) else [layers]:
        if type(layer) is not int or not -vision.num_hidden_layers - 1 <= layer <= vision.num_hidden_layers:
            raise unusable(path, f"vision_feature_layer is {layer} of {vision.num_hidden_layers} layers")
    if config.vision_feature_select_strategy not in ("default", "full"):
        raise unusable(path, f"vision_feature_select_strategy is {config.vision_feature_select_strategy}")


def _check_functions(path: Path, config: VideoLlavaConfig) -> None:
    """Raises CheckpointError for function names that transformers doesn't know."""
    from transformers.activations import ACT2FN
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config.text_config.rope_parameters or {}
    words = [(f"{part}.hidden_act", getattr(config, part).hidden_act, ACT2FN) for part in PARTS]
    words += [("projector_hidden_act", config.projector_hidden_act, ACT2FN)]
    words += [("rope_type", rope.get("rope_type", "default"), ("default", *ROPE_INIT_FUNCTIONS))]
    for name, word, known in words:
        if str(word) not in known:
            raise unusable(path, f"{name} is {str(word)[:40]}, which transformers doesn't know")


def _check_language(path: Path, config: ModelConfig | VideoLlavaConfig) -> None:
    """Raises CheckpointError for numbers of the language model that can't be used."""
    text, rope = config.text_config, config.text_config.rope_parameters or {}
    for name in ROTATION:
        value = rope.get(name, 1)
        if type(value) not in (int, float) or not 0 < value < MOST_ROTATION:
            raise unusable(path, f"{name} is {str(value)[:40]} and must be a number above 0")
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    if heads % kv_heads:
        raise unusable(path, f"num_attention_heads is {heads} and num_key_value_heads {kv_heads}")


def _tower_parameters(vision: Any) -> int:
    """Counts the parameters of a CLIP vision tower, biases and norms included."""
    hidden, inner, patch = vision.hidden_size, vision.intermediate_size, vision.patch_size
    layer = 4 * (hidden + 1) * hidden + 2 * hidden * inner + inner + hidden + 4 * hidden
    embeddings = hidden * (1 + 3 * patch**2 + (vision.image_size // patch) ** 2 + 1)
    return int(vision.num_hidden_layers * layer + embeddings + 4 * hidden)


def base_of(folder: Path) -> str | None:
    """Reads which model a folder's model or adapter was made from; None if no file says it. Errors: CheckpointError."""
    for name, key in ((ADAPTER_CONFIG, "base_model_name_or_path"), (CONFIG, "_name_or_path")):
        base = read_object(folder / name).get(key) if (folder / name).exists() else None
        if isinstance(base, str) and base and Path(base) != folder:
            return base
    return None


def no_config(folder: Path, named: str) -> CheckpointError:
    """Makes the error for a folder without config.json, which may be an adapter's."""
    if (folder / ADAPTER_CONFIG).exists():
        return CheckpointError(f"{named} is an adapter: give --model {base_of(folder) or 'BASE'} --adapter {named}.")
    return CheckpointError(f"The folder {folder} is not a checkpoint: it has no {CONFIG}.")


def no_weights(folder: Path, missing: Sequence[str]) -> CheckpointError:
    """Makes the error for a folder that lacks files of weights."""
    if (folder / ADAPTER_CONFIG).exists():
        return no_config(folder, str(folder))
    pickled = sorted(
        path.name for path in folder.iterdir() if path.suffix in PICKLED and "training_args" not in path.name
    )
    if pickled and not (folder / "model.safetensors.index.json").exists():
        return CheckpointError(
            f"The model folder {folder} has its weights in {pickled[0]}, and vllava reads them from safetensors files "
            "only: load it with transformers if you trust it, and save it with save_pretrained."
        )
    return _lacking(folder, missing, "copy the weights there again from where they were saved, or take")


def _lacking(folder: Path, missing: Sequence[str], remedy: str) -> CheckpointError:
    base = base_of(folder)
    where = f"the base checkpoint{f' {base}' if base else ', which it was trained from'}"
    return CheckpointError(f"The model folder {folder} lacks {' and '.join(missing)}: {remedy} {where}.")
