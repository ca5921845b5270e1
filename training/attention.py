"""Attention for packed rows on CPUs: plain bf16 matrix products, which beat sdpa there once a mask is given."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "packed"


def use(model: Any) -> None:
    """Lets the model's language model and video tower attend this way."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    model.model.language_model.config._attn_implementation = NAME
    model.model.video_tower.config._attn_implementation = NAME


def attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    **_rest: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: [batch, head, token, width] → [batch, token, head, width], no weights returned."""
    batch, heads, length, width = query.shape
    flat = (batch * heads, length, width)
    queries, keys, values = (part.to(torch.bfloat16).reshape(flat) for part in (query * scaling, key, value))
    scores = torch.bmm(queries, keys.transpose(1, 2)).view(batch, heads, length, length)
    if attention_mask is not None:
        scores = scores + attention_mask
    with torch.autocast("cpu", enabled=False):  # which would make this float32, at twice the time
        weights = torch.softmax(scores, -1)
    mixed = torch.bmm(weights.view(batch * heads, length, length), values)
    return mixed.view(batch, heads, length, width).transpose(1, 2).contiguous(), None
