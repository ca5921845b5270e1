"""Reads a usual config.json without transformers, whose import takes longer than all else before a first answer.

A config is usual if it has only settings that this module knows, with values that the modules here can have. The
classes have transformers' names and defaults, so either kind of config can be read in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from vllava_cli.errors import CheckpointError
from vllava_cli.storage.fields import Fields

IGNORED = {
    *("_name_or_path", "architectures", "dtype", "model_type", "torch_dtype", "transformers_version", "use_cache"),
    *("attention_dropout", "ignore_index", "initializer_factor", "initializer_range", "pretraining_tp"),
    *("bos_token_id", "eos_token_id", "image_seq_length", "projection_dim", "video_seq_length"),
}
"""Settings that change nothing in an answer, whatever their values."""
UNREAD = {"ModelConfig": {"pad_token_id", "vocab_size"}, "TowerConfig": {"vocab_size"}}
"""Settings that the published config has in parts in which transformers doesn't read them."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """The sizes of the language model, and the base of its rotary embedding."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 128
    hidden_act: Literal["silu", "gelu"] = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    pad_token_id: int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_theta: float = 10000.0
    tie_word_embeddings: Literal[False] = False

    @property
    def rope_parameters(self) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.rope_theta}


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The sizes of a vision tower."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: Literal[3] = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The config of a whole model."""

    text_config: LanguageConfig
    vision_config: TowerConfig
    dtype: str | None = None
    image_token_index: int = 32000
    video_token_index: int = 32001
    projector_hidden_act: Literal["gelu"] = "gelu"
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    vision_feature_layer: Literal[-1, -2] = -2
    multimodal_projector_bias: bool = True
    tie_word_embeddings: Literal[False] = False

    @property
    def image_token_id(self) -> int:
        return self.image_token_index

    @property
    def video_token_id(self) -> int:
        return self.video_token_index

    @property
    def tower_layers(self) -> int:
        """The number of a tower's layers that the features need: those of layer -2 of 24 are made by the first 23."""
        return self.vision_config.num_hidden_layers + 1 + self.vision_feature_layer


def usual(given: Mapping[str, Any]) -> ModelConfig | None:
    """Reads the object in a config.json; None if the config isn't usual."""
    try:
        language, tower = dict(given["text_config"]), dict(given["vision_config"])
        heads, width = language.setdefault("num_attention_heads", 32), language.setdefault("hidden_size", 4096)
        if width % heads or tower.setdefault("hidden_size", 768) % tower.setdefault("num_attention_heads", 12):
            return None
        language["head_dim"] = language.get("head_dim") or width // heads
        language["num_key_value_heads"] = language.get("num_key_value_heads") or heads
        language |= _rotation(language.pop("rope_scaling", None) or language.pop("rope_parameters", None) or {})
        whole = dict(given) | {"text_config": language, "vision_config": tower}
        whole["dtype"] = given.get("dtype") or given.get("torch_dtype")
        if (language.get("pad_token_id") or 0) >= language.get("vocab_size", 32000):
            return None
        known = (language, LanguageConfig), (tower, TowerConfig), (whole, ModelConfig)
        if not all(_is_known(settings, kind) for settings, kind in known):
            return None
        return Fields(whole, "config", error=CheckpointError).build(ModelConfig)
    except (CheckpointError, LookupError, TypeError, ValueError, ArithmeticError):
        return None


def _rotation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the base that settings of a plain rotary embedding give, if any. Errors: LookupError for other settings.

    {"rope_type": "default", "rope_theta": 5000.0} → {"rope_theta": 5000.0}
    """
    rest = dict(settings)
    if rest.pop("rope_type", "default") != "default" or rest.keys() - {"rope_theta"}:
        raise LookupError(*rest)
    return rest


def _is_known(settings: Mapping[str, Any], kind: type) -> bool:
    names = {each.name for each in fields(kind)}
    return settings.keys() <= IGNORED | names | UNREAD.get(kind.__name__, set())
