"""Scores given answers to a prompt that the KV cache holds; nothing is decoded, and the cache isn't changed.

An option's log-likelihood is the sum over its tokens, without the end of the answer, and isn't divided by their number.
So a longer option can be wrong in more tokens, and an option is never less likely than another that begins with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vllava_cli.answers import Sampling
from vllava_cli.engine.forward import embed, left_padded, prefill
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
"""The most prompts after which options are fed at once: one layer's keys and values of each are copied meanwhile."""
FED_TOKENS = 64
"""About how many tokens of options are fed after a prompt at once."""
MOST_KNOWN = 256
"""The number of prompts whose scores about blank clips are remembered; one of the 7B model takes 20 KB."""


@torch.inference_mode()
def log_likelihoods(
    llama: Llama,
    cache: KVCache,
    is_used: torch.Tensor,
    logits: torch.Tensor,
    options: Sequence[Sequence[ChoiceIds]],
    cancel: Cancel = NEVER,
) -> list[torch.Tensor]:
    """Returns log P(option | prompt) [n] in float32, for the n options of each of B prompts. Errors: CancelError.

    `options` has those of each prompt; they may differ in number, and a prompt may have none. `cache` has B rows of L
    positions, of which `is_used` [B, L] are real; it isn't changed. `logits` [B, vocabulary] are those after each
    prompt: they score the first token of each option, so that an option of one token needs no pass. The last token of
    an option is never fed.
    """
    rows = torch.tensor([row for row, its in enumerate(options) for _ in its], device=logits.device, dtype=torch.long)
    firsts = torch.tensor([ids[0] for its in options for ids in its], device=logits.device, dtype=torch.long)
    scores = logits.float().log_softmax(-1)[rows, firsts]
    for branches in _passes(options):
        numbers = torch.tensor([number for branch in branches for number in branch.numbers], device=scores.device)
        scores[numbers] += _rest(llama, cache, is_used, branches, cancel)
    return list(torch.split(scores, [len(its) for its in options]))


def probabilities(
    scores: Sequence[torch.Tensor], blanks: Sequence[torch.Tensor | None] = ()
) -> list[tuple[float, ...]]:
    """Returns the softmax of each prompt's log-likelihoods [n], minus those about blank clips where they are given.

    Each adds up to 1. It is computed on the CPU, in float64, which not every GPU has.
    """
    found: list[tuple[float, ...]] = []
    for own, blank in zip_longest(scores, blanks):
        weighed = own.cpu().double()
        weighed = weighed if blank is None else weighed - blank.cpu().double()
        found.append(tuple(weighed.softmax(-1).tolist()))
    return found


def excess(blank: torch.Tensor, right: int) -> torch.Tensor:
    """Returns by how much options [n] are likelier than the right one about blank clips; 0 where they aren't.

    A model that says no to "Is there a dog?" about a blank clip is right. Only its yes to that is a bias.
    """
    return (blank - blank[right]).clamp(min=0)


def weight(blank: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Returns what calibrating subtracts: the scores [n] about blank clips, or their excess over the right choice."""
    return excess(blank, sampling.choices.index(sampling.blank_choice)) if sampling.blank_choice else blank


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
        return log_likelihoods(self.llama, cache, is_used, logits[None], [options], cancel)[0]

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


@dataclass(frozen=True, kw_only=True)
class _Branches:
    """Some options that are fed after one prompt at once; none of them sees another."""

    row: int
    options: tuple[ChoiceIds, ...]
    numbers: tuple[int, ...]
    """The places of the options among all options of all prompts."""

    def __len__(self) -> int:
        """The number of tokens that are fed: all but the last of each option."""
        return sum(len(ids) - 1 for ids in self.options)


def _passes(options: Sequence[Sequence[ChoiceIds]]) -> Iterator[list[_Branches]]:
    """Yields the options of several tokens: those of up to ROWS prompts at once, with similar numbers of tokens."""
    found: list[_Branches] = []
    number = 0
    for row, its in enumerate(options):
        some: list[tuple[int, ChoiceIds]] = []
        for place, ids in enumerate(its, number):
            if some and sum(len(each) - 1 for _, each in some) + len(ids) - 1 > FED_TOKENS:
                found.append(_branches(row, some))
                some = []
            some += [(place, ids)] * (len(ids) > 1)
        found += [_branches(row, some)] * bool(some)
        number += len(its)
    found.sort(key=len)
    for start in range(0, len(found), ROWS):
        yield sorted(found[start : start + ROWS], key=lambda each: each.row)


def _branches(row: int, some: Sequence[tuple[int, ChoiceIds]]) -> _Branches:
    return _Branches(row=row, options=tuple(ids for _, ids in some), numbers=tuple(number for number, _ in some))


def _rest(
    llama: Llama, cache: KVCache, is_used: torch.Tensor, branches: Sequence[_Branches], cancel: Cancel
) -> torch.Tensor:
    """Returns the log-likelihood of each option's tokens from the second on, after the rows of the cache.

    The options of a row stand one behind the other. Each sees the row and itself: its tokens have the positions that
    they would have alone, and the mask hides the others. So the row isn't copied for each option.
    """
    device = is_used.device
    fed, are_real = left_padded([[id for ids in each.options for id in ids[:-1]] for each in branches], device)
    owners, _ = left_padded(
        [[owner for owner, ids in enumerate(each.options, 1) for _ in ids[1:]] for each in branches], device
    )
    places, _ = left_padded(
        [[place for ids in each.options for place in range(len(ids) - 1)] for each in branches], device
    )
    rows = [each.row for each in branches]
    index = None if rows == list(range(len(is_used))) else torch.tensor(rows, device=device)
    used = is_used if index is None else is_used[index]
    # A padded token has no owner; it sees the row and the padding, since a softmax over nothing is NaN.
    own = (owners[:, :, None] == owners[:, None]).tril()
    mask = torch.cat([used[:, None].expand(-1, own.shape[1], -1), own], dim=-1)[:, None]
    hidden = llama(
        llama.embedded(fed),
        [_RowsAside(layer, index) for layer in cache.layers],
        positions=used.sum(1, keepdim=True) + places,
        mask=mask,
        cancel=cancel,
    )
    options = [ids for each in branches for ids in each.options]
    wanted = torch.tensor([id for ids in options for id in ids[1:]], device=device)
    found = llama.logits(hidden[are_real]).float().log_softmax(-1).gather(-1, wanted[:, None])[:, 0]
    belongs = torch.tensor([number for number, ids in enumerate(options) for _ in ids[1:]], device=device)
    return found.new_zeros(len(options)).index_add_(0, belongs, found)


class _RowsAside:
    """Some rows of a cache layer, or all; the layer forgets the tokens that are fed after them.

    The rows are copied only while the layer works: copies of all layers would take gigabytes.
    """

    def __init__(self, layer: Any, rows: torch.Tensor | None) -> None:
        self._layer, self._rows = layer, rows

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._layer.keys, self._layer.values
        if self._rows is not None:
            keys, values = keys[self._rows], values[self._rows]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
