"""Prompts that are answered together: a left-padded batch that rows join and leave.

Every row keeps its own positions: padding, wherever it lies, is masked out and not counted, so that a row's logits are
those that it would have alone, up to the rounding of a larger product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from vllava_cli.engine.attention import padded_mask
from vllava_cli.engine.forward import Features, embed
from vllava_cli.engine.kv_cache import RoomyLayer, roomy_cache
from vllava_cli.engine.llama import Llama
from vllava_cli.engine.tokens import Tokens

if TYPE_CHECKING:
    from transformers import DynamicCache

CPU_PASS_TOKENS = 2048
GPU_PASS_TOKENS = 8192
"""About how many tokens go through the model at once while prompts are read."""
LEAST_TRIMMED = 64


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The beginning of prompts that several rows share, read once."""

    ids: tuple[int, ...]
    cache: DynamicCache
    """One row, len(ids) positions."""


@dataclass(kw_only=True)
class Crowd:
    """B rows; `logits` [B, vocabulary] are those behind each row's last id."""

    llama: Llama
    cache: DynamicCache
    is_held: Tensor
    """[B, L] bool: which of the cache's positions belong to a row."""
    logits: Tensor

    def __len__(self) -> int:
        return len(self.is_held)

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> None:
        """Feeds one id to each row."""
        fed = torch.tensor(ids, device=self.is_held.device)[:, None]
        self._feed(fed, torch.ones_like(fed, dtype=torch.bool))

    @torch.inference_mode()
    def leave(self, staying: Sequence[int]) -> None:
        """Keeps these rows only, and no columns that they don't need."""
        rows = torch.tensor(staying, device=self.is_held.device)
        is_held, self.logits = self.is_held[rows], self.logits[rows]
        first = int(is_held.any(dim=0).int().argmax())
        start = first if first >= LEAST_TRIMMED else 0
        self.is_held = is_held[:, start:]
        for layer in _layers(self.cache):
            layer.put(layer.keys[rows, :, start:], layer.values[rows, :, start:])

    @torch.inference_mode()
    def join(self, other: Crowd) -> None:
        """Adds the other's rows behind these; the shorter ones are padded on their left."""
        length = max(self.is_held.shape[1], other.is_held.shape[1])
        self.logits = torch.cat([self.logits, other.logits])
        self.is_held = torch.cat([pad(each.is_held, (length - each.is_held.shape[1], 0)) for each in (self, other)])
        for mine, new in zip(_layers(self.cache), _layers(other.cache), strict=True):
            mine.put(_stacked(mine.keys, new.keys, length), _stacked(mine.values, new.values, length))

    def _feed(self, ids: Tensor, is_real: Tensor) -> None:
        """Feeds [B, new] ids behind the cache's; a row's real ones stand on the right."""
        before = self.is_held.sum(dim=1, keepdim=True)
        positions = (before + is_real.cumsum(dim=1) - 1).clamp(min=0)
        self.is_held = torch.cat([self.is_held, is_real], dim=1)
        mask = padded_mask(self.is_held, ids.shape[1])
        hidden = self.llama.read(self.llama.embedded(ids), self.cache.layers, positions=positions, mask=mask)
        self.logits = self.llama.logits(hidden[:, -1])


@torch.inference_mode()
def read_prefixes(
    llama: Llama,
    prompts: Sequence[tuple[tuple[int, ...], Features]],
    tokens: Tokens,
) -> list[Prefix]:
    """Reads the beginnings of prompts, (ids, feature rows of their media) each; all must be equally long."""
    embeddings = torch.cat([embed(llama, list(ids), features, tokens) for ids, features in prompts])
    cache = roomy_cache(len(llama.blocks))
    llama.read(embeddings, cache.layers)
    return [Prefix(ids=ids, cache=_row(cache, number)) for number, (ids, _) in enumerate(prompts)]


@torch.inference_mode()
def gathered(llama: Llama, prompts: Sequence[tuple[Prefix, tuple[int, ...]]]) -> Crowd:
    """A crowd of whole prompts, each with the beginning that was read; these are equally long and stay as they are."""
    length = len(prompts[0][0].ids)
    if any(prefix.ids != ids[:length] for prefix, ids in prompts):
        raise ValueError("a prompt doesn't begin with its prefix")
    cache = roomy_cache(len(prompts[0][0].cache.layers))
    for number, layer in enumerate(_layers(cache)):
        parts = [_layers(prefix.cache)[number] for prefix, _ in prompts]
        layer.put(torch.cat([part.keys for part in parts]), torch.cat([part.values for part in parts]))
    is_held = torch.ones((len(prompts), length), dtype=torch.bool, device=llama.device)
    crowd = Crowd(llama=llama, cache=cache, is_held=is_held, logits=torch.empty(0))
    rests = [ids[length:] for _, ids in prompts]
    longest = max(map(len, rests))
    padded = [(0,) * (longest - len(rest)) + rest for rest in rests]
    is_real = [[False] * (longest - len(rest)) + [True] * len(rest) for rest in rests]
    crowd._feed(torch.tensor(padded, device=llama.device), torch.tensor(is_real, device=llama.device))
    return crowd


def rows_at_once(llama: Llama, length: int) -> int:
    """How many rows of so many tokens are read in one pass."""
    return max(1, (CPU_PASS_TOKENS if llama.device.type == "cpu" else GPU_PASS_TOKENS) // length)


def _row(cache: DynamicCache, number: int) -> DynamicCache:
    row = roomy_cache(len(cache.layers))
    for whole, layer in zip(_layers(cache), _layers(row), strict=True):
        layer.put(whole.keys[number : number + 1], whole.values[number : number + 1])
    return row


def _layers(cache: DynamicCache) -> list[RoomyLayer]:
    layers: list[RoomyLayer] = cache.layers
    return layers


def _stacked(upper: Tensor, lower: Tensor, length: int) -> Tensor:
    """[B, heads, L, size] above [C, heads, M, size], both padded on the left of their positions."""
    return torch.cat([pad(each, (0, 0, length - each.shape[-2], 0)) for each in (upper, lower)])
