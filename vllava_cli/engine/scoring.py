"""Scores given answers to a prompt that the KV cache holds; nothing is decoded, and the cache isn't changed.

An option's log-likelihood is the sum over its tokens, without the end of the answer, and isn't divided by their number.
So a longer option can be wrong in more tokens, and an option is never less likely than another that begins with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vllava_cli.engine.forward import embed, feed_rows, left_padded, prefill
from vllava_cli.engine.kv_cache import KVCache
from vllava_cli.engine.llama import Llama
from vllava_cli.engine.tokens import ChoiceIds, Tokens
from vllava_cli.engine.vision import VisionEncoder
from vllava_cli.interrupt import NEVER, Cancel
from vllava_cli.media.pixels import mean_colour
from vllava_cli.nouns import FRAMES_PER_CLIP, Clip, Frames, MediaKind

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration

ROWS = 16
"""The most options that are fed at once: one layer's keys and values are in memory that often while it works."""
MOST_KNOWN = 256
"""The number of prompts whose scores about blank clips are remembered; one of the 7B model takes 20 KB."""


@torch.inference_mode()
def log_likelihoods(
    llama: Llama,
    cache: KVCache,
    is_used: torch.Tensor,
    logits: torch.Tensor,
    options: Sequence[ChoiceIds],
    cancel: Cancel = NEVER,
) -> torch.Tensor:
    """Returns log P(option | prompt) [B, n] in float32, for n options after each of B prompts. Errors: CancelError.

    `cache` has B rows of L positions, of which `is_used` [B, L] are real; it isn't changed. `logits` [B, vocabulary]
    are those after each prompt: they score the first token of each option, so that an option of one token needs no
    pass. The last token of an option is never fed.
    """
    firsts = torch.tensor([option[0] for option in options], device=logits.device)
    scores = logits.float().log_softmax(-1)[:, firsts]
    for rows, columns in _passes(len(logits), options):
        scores[rows, columns] += _rest(llama, cache, is_used, rows, [options[column] for column in columns], cancel)
    return scores


def probabilities(scores: torch.Tensor, blank: torch.Tensor | None = None) -> list[tuple[float, ...]]:
    """Returns the softmax over the n options of log-likelihoods [B, n], minus those about blank clips if given.

    Each row adds up to 1. It is computed on the CPU, in float64, which not every GPU has.
    """
    weighed = scores.cpu().double()
    weighed = weighed if blank is None else weighed - blank.cpu().double()
    return [tuple(row) for row in weighed.softmax(-1).tolist()]


def excess(blank: torch.Tensor, right: int) -> torch.Tensor:
    """Returns by how much options [B, n] are likelier than the right one about blank clips; 0 where they aren't.

    A model that says no to "Is there a dog?" about a blank clip is right. Only its yes to that is a bias.
    """
    return (blank - blank[:, right : right + 1]).clamp(min=0)


@dataclass(kw_only=True)
class Calibrator:
    """Scores options after prompts whose clips are blank: this shows what the model prefers without a clip.

    The scores of a prompt are remembered. The passes have a cache of their own.
    """

    model: VideoLlavaForConditionalGeneration
    llama: Llama
    tokens: Tokens
    tower: Callable[[MediaKind], torch.nn.Module] | None = None
    """As in `VisionEncoder`: a model that took its clips from the clip cache has no tower."""
    _blank: dict[MediaKind, torch.Tensor] = field(default_factory=dict)
    _known: dict[tuple[tuple[int, ...], tuple[ChoiceIds, ...]], torch.Tensor] = field(default_factory=dict)

    def scores(self, ids: tuple[int, ...], options: tuple[ChoiceIds, ...], cancel: Cancel = NEVER) -> torch.Tensor:
        """Returns the log-likelihood [n] of each option after a whole prompt in which each clip is a blank one.

        The placeholders among the ids say which clips the prompt has. Errors: CancelError.
        """
        key = (ids, options)
        if key not in self._known:
            found = self._scores(ids, options, cancel)
            if len(self._known) == MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = found
        return self._known[key]

    def _scores(self, ids: tuple[int, ...], options: tuple[ChoiceIds, ...], cancel: Cancel) -> torch.Tensor:
        cache = KVCache(len(self.llama.blocks))
        rows = {
            kind: self._blank_features(kind, cancel).repeat(ids.count(token) // self.tokens.tokens_of(kind), 1)
            for kind, token in self.tokens.placeholders.items()
            if token in ids
        }
        embeddings = embed(self.llama, ids, rows, self.tokens)
        logits = prefill(self.llama, embeddings, cache, cancel=cancel)
        is_used = torch.ones(1, len(ids), dtype=torch.bool, device=logits.device)
        return log_likelihoods(self.llama, cache, is_used, logits[None], options, cancel)[0]

    def _blank_features(self, kind: MediaKind, cancel: Cancel) -> torch.Tensor:
        if kind not in self._blank:
            # Not the engine's, which counts its calls.
            vision = VisionEncoder(model=self.model, tokens=self.tokens, tower=self.tower)
            self._blank[kind] = vision.features(blank_frames(kind, self.tokens), "crop", cancel)
        return self._blank[kind]


def blank_frames(kind: MediaKind, tokens: Tokens) -> Frames:
    """Makes a clip of the mean colour of the checkpoint's preprocessing, which looks the same in any size and fit."""
    recipe = tokens.checkpoint.video_recipe
    count = FRAMES_PER_CLIP if kind == "video" else 1
    pixels = np.empty((count, recipe.crop_height, recipe.crop_width, 3), np.uint8)
    pixels[:] = mean_colour(kind, tokens.checkpoint)
    clip = Clip(path=Path("blank"), kind=kind, width=pixels.shape[2], height=pixels.shape[1], frame_count=count)
    return Frames(clip=clip, pixels=pixels, times_s=(0.0,) * count)


def _passes(row_count: int, options: Sequence[ChoiceIds]) -> Iterator[tuple[list[int], list[int]]]:
    """Yields (rows, columns) of up to ROWS scores that need a pass: options of several tokens, short ones first."""
    columns = sorted((len(option), column) for column, option in enumerate(options) if len(option) > 1)
    places = [(row, column) for _, column in columns for row in range(row_count)]
    for start in range(0, len(places), ROWS):
        some = places[start : start + ROWS]
        yield [row for row, _ in some], [column for _, column in some]


def _rest(
    llama: Llama,
    cache: KVCache,
    is_used: torch.Tensor,
    rows: list[int],
    options: Sequence[ChoiceIds],
    cancel: Cancel,
) -> torch.Tensor:
    """Returns the log-likelihood [R] of each option's tokens from the second on, after row `rows[r]` of the cache."""
    index = torch.tensor(rows, device=is_used.device)
    fed, is_fed = left_padded([option[:-1] for option in options], is_used.device)
    wanted, _ = left_padded([option[1:] for option in options], is_used.device)
    layers = [_RowsAside(layer, index) for layer in cache.layers]
    hidden, _ = feed_rows(llama, layers, is_used[index], llama.embedded(fed), is_fed, cancel)
    found: torch.Tensor = llama.logits(hidden).float().log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
    return found.where(is_fed, 0.0).sum(1)


class _RowsAside:
    """Some rows of a cache layer; the layer forgets the tokens that are fed after them.

    The rows are copied only while the layer works: copies of all layers would take gigabytes for each option.
    """

    def __init__(self, layer: Any, rows: torch.Tensor) -> None:
        self._layer, self._rows = layer, rows

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([self._layer.keys[self._rows], key_states], dim=-2)
        return keys, torch.cat([self._layer.values[self._rows], value_states], dim=-2)
