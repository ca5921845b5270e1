"""Rows that are decoded together, padded on the left: each is the prompt of one answer, with the ids that follow it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from vllava_cli.engine.forward import feed_rows, left_padded
from vllava_cli.engine.kv_cache import HeldIds, KVCache
from vllava_cli.engine.llama import Llama
from vllava_cli.interrupt import NEVER, Cancel

LEAST_TRIMMED = 64
"""Columns that no row needs are removed once there are this many: removing them copies the cache."""


@dataclass(kw_only=True)
class DecodeBatch:
    """B rows that are decoded together; `logits` [B, vocabulary] are those after each row's last id."""

    llama: Llama
    cache: KVCache
    is_used: Tensor
    """[B, L] bool: which of the cache's positions belong to a row."""
    logits: Tensor

    @classmethod
    @torch.inference_mode()
    def after(cls, llama: Llama, held: Sequence[HeldIds]) -> DecodeBatch:
        """Makes a batch whose rows hold what was read already; it has logits once the ids after that are fed."""
        length = max(len(each) for each in held)
        cache = KVCache(len(llama.blocks))
        for number, layer in enumerate(cache.layers if length else ()):
            layer.stack([[part[number] for part in each.parts] for each in held], length)
        places = torch.arange(length, device=llama.device)
        firsts = torch.tensor([[length - len(each)] for each in held], device=llama.device)
        return cls(llama=llama, cache=cache, is_used=places >= firsts, logits=torch.empty(0))

    @classmethod
    @torch.inference_mode()
    def of(
        cls,
        llama: Llama,
        prefixes: Sequence[KVCache],
        rests: Sequence[Sequence[int]],
        cancel: Cancel = NEVER,
    ) -> DecodeBatch:
        """Makes a batch of prompts, each from a beginning that was read already and the ids after it.

        Errors: CancelError.
        """
        batch = cls.after(llama, [HeldIds.of(prefix) for prefix in prefixes])
        ids, are_real = left_padded(rests, llama.device)
        batch.feed(llama.embedded(ids), are_real, cancel)
        return batch

    def __len__(self) -> int:
        return len(self.is_used)

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> None:
        """Feeds one id to each row."""
        fed, are_real = left_padded([[token] for token in ids], self.is_used.device)
        self.feed(self.llama.embedded(fed), are_real)

    @torch.inference_mode()
    def leave(self, staying: Sequence[int]) -> None:
        """Removes all rows but `staying`, and leading columns that no row uses, if they are LEAST_TRIMMED or more.

        A row that is named several times is copied.
        """
        rows = torch.tensor(staying, device=self.is_used.device)
        is_used, self.logits = self.is_used[rows], self.logits[rows]
        first = int(is_used.any(dim=0).int().argmax())
        start = first if first >= LEAST_TRIMMED else 0
        self.is_used = is_used[:, start:]
        for layer in self.cache.layers:
            layer.put(layer.keys[rows, :, start:], layer.values[rows, :, start:])

    @torch.inference_mode()
    def join(self, other: DecodeBatch) -> None:
        """Adds the rows of another batch after these; the shorter batch is padded on its left."""
        length = max(self.is_used.shape[1], other.is_used.shape[1])
        self.logits = torch.cat([self.logits, other.logits])
        self.is_used = torch.cat([pad(each.is_used, (length - each.is_used.shape[1], 0)) for each in (self, other)])
        for mine, new in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.stack([[(mine.keys, mine.values)], [(new.keys, new.values)]], length)

    @torch.inference_mode()
    def held(self, row: int, start: int, end: int) -> list[tuple[Tensor, Tensor]]:
        """Copies the keys and values [1, heads, end - start, size] of a row's ids from `start` to `end`, by layers."""
        places = self.is_used[row].nonzero()[start:end, 0]
        rows = slice(row, row + 1)
        return [(layer.keys[rows, :, places], layer.values[rows, :, places]) for layer in self.cache.layers]

    @torch.inference_mode()
    def feed(self, inputs: Tensor, is_real: Tensor, cancel: Cancel = NEVER) -> None:
        """Feeds embeddings [B, new, hidden] after those in the cache; `is_real` [B, new] is False for padding.

        Errors: CancelError; the batch can't be used any more then.
        """
        hidden, self.is_used = feed_rows(self.llama, self.cache.layers, self.is_used, inputs, is_real, cancel)
        self.logits = self.llama.logits(hidden[:, -1])


@torch.inference_mode()
def read_prefixes(llama: Llama, embeddings: Iterable[Tensor], cancel: Cancel = NEVER) -> list[KVCache]:
    """Prefills equally long beginnings of prompts [1, T, hidden], each in its own cache. Errors: CancelError."""
    cache = KVCache(len(llama.blocks))
    inputs = torch.cat([*embeddings])
    llama(inputs, cache.layers, is_output_wanted=False, cancel=cancel)
    prefixes = [KVCache(len(llama.blocks)) for _ in inputs]
    for row, prefix in enumerate(prefixes):
        for whole, layer in zip(cache.layers, prefix.layers, strict=True):
            layer.put(whole.keys[row : row + 1], whole.values[row : row + 1])
    return prefixes
