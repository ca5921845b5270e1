"""A vision tower and the projector: CLIP's vision model in plain torch, as far as Video-LLaVA uses it.

Its operations are transformers', in the same order, so its features have the same bits. Parameters have transformers'
names. They are on the meta device until they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from vllava_cli.engine.modules.model_config import ModelConfig, TowerConfig
    from vllava_cli.nouns import Attention


def quick_gelu(states: Tensor) -> Tensor:
    """Computes x * sigmoid(1.702 x) with one new tensor instead of three, whose pages cost more than the operations."""
    return (1.702 * states).sigmoid_().mul_(states)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "quick_gelu": quick_gelu,
    "silu": functional.silu,
}


class ClipTower(nn.Module):
    """A vision tower without the layers behind the features."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: ModelConfig, attention: Attention) -> None:
        super().__init__()
        vision = config.vision_config
        self.embeddings = TowerEmbeddings(vision)
        self.pre_layrnorm = _norm(vision)
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(TowerLayer(vision, attention) for _ in range(config.tower_layers))}
        )

    def forward(self, pixels: Tensor, before: Callable[[float], object] = float) -> Tensor:
        """[frames, 3, S, S] → [frames, 1 + patches, width]; `before` is called as in `VideoLlava.features`."""
        hidden: Tensor = self.pre_layrnorm(self.embeddings(pixels.to(self.embeddings.class_embedding)))
        layers = tuple(self.encoder["layers"].children())
        for number, layer in enumerate(layers):
            before(number / len(layers))
            hidden = layer(hidden)
        return hidden


class TowerEmbeddings(nn.Module):
    """Embeds the patches of frames, after a class token for each frame."""

    def __init__(self, vision: TowerConfig) -> None:
        super().__init__()
        width, patch = vision.hidden_size, vision.patch_size
        count = (vision.image_size // patch) ** 2
        self.class_embedding = nn.Parameter(torch.empty(width, device="meta"))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False, device="meta")
        self.position_embedding = empty_embedding(count + 1, width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class TowerLayer(nn.Module):
    """A layer of a tower: [frames, tokens, width] → the same."""

    def __init__(self, vision: TowerConfig, attention: Attention) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = _norm(vision), _norm(vision)
        self.self_attn = TowerAttention(vision, attention)
        self.mlp = TowerMlp(vision)

    def forward(self, hidden: Tensor) -> Tensor:
        attended: Tensor = self.self_attn(self.layer_norm1(hidden))
        hidden = attended.add_(hidden)
        computed: Tensor = self.mlp(self.layer_norm2(hidden))
        return computed.add_(hidden)


class TowerAttention(nn.Module):
    """Attention among the tokens of each frame."""

    def __init__(self, vision: TowerConfig, attention: Attention) -> None:
        super().__init__()
        width, self._heads, self._is_eager = vision.hidden_size, vision.num_attention_heads, attention == "eager"
        self._scale = (width // self._heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (_linear(width, width) for _ in range(4))

    def forward(self, hidden: Tensor) -> Tensor:
        frames, tokens, width = hidden.shape
        query, keys, values = (
            module(hidden).view(frames, tokens, self._heads, -1).transpose(1, 2)
            for module in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self._is_eager:
            weights = (query @ keys.transpose(2, 3) * self._scale).softmax(dim=-1, dtype=torch.float32)
            attended: Tensor = weights.to(query.dtype) @ values
        else:  # on CUDA this is flash-attn's kernel where it can be
            attended = functional.scaled_dot_product_attention(query, keys, values, scale=self._scale)
        projected: Tensor = self.out_proj(attended.transpose(1, 2).reshape(frames, tokens, width))
        return projected


class TowerMlp(nn.Module):
    def __init__(self, vision: TowerConfig) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[vision.hidden_act]
        self.fc1 = _linear(vision.hidden_size, vision.intermediate_size)
        self.fc2 = _linear(vision.intermediate_size, vision.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        computed: Tensor = self.fc2(self._activation(self.fc1(hidden)))
        return computed


class Projector(nn.Module):
    """Turns the towers' features into embeddings of the language model: [..., width] → [..., hidden]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, has_bias = config.text_config.hidden_size, config.multimodal_projector_bias
        self._activation = ACTIVATIONS[config.projector_hidden_act]
        self.linear_1 = _linear(config.vision_config.hidden_size, hidden, has_bias=has_bias)
        self.linear_2 = _linear(hidden, hidden, has_bias=has_bias)

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.linear_2(self._activation(self.linear_1(features)))
        return projected


def empty_embedding(rows: int, width: int, padding: int | None = None) -> nn.Embedding:
    """Makes an embedding without values; nn.Embedding would draw them and import torch._dynamo for that, which is slow.

    Errors: AssertionError if the embedding has no row `padding`.
    """
    weight = torch.empty(rows, width, device="meta")
    made: nn.Embedding = nn.Embedding.from_pretrained(weight, padding_idx=padding)  # type: ignore[no-untyped-call]
    return made


def _linear(into: int, out: int, *, has_bias: bool = True) -> nn.Linear:
    return nn.Linear(into, out, bias=has_bias, device="meta")


def _norm(vision: TowerConfig) -> nn.LayerNorm:
    return nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps, device="meta")
