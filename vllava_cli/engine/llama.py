"""Runs the language model in as few operations as possible, with transformers' weights but without its modules.

With a small model, most of a token's time goes into calling operations; this module calls a third as many.
One product computes query, key and value, another gate and up of the MLP. Residuals are added within products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from vllava_cli.engine.cpu.linear import CpuLinear, Workspace, joined
from vllava_cli.engine.cpu.products import GROUP, CompiledProducts
from vllava_cli.interrupt import NEVER, Cancel

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration

    from vllava_cli.nouns import Attention

Attend = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
"""(query [B, heads, T, size], keys and values [B, kv heads, L, size], mask [B or 1, 1, T, L] bool or None: causal, the
T rows being the last of L) → [B, heads, T, size]. PyTorch's takes a mask of 0 and -inf as well."""
Product = Callable[[Tensor], Tensor]
"""[N, in] → [N, out]."""
Sum = Callable[[Tensor, Tensor], Tensor]
"""(residual [N, out], [N, in]) → [N, out]."""
CHANGING_ROTATIONS = ("dynamic", "longrope")
"""Kinds of rotary embedding whose frequencies depend on how long the prompt is."""


class CacheLayer(Protocol):
    """A layer's cache; `update` appends keys and values [B, kv heads, T, size] and returns all that the layer holds."""

    def update(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class PassInputs:
    """The inputs that all layers of a pass share: B rows of T tokens, their rotations, the mask."""

    rows: int
    tokens: int
    cosines: Tensor
    """[T, size] or [B or 1, 1, T, size], like the sines, whose first half is negated."""
    sines: Tensor
    mask: Tensor | None


class Norm:
    """A root-mean-square norm, x * weight / √(mean of x² + ε).

    PyTorch's own norm is a dozen small operations in float32 on the CPU. There, this one needs fewer:
    x / hypot(‖x‖, √(n * ε)) * (weight * √n).
    """

    def __init__(self, module: Any) -> None:
        self._weight: Tensor = module.weight.detach()
        self._epsilon: float = module.variance_epsilon
        self._shape = self._weight.shape
        self._is_small = self._weight.dtype == torch.float32 and self._weight.device.type == "cpu"
        if self._is_small:
            root = len(self._weight) ** 0.5
            self._scaled, self._least = self._weight * root, self._weight.new_tensor([root * self._epsilon**0.5])

    def __call__(self, hidden: Tensor) -> Tensor:
        """Normalises each row: [N, width] → [N, width]."""
        if not self._is_small:
            return functional.rms_norm(hidden, self._shape, self._weight, self._epsilon)
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return (hidden / torch.hypot(length, self._least)).mul_(self._scaled)


class Block(nn.Module):
    """One layer of the language model: [B * T, hidden] → [B * T, hidden]."""

    def __init__(
        self, layer: Any, attend: Attend, *, heads: int, kv_heads: int, cache_dtype: torch.dtype | None = None
    ) -> None:
        """Takes the layer's weights; keys and values are kept in `cache_dtype`, or as they are computed."""
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._heads, self._kv_heads, self._cache_dtype = heads, kv_heads, cache_dtype
        self._size: int = attention.head_dim
        self._attention_norm = Norm(layer.input_layernorm)
        self._into_attention = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._attend = attend
        self._out_of_attention = _added(attention.o_proj)
        self._mlp_norm = Norm(layer.post_attention_layernorm)
        self._into_mlp = _joined(mlp.gate_proj, mlp.up_proj)
        self._activation: Product = functional.silu if mlp.config.hidden_act == "silu" else mlp.act_fn
        self._out_of_mlp = _added(mlp.down_proj)

    def forward(
        self,
        hidden: Tensor,
        layer: CacheLayer,
        shared: PassInputs,
        attend: Attend | None,
        is_output_wanted: bool,
    ) -> Tensor:
        """Returns the layer's output; its input if only the keys and values in the cache are wanted."""
        heads, both = self._heads, self._heads + self._kv_heads
        states = self._into_attention(self._attention_norm(hidden))
        states = _by_heads(states, shared.rows, shared.tokens, self._size)
        rotated = _rotated(states[:, :both], shared.cosines, shared.sines)
        keys, values = rotated[:, heads:], states[:, both:]
        if self._cache_dtype:
            keys, values = keys.to(self._cache_dtype), values.to(self._cache_dtype)
        keys, values = layer.update(keys, values)
        if not is_output_wanted:
            return hidden
        attended = (attend or self._attend)(rotated[:, :heads], keys, values, shared.mask)
        hidden = self._out_of_attention(hidden, _by_tokens(attended, shared.tokens))
        gate, up = self._into_mlp(self._mlp_norm(hidden)).chunk(2, dim=-1)
        return self._out_of_mlp(hidden, self._activation(gate) * up)


class Llama(nn.Module):
    """The language model. The matrices of each layer are joined once; transformers' modules keep views of them."""

    __call__: Callable[..., Tensor]

    def __init__(self, model: VideoLlavaForConditionalGeneration, attention: Attention) -> None:
        super().__init__()
        language: Any = model.model.language_model
        config = language.config
        self._embedding: Tensor = language.embed_tokens.weight.detach()
        self._norm = Norm(language.norm)
        self._head = model.lm_head
        self._workspace: Workspace | None = getattr(model, "workspace", None)
        """What the layers share if they are CpuLinear: those compute in fp32."""
        self.on_layer: Callable[[float], object] = float
        """Called before each layer of a pass with the share of layers that are done."""
        self.dtype = torch.float32 if self._workspace else self._embedding.dtype
        self._rotary = language.rotary_emb
        changes = config.rope_parameters["rope_type"] in CHANGING_ROTATIONS
        with torch.inference_mode(False), torch.no_grad():
            self._table: tuple[Tensor, Tensor] | None = None
            """The rotations of all positions, [context, size] each."""
            if not changes:
                places = torch.arange(config.max_position_embeddings, device=self.device)[None]
                cosines, sines = self._rotation(self._embedding[:1].to(self.dtype), places)
                self._table = cosines[0, 0], sines[0, 0]
            heads = {"heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads}
            attend, cache_dtype = KERNELS[attention], None
            if self._workspace:
                products, is_wide_enough = self._workspace.products, language.layers[0].self_attn.head_dim % GROUP == 0
                compiled = products if isinstance(products, CompiledProducts) and is_wide_enough else None
                attend = over_held(attend, compiled, self._workspace.wide_dtype)
                cache_dtype = torch.float16 if compiled else torch.float32
            self._is_sdpa = attention == "sdpa"
            self.blocks = nn.ModuleList(
                Block(layer, attend, **heads, cache_dtype=cache_dtype) for layer in language.layers
            )

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    @property
    def is_held(self) -> bool:
        """True if the layers are CpuLinear, which can be stopped within a layer."""
        return self._workspace is not None

    def embedded(self, ids: Tensor) -> Tensor:
        """Returns the embeddings of ids: [B, T] → [B, T, hidden]."""
        return functional.embedding(ids, self._embedding).to(self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns the logits of hidden states: [..., hidden] → [..., vocabulary]."""
        found: Tensor = self._head(hidden)
        return found

    def forward(
        self,
        inputs: Tensor,
        layers: Sequence[CacheLayer],
        *,
        start: int = 0,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        attend: Attend | None = None,
        is_output_wanted: bool = True,
        cancel: Cancel = NEVER,
    ) -> Tensor:
        """Feeds embeddings [B, T, hidden] after the tokens in `layers`; returns the last hidden states [B, T, hidden].

        The T tokens have the positions from `start` on, or `positions` [B, T]. `mask` is as in `Attend`, and `attend`
        replaces the usual kernel. If only `layers` matter, the output isn't wanted: it is of no use then, and the last
        layer computes nothing but its keys and values. Errors: CancelError; some layers then hold the T tokens, others
        don't.
        """
        rows, tokens, width = inputs.shape
        cosines, sines = self._rotations_at(inputs, start, positions)
        if self._is_sdpa and attend is None:
            if mask is None and start and tokens > 1 and positions is None:
                mask = causal_mask(tokens, start + tokens, self.device)
            if mask is not None:  # converted once here, else each layer would do it again
                mask = torch.zeros_like(mask, dtype=inputs.dtype).masked_fill_(~mask, float("-inf"))
        shared = PassInputs(rows=rows, tokens=tokens, cosines=cosines, sines=sines, mask=mask)
        hidden = inputs.reshape(-1, width)
        if self._workspace:
            self._workspace.cancel = cancel
        is_asking = self.device.type != "cuda"
        for number, (block, layer) in enumerate(zip(self.blocks, layers, strict=True)):
            if is_asking:
                cancel.check()
                self.on_layer(number / len(self.blocks))
            is_last = number == len(self.blocks) - 1
            hidden = block(hidden, layer, shared, attend, is_output_wanted or not is_last)
        return self._norm(hidden).view(rows, tokens, width)

    def _rotations_at(self, inputs: Tensor, start: int, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the cosines and the signed sines of the T tokens, [T, size] or [B or 1, 1, T, size] each."""
        if self._table is None:
            places = torch.arange(start, start + inputs.shape[1], device=self.device)[None]
            return self._rotation(inputs, places if positions is None else positions)
        cosines, sines = self._table
        if positions is not None:
            return cosines[positions][:, None], sines[positions][:, None]
        return cosines[start : start + inputs.shape[1]], sines[start : start + inputs.shape[1]]

    def _rotation(self, like: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines, [B or 1, 1, T, size] each. The sines' first half is negated for `_rotated`."""
        cosines, sines = self._rotary(like, places)
        first, second = sines.chunk(2, dim=-1)
        return cosines[:, None], torch.cat((-first, second), dim=-1)[:, None]


def _by_heads(states: Tensor, rows: int, tokens: int, size: int) -> Tensor:
    """[B * T, heads * size] → [B, heads, T, size]."""
    if tokens == 1:  # the memory has this order already: a view is one operation less
        return states.view(rows, -1, 1, size)
    return states.view(rows, tokens, -1, size).transpose(1, 2)


def _by_tokens(attended: Tensor, tokens: int) -> Tensor:
    """[B, heads, T, size] → [B * T, heads * size]."""
    if tokens == 1:
        return attended.reshape(len(attended), -1)
    return attended.transpose(1, 2).reshape(len(attended) * tokens, -1)


def _rotated(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    return torch.addcmul(states * cosines, states.roll(states.shape[-1] // 2, -1), sines)


def _joined(*modules: nn.Module) -> Product:
    """Joins modules into one product. Quantised matrices can't be joined: they are multiplied one after another."""
    held = [module for module in modules if isinstance(module, CpuLinear)]
    if len(held) == len(modules):
        return lambda states: joined(held, states)
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
    """Makes a function that adds a module's product to the residual, in one operation if possible."""
    if type(module) is not nn.Linear or module.bias is not None:
        return lambda residual, states: residual + module(states)
    transposed = module.weight.t()
    return lambda residual, states: torch.addmm(residual, states, transposed)


def by_torch(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Computes attention with PyTorch's fused kernels."""
    new, held = query.shape[2], keys.shape[2]
    is_first = mask is None and new == held > 1
    if mask is None and 1 < new < held:
        mask = causal_mask(new, held, query.device)
    attended: Tensor = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=is_first, enable_gqa=query.shape[1] != keys.shape[1]
    )
    return attended


def over_held(attend: Attend, products: CompiledProducts | None, wide_dtype: torch.dtype) -> Attend:
    """Makes a kernel for layers that are CpuLinear: several tokens a row are computed by `attend` in `wide_dtype`.

    One token a row is computed in fp32, by the compiled products over a cache in fp16, or, without them, by `attend`.
    """

    def attended(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        is_single = query.shape[2] == 1
        if not is_single or products is None:
            dtype = torch.float32 if is_single else wide_dtype
            if mask is not None and mask.is_floating_point():
                mask = mask.to(dtype)
            return attend(query.to(dtype), keys.to(dtype), values.to(dtype), mask)
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, float("-inf"))
        return products.attend(query.float(), keys, values, mask)

    return attended


def written_out(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Computes attention as transformers' eager attention does, by products and a softmax in float32."""
    new, held = query.shape[2], keys.shape[2]
    groups = query.shape[1] // keys.shape[1]
    if groups > 1:
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    if mask is None:
        mask = causal_mask(new, held, query.device)
    scores = (query @ keys.transpose(2, 3)) * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1, dtype=torch.float32)
    attended: Tensor = weights.to(query.dtype) @ values
    return attended


def by_flash(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Computes attention with flash-attn, whose causal mask ends at the last key; `by_torch` takes any other mask."""
    if mask is not None:
        return by_torch(query, keys, values, mask)
    import flash_attn

    attend: Any = flash_attn.flash_attn_func
    attended: Tensor = attend(query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), causal=True)
    return attended.transpose(1, 2)


def causal_mask(new: int, held: int, device: torch.device) -> Tensor:
    """Makes a mask [1, 1, new, held] bool: the last `new` of `held` positions see themselves and those before them."""
    places = torch.arange(held, device=device)
    return (places <= places[held - new :, None])[None, None]


def padded_mask(is_used: Tensor, new: int) -> Tensor | None:
    """Makes a mask [B, 1, new, L] bool for rows with padding; None if there is no padding: the causal mask is enough.

    `is_used` [B, L] is False for padding. The last `new` positions are the queries. A query that is padding sees
    itself, since a softmax over nothing is NaN.
    """
    if bool(is_used.all()):
        return None
    seen = is_used[:, None, None]
    if new == 1:
        return seen
    mine = torch.ones(new, is_used.shape[1], dtype=torch.bool, device=is_used.device)
    before = mine.tril(is_used.shape[1] - new)
    return (before & seen) | (before & mine.triu(is_used.shape[1] - new))


KERNELS: dict[Attention, Attend] = {"sdpa": by_torch, "eager": written_out, "flash_attention_2": by_flash}
"""The kernels with the names that a plan has for them."""
