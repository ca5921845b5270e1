"""What the model says about blank clips: which answers it prefers whatever is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vllava_cli.engine.cancel import CancelError
from vllava_cli.engine.forward import Features, embed, prefill
from vllava_cli.engine.kv_cache import roomy_cache
from vllava_cli.engine.llama import Llama
from vllava_cli.engine.scoring import Option, log_likelihoods
from vllava_cli.engine.tokens import Tokens
from vllava_cli.engine.vision import Sight
from vllava_cli.media.pixels import mean_colour
from vllava_cli.nouns import FRAMES_PER_CLIP, Clip, Frames, MediaKind

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration

MOST_KNOWN = 256
"""Prompts of which is remembered what blank clips say; one of the 7B model takes 20 KB."""


@dataclass(kw_only=True)
class Blank:
    """Scores options behind prompts whose clips are blank, each prompt once."""

    model: VideoLlavaForConditionalGeneration
    llama: Llama
    tokens: Tokens
    _features: dict[MediaKind, torch.Tensor] = field(default_factory=dict)
    _known: dict[tuple[tuple[int, ...], tuple[Option, ...]], torch.Tensor] = field(default_factory=dict)

    def scores(
        self, ids: Sequence[int], options: Sequence[Option], *, is_interrupted: Callable[[], bool]
    ) -> torch.Tensor | None:
        """The log-likelihood [n] of each option behind a prompt, earlier turns and all, with each clip a blank one.

        Which clips the prompt has is read off its placeholders. The pass has a cache of its own. None where it was
        interrupted.
        """
        key = (tuple(ids), tuple(options))
        if key not in self._known:
            found = self._scores(ids, options, is_interrupted)
            if found is None:
                return None
            if len(self._known) == MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = found
        return self._known[key]

    def _scores(
        self, ids: Sequence[int], options: Sequence[Option], is_interrupted: Callable[[], bool]
    ) -> torch.Tensor | None:
        cache = roomy_cache(len(self.llama.blocks))
        try:
            with self.llama.cancel.asking(is_interrupted):
                embeddings = embed(self.llama, list(ids), self._rows(ids), self.tokens)
                _, logits = prefill(self.llama, embeddings, cache, is_interrupted=is_interrupted)
                if logits is None:
                    return None
                is_held = torch.ones(1, len(ids), dtype=torch.bool, device=logits.device)
                return log_likelihoods(self.llama, cache, is_held, logits[None], options)[0]
        except CancelError:
            return None

    def _rows(self, ids: Sequence[int]) -> Features:
        """A blank clip's features for each clip of the prompt."""
        placeholders: tuple[tuple[MediaKind, int], ...] = (
            ("video", self.tokens.video_id),
            ("image", self.tokens.image_id),
        )
        counts = {kind: ids.count(token) // self.tokens.tokens_of(kind) for kind, token in placeholders}
        return {kind: self._seen(kind).repeat(count, 1) for kind, count in counts.items() if count}

    def _seen(self, kind: MediaKind) -> torch.Tensor:
        if kind not in self._features:
            sight = Sight(
                model=self.model, tokens=self.tokens, cancel=self.llama.cancel
            )  # its own: no clip was looked at
            self._features[kind] = sight.features(blank_frames(kind, self.tokens), "crop")
        return self._features[kind]


def blank_frames(kind: MediaKind, tokens: Tokens) -> Frames:
    """A clip of the mean colour of the checkpoint's preprocessing: what it is of any size, after any fit."""
    recipe = tokens.checkpoint.video_recipe
    count = FRAMES_PER_CLIP if kind == "video" else 1
    pixels = np.empty((count, recipe.crop_height, recipe.crop_width, 3), np.uint8)
    pixels[:] = mean_colour(kind, tokens.checkpoint)
    clip = Clip(path=Path("blank"), kind=kind, width=pixels.shape[2], height=pixels.shape[1], frame_count=count)
    return Frames(clip=clip, pixels=pixels, times_s=(0.0,) * count)
