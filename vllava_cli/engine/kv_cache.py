"""The KV cache: layers with spare capacity after their tokens, and the prompt that a cache stands for.

A step of decoding copies only its own token into a layer. A prompt is prefilled only from the first token at which it
differs from the prompt before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor

from vllava_cli.nouns import Fit, Frames

SPARE_TOKENS = 64
"""The capacity that is added after the tokens of a layer when it is full."""


class PreallocatedCacheLayer:
    """A layer of the cache: `keys` and `values` [B, heads, L, size] are the first L positions of larger buffers."""

    def __init__(self, least_capacity: int = 0) -> None:
        self.keys = self.values = torch.empty(0)
        self._least_capacity = least_capacity
        self._buffers: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """The number of tokens of each row that the layer holds."""
        return self.keys.shape[2] if self.keys.dim() == 4 else 0

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """The whole tensors [B, heads, capacity, size] of keys and of values."""
        if self._buffers is None:
            raise RuntimeError("a layer without capacity")
        return self._buffers

    @property
    def capacity(self) -> int:
        return self._buffers[0].shape[2] if self._buffers else 0

    def update(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """Appends keys and values [B, heads, new, size], and returns all that the layer then holds."""
        length, new = len(self), key_states.shape[2]
        if not length:
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        if length + new > self.capacity:
            size = max(length + new + SPARE_TOKENS, self._least_capacity)
            self._buffers = _enlarged(self.keys, size), _enlarged(self.values, size)
        keys, values = self.buffers
        keys.narrow(2, length, new).copy_(key_states)
        values.narrow(2, length, new).copy_(value_states)
        self.keys, self.values = keys.narrow(2, 0, length + new), values.narrow(2, 0, length + new)
        return self.keys, self.values

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Replaces the layer's keys and values. They may share memory with others: nothing is written into them."""
        self.keys, self.values, self._buffers = keys, values, None

    def stack(self, rows: Sequence[Sequence[tuple[Tensor, Tensor]]], length: int) -> None:
        """Replaces the layer by rows of `length` positions: the parts of a row, and zeros before them.

        A part is keys and values [B, heads, n, size]; a row may have no part, but one of the rows must have one.
        """
        like = next(part for parts in rows for part in parts)
        counts = [parts[0][0].shape[0] if parts else 1 for parts in rows]
        _, heads, _, size = like[0].shape
        keys, values = (each.new_zeros((sum(counts), heads, length + SPARE_TOKENS, size)) for each in like)
        first = 0
        for count, parts in zip(counts, rows, strict=True):
            end = length
            for part in reversed(parts):
                start = end - part[0].shape[2]
                for buffer, states in zip((keys, values), part, strict=True):
                    buffer[first : first + count, :, start:end] = states
                end = start
            first += count
        self._buffers = keys, values
        self.set_length(length)

    def set_length(self, length: int) -> None:
        """Makes the layer hold the first `length` positions of its buffers; does nothing if it has no buffers yet."""
        if self._buffers:
            self.keys, self.values = (buffer.narrow(2, 0, length) for buffer in self._buffers)


class KVCache:
    """The cache's layers, one for each block. They hold the same tokens, except while a pass runs."""

    def __init__(self, layers: int, *, least_capacity: int = 0) -> None:
        self.layers = [PreallocatedCacheLayer(least_capacity) for _ in range(layers)]

    def __len__(self) -> int:
        return len(self.layers[0])

    def set_length(self, length: int) -> None:
        """Makes every layer hold its first `length` positions, even if some layers hold more than others."""
        for layer in self.layers:
            layer.set_length(length)


LayerStates = Sequence[tuple[Tensor, Tensor]]
"""The keys and values [1, heads, n, size] of n ids, in each layer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldIds:
    """The keys and values of the first ids of a prompt, in parts that follow each other; they are never changed."""

    parts: Sequence[LayerStates] = ()

    @classmethod
    def of(cls, cache: KVCache) -> HeldIds:
        return cls(parts=[[(layer.keys, layer.values) for layer in cache.layers]])

    def __len__(self) -> int:
        return sum(part[0][0].shape[2] for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt, or the beginning of one, with the media that it has placeholders for."""

    ids: tuple[int, ...] = ()
    media: tuple[Frames, ...] = ()
    fit: Fit = "crop"


@dataclass(kw_only=True)
class PromptCache:
    """A KV cache, the ids that it was fed, and the prompt with the media for the placeholders among these ids."""

    cache: KVCache
    prompt: Prompt = Prompt()
    ids: list[int] = field(default_factory=list)
    made_s: float = 0.0
    """The time that the passes took, in seconds."""

    def covers(self, prompt: Prompt, starts: Sequence[int]) -> int:
        """Counts the first ids of a prompt that need no prefill; the last id always needs one.

        `starts` has the position of each medium's first placeholder: placeholders of different media have the same ids,
        so the count ends where the media or their fit differ.
        """
        equal = takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, prompt.ids[:-1], strict=False))
        shared = sum(1 for _ in equal)
        for old, new, start in zip(self.prompt.media, prompt.media, starts, strict=False):
            if old is not new or self.prompt.fit != prompt.fit:
                return min(shared, start)
        return shared

    def crop(self, length: int) -> None:
        """Forgets everything after the first `length` ids."""
        self.cache.set_length(length)
        del self.ids[length:]


def _enlarged(held: Tensor, size: int) -> Tensor:
    """Copies keys or values into a longer buffer. Zeros follow them: a masked NaN would still make the result NaN."""
    rows, heads, length, width = held.shape
    buffer = held.new_zeros((rows, heads, size, width))
    buffer[:, :, :length] = held
    return buffer
