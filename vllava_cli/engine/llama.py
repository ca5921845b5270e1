"""The language model's pass in as few operations as it takes: transformers' weights, without its modules' calls.

A token of a small model costs what Python and PyTorch spend on calling operations: here these are a third as many.
Query,
key and value are one product, so are the two ways into the MLP; both residual sums are part of a product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from vllava_cli.engine.attention import Attend, attention_of

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration

    from vllava_cli.nouns import Attention

Product = Callable[[Tensor], Tensor]
"""[N, in] → [N, out]."""
Sum = Callable[[Tensor, Tensor], Tensor]
"""(residual [N, out], [N, in]) → [N, out]."""
CHANGING_ROTATIONS = ("dynamic", "longrope")
"""Kinds of rotary embedding whose frequencies depend on how long the prompt is."""


class CacheLayer(Protocol):
    """What a layer's keys and values are appended to, [B, kv heads, T, size] each; returns all that it then holds."""

    def update(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class Where:
    """What all layers of a pass share: B rows of T tokens, the cosines and signed sines of their places, the mask."""

    rows: int
    tokens: int
    cosines: Tensor
    """[B or 1, T, 1, size]."""
    sines: Tensor
    mask: Tensor | None


class Block(nn.Module):
    """One layer, [B * T, hidden] to the same."""

    def __init__(self, layer: Any, attend: Attend, *, heads: int, kv_heads: int) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._heads, self._both = heads, heads + kv_heads
        self._size: int = attention.head_dim
        self._epsilon: float = layer.input_layernorm.variance_epsilon
        self._attention_norm: Tensor = layer.input_layernorm.weight
        self._into_attention = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._attend = attend
        self._out_of_attention = _added(attention.o_proj)
        self._mlp_norm: Tensor = layer.post_attention_layernorm.weight
        self._into_mlp = _joined(mlp.gate_proj, mlp.up_proj)
        self._activation: Callable[[Tensor], Tensor] = mlp.act_fn
        self._out_of_mlp = _added(mlp.down_proj)

    def forward(self, hidden: Tensor, layer: CacheLayer, where: Where, attend: Attend | None) -> Tensor:
        heads, both, width = self._heads, self._both, (hidden.shape[1],)
        states = self._into_attention(functional.rms_norm(hidden, width, self._attention_norm, self._epsilon))
        states = states.view(where.rows, where.tokens, -1, self._size)
        turned = _turned(states[:, :, :both], where.cosines, where.sines)
        keys, values = layer.update(turned[:, :, heads:].transpose(1, 2), states[:, :, both:].transpose(1, 2))
        attended = (attend or self._attend)(turned[:, :, :heads].transpose(1, 2), keys, values, where.mask)
        hidden = self._out_of_attention(hidden, attended.transpose(1, 2).reshape(len(hidden), -1))
        normed = functional.rms_norm(hidden, width, self._mlp_norm, self._epsilon)
        gate, up = self._into_mlp(normed).chunk(2, dim=-1)
        return self._out_of_mlp(hidden, self._activation(gate) * up)


class Llama(nn.Module):
    """A model's language part. The matrices of each layer are joined once; transformers' modules keep views of them."""

    def __init__(self, model: VideoLlavaForConditionalGeneration, attention: Attention) -> None:
        super().__init__()
        language: Any = model.model.language_model
        config = language.config
        self._context: int = config.max_position_embeddings
        self._embedding: Tensor = language.embed_tokens.weight
        self._norm: Tensor = language.norm.weight
        self._epsilon: float = language.norm.variance_epsilon
        self._head = model.lm_head
        self._rotary = language.rotary_emb
        changes = config.rope_parameters["rope_type"] in CHANGING_ROTATIONS
        with torch.inference_mode(False), torch.no_grad():
            self._table = None if changes else self._rotations()
            heads = {"heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads}
            attend = attention_of(attention)
            self.blocks = nn.ModuleList(Block(layer, attend, **heads) for layer in language.layers)

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    def embedded(self, ids: Tensor) -> Tensor:
        """[B, T] → [B, T, hidden]."""
        return functional.embedding(ids, self._embedding)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] → [..., vocabulary]."""
        found: Tensor = self._head(hidden)
        return found

    def read(
        self,
        inputs: Tensor,
        layers: Sequence[CacheLayer],
        *,
        start: int = 0,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        attend: Attend | None = None,
    ) -> Tensor:
        """[B, T, hidden] behind what the layers hold → the last hidden states, as long.

        The T tokens are at `start` and behind, or at `positions` [B, T]; `mask` is as in `attention`, and `attend`
        replaces the usual kernel.
        """
        found: Tensor = self(inputs, layers, start=start, positions=positions, mask=mask, attend=attend)
        return found

    def forward(
        self,
        inputs: Tensor,
        layers: Sequence[CacheLayer],
        *,
        start: int,
        positions: Tensor | None,
        mask: Tensor | None,
        attend: Attend | None,
    ) -> Tensor:
        rows, tokens, width = inputs.shape
        cosines, sines = self._turn(inputs, start, positions)
        where = Where(rows=rows, tokens=tokens, cosines=cosines, sines=sines, mask=mask)
        hidden = inputs.reshape(-1, width)
        for block, layer in zip(self.blocks, layers, strict=True):
            hidden = block(hidden, layer, where, attend)
        return functional.rms_norm(hidden, (width,), self._norm, self._epsilon).view(rows, tokens, width)

    def _turn(self, inputs: Tensor, start: int, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, [B or 1, T, 1, size] each."""
        if self._table is None:
            places = torch.arange(start, start + inputs.shape[1], device=self.device)[None]
            return self._rotation(inputs, places if positions is None else positions)
        cosines, sines = self._table
        if positions is not None:
            return cosines[positions], sines[positions]
        return cosines[None, start : start + inputs.shape[1]], sines[None, start : start + inputs.shape[1]]

    def _rotations(self) -> tuple[Tensor, Tensor]:
        """Those of all positions, [context, 1, size] each."""
        places = torch.arange(self._context, device=self.device)[None]
        cosines, sines = self._rotation(self._embedding[:1], places)
        return cosines[0], sines[0]

    def _rotation(self, like: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The sine of the first half has its sign turned, so that turning needs no other."""
        cosines, sines = self._rotary(like, places)
        first, second = sines.chunk(2, dim=-1)
        return cosines[:, :, None], torch.cat((-first, second), dim=-1)[:, :, None]


def _turned(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    return torch.addcmul(states * cosines, states.roll(states.shape[-1] // 2, -1), sines)


def _joined(*modules: nn.Module) -> Product:
    """One product for several; quantised matrices can't be joined, and are asked one after another."""
    linear = [module for module in modules if type(module) is nn.Linear]
    if len(linear) < len(modules):
        return lambda states: torch.cat([module(states) for module in modules], dim=-1)
    weight = torch.cat([module.weight for module in linear])
    bias = None if linear[0].bias is None else torch.cat([module.bias for module in linear])
    start = 0
    for module in linear:
        end = start + module.out_features
        module.weight = nn.Parameter(weight[start:end], requires_grad=False)
        start = end
    return lambda states: functional.linear(states, weight, bias)


def _added(module: nn.Module) -> Sum:
    """A product with the residual that it is added to."""
    if type(module) is not nn.Linear or module.bias is not None:
        return lambda residual, states: residual + module(states)
    turned = module.weight.t()
    return lambda residual, states: torch.addmm(residual, states, turned)
