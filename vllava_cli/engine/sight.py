"""What the vision towers made of each clip, so that no clip is looked at twice while anyone still holds its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from vllava_cli.engine.tokens import Tokens
from vllava_cli.media.pixels import image_pixels, video_pixels
from vllava_cli.nouns import Fit, Frames, MediaKind

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration


@dataclass(kw_only=True)
class Sight:
    """The features of clips, each computed once for a fit; a video of the 7B model takes 17 MB."""

    model: VideoLlavaForConditionalGeneration
    tokens: Tokens
    calls: int = 0
    """How often a vision tower ran."""
    _seen: WeakKeyDictionary[Frames, dict[Fit, torch.Tensor]] = field(default_factory=WeakKeyDictionary)

    def rows(
        self, media: Sequence[Frames], fit: Fit, *, skipped: dict[MediaKind, int]
    ) -> dict[MediaKind, torch.Tensor]:
        """The projected features of all media, in prompt order, [tokens, hidden] for each kind.

        `skipped` says how many rows of a kind are left out because the cache has them.
        """
        rows: dict[MediaKind, torch.Tensor] = {}
        kinds: tuple[MediaKind, ...] = ("video", "image")
        for kind in kinds:
            parts = [medium for medium in media if medium.kind == kind]
            known = skipped[kind] // self.tokens.tokens_of(kind)
            if parts[known:]:
                features = torch.cat([self.features(medium, fit) for medium in parts[known:]])
                rows[kind] = features[skipped[kind] - known * self.tokens.tokens_of(kind) :]
        return rows

    def forget(self) -> None:
        """Frees all features; what is asked about again is looked at again."""
        self._seen.clear()

    @torch.inference_mode()
    def features(self, medium: Frames, fit: Fit) -> torch.Tensor:
        """The projected features of one medium, [tokens, hidden]."""
        known = self._seen.setdefault(medium, {})
        if fit not in known:
            known[fit] = self._look(medium, fit)
            self.calls += 1
        return known[fit]

    def _look(self, medium: Frames, fit: Fit) -> torch.Tensor:
        model, checkpoint = self.model, self.tokens.checkpoint
        if medium.kind == "video":
            pixels = video_pixels(medium, checkpoint.video_recipe, fit=fit)
            output = model.model.get_video_features(pixels.to(model.device, model.dtype))
        else:
            pixels = image_pixels(medium, checkpoint.folder, fit=fit)
            output = model.model.get_image_features(pixels.to(model.device, model.dtype))
        features: torch.Tensor = getattr(output, "pooler_output", output)
        return features.flatten(0, 1)
