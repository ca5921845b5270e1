"""The model as a tree of modules with transformers' names, without transformers, whose import takes seconds.

The language model's modules only hold parameters: `engine/llama.py` computes with them. All parameters are on the meta
device, without values, until `weights.py` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vllava_cli.engine.modules.clip_tower import ACTIVATIONS, ClipTower, Projector, empty_embedding

if TYPE_CHECKING:
    from vllava_cli.engine.modules.model_config import LanguageConfig, ModelConfig
    from vllava_cli.nouns import Attention, MediaKind


class VideoLlava(nn.Module):
    """A model of a usual config; parts that it lacks are None, and without the language model it has no head."""

    model: nn.ModuleDict

    def __init__(self, config: ModelConfig, attention: Attention, lacking: Collection[str] = ()) -> None:
        super().__init__()
        self.config = config
        language = config.text_config
        makers: dict[str, Callable[[], nn.Module]] = {
            "video_tower": partial(ClipTower, config, attention),
            "image_tower": partial(ClipTower, config, attention),
            "multi_modal_projector": partial(Projector, config),
            "language_model": partial(LanguageModel, language),
        }
        self.model = nn.ModuleDict()
        for name, make in makers.items():
            self.model.add_module(name, None if name in lacking else make())
        self.lm_head = None
        if "language_model" not in lacking:
            self.lm_head = _linear(language.hidden_size, language.vocab_size)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def features(self, kind: MediaKind, pixels: Tensor, before: Callable[[float], object] = float) -> Tensor:
        """Returns the projected features of videos [videos, frames, 3, S, S] or images [images, 3, S, S].

        The features are [frames or images, tokens, hidden]. `before` is called before each layer with the share of
        layers that are done; it may raise an error.
        """
        found = self.model[f"{kind}_tower"](pixels.flatten(0, -4), before)
        if kind == "image" and self.config.vision_feature_select_strategy == "default":
            found = found[:, 1:]
        projected: Tensor = self.model["multi_modal_projector"](found)
        return projected


class LanguageModel(nn.Module):
    """The parameters of a Llama."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = empty_embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(LanguageLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = LanguageNorm(config)

    def rotary_emb(self, like: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines [B, T, size] of positions [B, T], in the dtype and on the device of `like`."""
        size = self.config.head_dim
        powers = torch.arange(0, size, 2, dtype=torch.float) / size
        angles = places[..., None].float() * (1.0 / self.config.rope_theta**powers).to(like.device)
        both = torch.cat((angles, angles), dim=-1)
        return both.cos().to(like.dtype), both.sin().to(like.dtype)


class LanguageLayer(nn.Module):
    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = LanguageNorm(config), LanguageNorm(config)
        self.self_attn = LanguageAttention(config)
        self.mlp = LanguageMlp(config)


class LanguageAttention(nn.Module):
    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, size, has_bias = config.hidden_size, config.head_dim, config.attention_bias
        self.q_proj = _linear(width, config.num_attention_heads * size, has_bias=has_bias)
        self.k_proj, self.v_proj = (
            _linear(width, config.num_key_value_heads * size, has_bias=has_bias) for _ in range(2)
        )
        self.o_proj = _linear(config.num_attention_heads * size, width, has_bias=has_bias)


class LanguageMlp(nn.Module):
    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config, self.act_fn = config, ACTIVATIONS[config.hidden_act]
        width, inner, has_bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj, self.up_proj = (_linear(width, inner, has_bias=has_bias) for _ in range(2))
        self.down_proj = _linear(inner, width, has_bias=has_bias)


class LanguageNorm(nn.Module):
    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.variance_epsilon = config.rms_norm_eps
        self.weight = nn.Parameter(torch.empty(config.hidden_size, device="meta"))


def _linear(into: int, out: int, *, has_bias: bool = False) -> nn.Linear:
    return nn.Linear(into, out, bias=has_bias, device="meta")
