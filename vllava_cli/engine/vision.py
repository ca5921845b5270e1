"""What the vision towers made of each clip, so that no clip is looked at twice while anyone still holds its frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from vllava_cli.engine.cancel import Cancel
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
    tower: Callable[[MediaKind], torch.nn.Module] | None = None
    """Loads what the model lacks to look at media of a kind. Errors: CheckpointError, MemoryShortError."""
    cancel: Cancel = field(default_factory=Cancel)
    """Is asked between the layers of a tower."""
    calls: int = 0
    """How many media went through a vision tower."""
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

    def features(self, medium: Frames, fit: Fit) -> torch.Tensor:
        """The projected features of one medium, [tokens, hidden]."""
        return self.all_features((medium,), fit)[0]

    @torch.inference_mode()
    def all_features(self, media: Sequence[Frames], fit: Fit) -> list[torch.Tensor]:
        """The projected features of each medium, [tokens, hidden]; those of a kind go through their tower together.

        Errors: CancelError.
        """
        kinds: tuple[MediaKind, ...] = ("video", "image")
        for kind in kinds:
            new = [medium for medium in media if medium.kind == kind and fit not in self._seen.get(medium, {})]
            if new:
                for medium, features in zip(new, self._look(new, kind, fit), strict=True):
                    self._seen.setdefault(medium, {})[fit] = features
                self.calls += len(new)
        return [self._seen[medium][fit] for medium in media]

    def _look(self, media: Sequence[Frames], kind: MediaKind, fit: Fit) -> tuple[torch.Tensor, ...]:
        model, checkpoint = self.model, self.tokens.checkpoint
        name = f"{kind}_tower"
        if self.tower and getattr(model.model, name) is None:
            setattr(model.model, name, self.tower(kind))
        if kind == "video":
            pixels = torch.cat([video_pixels(medium, checkpoint.video_recipe, fit=fit) for medium in media])
            output = self._passed(model.model.get_video_features, model.model.video_tower, pixels)
        else:
            pixels = torch.cat([image_pixels(medium, checkpoint.folder, fit=fit) for medium in media])
            output = self._passed(model.model.get_image_features, model.model.image_tower, pixels)
        features: torch.Tensor = getattr(output, "pooler_output", output)
        return features.flatten(0, -2).chunk(len(media))

    def _passed(self, features_of: Callable[[torch.Tensor], Any], tower: Any, pixels: torch.Tensor) -> Any:
        layers = () if self.model.device.type == "cuda" else getattr(tower, "vision_model", tower).encoder.layers
        with self.cancel.between(layers):
            return features_of(pixels.to(self.model.device, self.model.dtype))
