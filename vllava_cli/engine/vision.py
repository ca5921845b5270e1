"""Computes the features of clips with the vision towers, and keeps them as long as the clips' frames are in use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.modules.video_llava import VideoLlava
from vllava_cli.engine.tokens import Tokens
from vllava_cli.interrupt import NEVER, Cancel
from vllava_cli.media.pixels import pixels_of
from vllava_cli.nouns import Fit, Frames, MediaKind
from vllava_cli.times import Activity

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration


Features = dict[MediaKind, torch.Tensor]
"""Rows [tokens, hidden] of all media of a kind, in the order of the prompt."""


@dataclass(kw_only=True)
class VisionEncoder:
    """Computes the features of each clip once for each fit, and keeps them; those of a video take 17 MB (7B model)."""

    model: VideoLlava | VideoLlavaForConditionalGeneration
    tokens: Tokens
    tower: Callable[[MediaKind], torch.nn.Module] | None = None
    """Loads the tower that the model lacks for media of a kind. Errors: CheckpointError, MemoryShortError."""
    activity: Activity = field(default_factory=Activity)
    """Told the share of a tower's layers that are done."""
    calls: int = 0
    """The number of media that went through a vision tower."""
    _seen: WeakKeyDictionary[Frames, dict[Fit, torch.Tensor]] = field(default_factory=WeakKeyDictionary)

    def rows(self, prompt: Prompt, start: int, cancel: Cancel = NEVER) -> Features:
        """Returns the features for the placeholder ids of a prompt from position `start` on. Errors: CancelError."""
        rows: Features = {}
        for kind, token in self.tokens.placeholders.items():
            media = [medium for medium in prompt.media if medium.kind == kind]
            known, surplus = divmod(prompt.ids[:start].count(token), self.tokens.tokens_of(kind))
            if media[known:]:
                features = torch.cat([self.features(medium, prompt.fit, cancel) for medium in media[known:]])
                rows[kind] = features[surplus:]
        return rows

    def has(self, medium: Frames, fit: Fit) -> bool:
        """Returns True if the features of a medium are kept."""
        return fit in self._seen.get(medium, {})

    def forget(self) -> None:
        """Frees all features; the next question about a clip computes them again."""
        self._seen.clear()

    def features(self, medium: Frames, fit: Fit, cancel: Cancel = NEVER) -> torch.Tensor:
        """Returns the projected features of one medium, [tokens, hidden]. Errors: CancelError."""
        return self.all_features((medium,), fit, cancel)[0]

    @torch.inference_mode()
    def all_features(self, media: Sequence[Frames], fit: Fit, cancel: Cancel = NEVER) -> list[torch.Tensor]:
        """Returns the projected features [tokens, hidden] of each medium; media of a kind share a pass of their tower.

        Errors: CancelError.
        """
        for kind in self.tokens.placeholders:
            new = [medium for medium in media if medium.kind == kind and not self.has(medium, fit)]
            if new:
                for medium, features in zip(new, self._encoded(new, kind, fit, cancel), strict=True):
                    self._seen.setdefault(medium, {})[fit] = features
                self.calls += len(new)
        return [self._seen[medium][fit] for medium in media]

    def _encoded(self, media: Sequence[Frames], kind: MediaKind, fit: Fit, cancel: Cancel) -> tuple[torch.Tensor, ...]:
        model, checkpoint = self.model, self.tokens.checkpoint
        name = f"{kind}_tower"
        if self.tower and getattr(model.model, name) is None:
            setattr(model.model, name, self.tower(kind))
        pixels = torch.cat([pixels_of(medium, checkpoint, fit) for medium in media]).to(model.device, model.dtype)

        def before(share: float, *_: object) -> None:
            if model.device.type != "cuda":
                cancel.check()
                self.activity.advance(share)

        if isinstance(model, VideoLlava):
            return model.features(kind, pixels, before).flatten(0, -2).chunk(len(media))
        tower = getattr(model.model, name)
        layers = getattr(tower, "vision_model", tower).encoder.layers
        with ExitStack() as hooks:
            for number, layer in enumerate(layers):
                hooks.callback(layer.register_forward_pre_hook(partial(before, number / len(layers))).remove)
            output = getattr(model.model, f"get_{kind}_features")(pixels)
        features: torch.Tensor = getattr(output, "pooler_output", output)
        return features.flatten(0, -2).chunk(len(media))
