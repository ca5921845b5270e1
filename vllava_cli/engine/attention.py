"""Attention over what a cache layer holds, by PyTorch's kernels, by flash-attn's, or written out.

A query row attends to all positions that its mask allows; without a mask, to all up to its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from vllava_cli.nouns import Attention

Attend = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
"""(query [B, heads, T, size], keys and values [B, kv heads, L, size], mask [B or 1, 1, T, L] bool or None: causal, the
T rows being the last of L) → [B, heads, T, size]. PyTorch's takes a mask that `added` made as well."""


def attention_of(name: Attention) -> Attend:
    """By the name that a plan has for it."""
    return {"sdpa": by_torch, "eager": written_out, "flash_attention_2": by_flash}[name]


def by_torch(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's fused kernels."""
    new, held = query.shape[2], keys.shape[2]
    is_first = mask is None and new == held > 1
    if mask is None and 1 < new < held:
        mask = causal_mask(new, held, query.device)
    attended: Tensor = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=is_first, enable_gqa=query.shape[1] != keys.shape[1]
    )
    return attended


def written_out(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Products and a softmax in float32, as transformers' eager attention."""
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
    """flash-attn's kernel, whose causal mask ends at the last key; it knows no other, so that PyTorch's takes those."""
    if mask is not None:
        return by_torch(query, keys, values, mask)
    import flash_attn

    attend: Any = flash_attn.flash_attn_func
    attended: Tensor = attend(query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), causal=True)
    return attended.transpose(1, 2)


def causal_mask(new: int, held: int, device: torch.device) -> Tensor:
    """[1, 1, new, held] bool: the last `new` of `held` positions see themselves and what is before them."""
    places = torch.arange(held, device=device)
    return (places <= places[held - new :, None])[None, None]


def added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as what is added to scores, 0 or -inf: made once for all layers, not by each kernel's call."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))


def padded_mask(is_held: Tensor, new: int) -> Tensor | None:
    """[B, 1, new, L] for rows of which `is_held` [B, L] says what is theirs; None where the causal mask does.

    The last `new` positions are those that ask. One that is padding sees itself, since a softmax over nothing is NaN.
    """
    if bool(is_held.all()):
        return None
    seen = is_held[:, None, None]
    if new == 1:
        return seen
    mine = torch.ones(new, is_held.shape[1], dtype=torch.bool, device=is_held.device)
    before = mine.tril(is_held.shape[1] - new)
    return (before & seen) | (before & mine.triu(is_held.shape[1] - new))


PART_TOKENS = 256
"""How many keys a part has of what is read side by side."""
_UNSEEN = -30000.0
"""In the place of -inf: a part in which nothing is seen has a finite likelihood then, of which nothing remains."""


def in_parts(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """One query row over many keys, in parts that a GPU reads side by side: a head alone would keep few of its cores.

    Each part gives its own average and the logarithm of its softmax's sum, by which the averages are weighed. For one
    row of queries [1, heads, 1, size], L a multiple of PART_TOKENS, and a mask.
    """
    heads, held = keys.shape[1], keys.shape[2]
    if mask is None or query.shape[1] != heads or held % PART_TOKENS:
        return by_torch(query, keys, values, mask)
    parts = held // PART_TOKENS
    some_keys, some_values = (each.view(heads, parts, PART_TOKENS, -1).transpose(0, 1) for each in (keys, values))
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, _UNSEEN).view(parts, 1, 1, PART_TOKENS)
    averages, sums = _with_sums(query.expand(parts, -1, -1, -1), some_keys, some_values, bias)
    return (averages * sums.softmax(dim=0).to(averages.dtype)).sum(dim=0, keepdim=True)


def _with_sums(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(attended [B, heads, 1, size], logarithm of the softmax's sum [B, heads, 1, 1] float32)."""
    kernels = torch.ops.aten
    bias = bias.expand(-1, query.shape[1], -1, -1)
    if query.device.type == "cpu":
        attended, sums = kernels._scaled_dot_product_flash_attention_for_cpu(query, keys, values, attn_mask=bias)
    else:
        attended, sums = kernels._scaled_dot_product_efficient_attention(query, keys, values, bias, True)[:2]
    return attended, sums[:, :, :1, None]
