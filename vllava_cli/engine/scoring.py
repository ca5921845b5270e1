"""How likely each of given answers is behind a prompt that the KV cache holds; nothing is decoded, and the cache stays.

An option's log-likelihood is the sum over its tokens, the end of the answer not counted, and isn't divided by their
number: a longer option has more to be wrong in, and one that begins another is never the less likely of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from vllava_cli.engine.attention import padded_mask
from vllava_cli.engine.llama import Llama

Option = tuple[int, ...]
ROWS = 16
"""How many options are fed at once: one layer's keys and values are in memory that often while it works."""


@torch.inference_mode()
def log_likelihoods(
    llama: Llama,
    cache: DynamicCache,
    is_held: torch.Tensor,
    logits: torch.Tensor,
    options: Sequence[Option],
) -> torch.Tensor:
    """log P(option | prompt) [B, n] float32 for n options behind each of B prompts.

    `cache` has B rows of L positions, of which `is_held` [B, L] are real; it is as before afterwards. `logits`
    [B, vocabulary] are those behind each prompt: an option's first token is read off them, so that an option of one
    token needs no pass. No last token is fed.
    """
    firsts = torch.tensor([option[0] for option in options], device=logits.device)
    scores = logits.float().log_softmax(-1)[:, firsts]
    for rows, columns in _passes(len(logits), options):
        scores[rows, columns] += _rest(llama, cache, is_held, rows, [options[column] for column in columns])
    return scores


def probabilities(scores: torch.Tensor, blank: torch.Tensor | None = None) -> torch.Tensor:
    """Softmax over the last dimension of log-likelihoods less those about blank clips, float64 on the CPU.

    They add up to 1. Not every GPU has float64.
    """
    weighed = scores.cpu().double()
    return (weighed if blank is None else weighed - blank.cpu().double()).softmax(-1)


def _passes(row_count: int, options: Sequence[Option]) -> Iterator[tuple[list[int], list[int]]]:
    """(row, column) of all options of several tokens, those of like length together, ROWS at a time."""
    columns = sorted((len(option), column) for column, option in enumerate(options) if len(option) > 1)
    places = [(row, column) for _, column in columns for row in range(row_count)]
    for start in range(0, len(places), ROWS):
        some = places[start : start + ROWS]
        yield [row for row, _ in some], [column for _, column in some]


def _rest(
    llama: Llama,
    cache: DynamicCache,
    is_held: torch.Tensor,
    rows: list[int],
    options: Sequence[Option],
) -> torch.Tensor:
    """The log-likelihood [R] of each option's tokens from the second on, behind row `rows[r]` of the cache."""
    device = is_held.device
    index = torch.tensor(rows, device=device)
    fed, is_fed = _left_padded([option[:-1] for option in options], device)
    wanted, _ = _left_padded([option[1:] for option in options], device)
    held = is_held[index]
    hidden = llama.read(
        llama.embedded(fed),
        _aside(cache, index).layers,
        positions=held.sum(1, keepdim=True) + (is_fed.cumsum(1) - 1).clamp(min=0),
        mask=padded_mask(torch.cat([held, is_fed], dim=1), fed.shape[1]),
    )
    found: torch.Tensor = llama.logits(hidden).float().log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
    return found.where(is_fed, 0.0).sum(1)


def _left_padded(options: Sequence[Option], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [R, W] and which of them are real: [(5, 6), (7,)] → [[5, 6], [0, 7]], [[True, True], [False, True]]."""
    width = max(map(len, options))
    ids = [[0] * (width - len(option)) + list(option) for option in options]
    are_real = [[False] * (width - len(option)) + [True] * len(option) for option in options]
    return torch.tensor(ids, device=device), torch.tensor(are_real, device=device)


def _aside(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """The cache as these of its rows see it; what is fed behind them is forgotten."""
    aside = DynamicCache()
    aside.layers = [_Aside(layer, rows) for layer in cache.layers]
    return aside


class _Aside(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """One layer. Its rows are repeated only while it works: a copy of all layers would take gigabytes an option."""

    def __init__(self, layer: DynamicLayer, rows: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = layer.keys, layer.values
        self.is_initialized = True
        self._rows = rows

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([self.keys[self._rows], key_states], dim=-2)
        return keys, torch.cat([self.values[self._rows], value_states], dim=-2)
