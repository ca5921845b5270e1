"""What transformers' documentation shows, measured: from_pretrained, pixels, `generate(do_sample=False)`.

Its video processor needs torchvision, which isn't installed with this tool: pixels and ids come from `media.pixels` and
`Tokens`, which give the same bits. The towers are whole, the cache is the one that generate makes. Nothing ends an
answer before it has all its tokens, because the model's end is unset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vllava_cli.engine.measuring.asked import Asked
from vllava_cli.engine.measuring.clock import finish, seconds_of
from vllava_cli.media.pixels import video_pixels
from vllava_cli.nouns import LoadPlan

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration


@dataclass(kw_only=True)
class Snippet:
    """A model as from_pretrained gives it, of which the parts that this tool's has as well may be shared with that."""

    model: VideoLlavaForConditionalGeneration
    plan: LoadPlan

    def __post_init__(self) -> None:
        # Its answers have to be as long as ours; without an end there is nothing to suppress, either.
        self.model.generation_config.eos_token_id = None

    @property
    def device(self) -> str:
        return self.plan.device

    def strip(self) -> None:
        """Frees what `share` replaces: whoever loads the same weights now doesn't hold them twice."""
        self.model.model.language_model = None
        self.model.lm_head = None

    def share(self, ours: VideoLlavaForConditionalGeneration) -> None:
        """Takes over all modules that ours has as well, so that both compute with the same weights.

        In a quantised plan towers and projector are its own: bitsandbytes quantises them, and this tool doesn't.
        """
        self.model.model.language_model = ours.model.language_model
        self.model.lm_head = ours.lm_head
        if self.plan.quantisation is None:
            for part in ("video_tower", "multi_modal_projector"):
                _share_leaves(getattr(self.model.model, part), getattr(ours.model, part))

    def own_bytes(self, ours: nn.Module) -> int:
        """Of the parameters that it doesn't share; they are in memory from then on, not in a file that is mapped."""
        shared = {id(parameter) for parameter in ours.parameters()}
        own = [parameter for parameter in self.model.parameters() if id(parameter) not in shared]
        for parameter in own:
            parameter.detach().max()
        return sum(parameter.nbytes for parameter in own)

    def generate(
        self,
        asked: Asked,
        *,
        new_tokens: int,
        rows: int = 1,
        see: Callable[[], object] | None = None,
        suppressed: Sequence[int] = (),
    ) -> list[int]:
        """The new ids of the first row, from frames that are decoded to the last id on the host.

        `see` is called behind each token, before the device has finished with it; `suppressed` ids never come.
        """
        ids = torch.tensor([asked.ids] * rows, device=self.model.device)
        pixels = torch.cat([self._pixels(asked)] * rows)
        made = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=pixels,
            max_new_tokens=new_tokens,
            do_sample=False,
            stopping_criteria=None if see is None else _seeing(see),
            suppress_tokens=list(suppressed) or None,
        )
        new: list[int] = made[0, ids.shape[1] :].tolist()
        return new

    def vision_s(self, asked: Asked) -> float:
        return seconds_of(lambda: self.features(asked), self.device)

    def prefill_s(self, asked: Asked, features: Tensor) -> float:
        """Of the whole prompt's embeddings, into an empty cache."""
        from transformers import DynamicCache

        ids = torch.tensor([asked.ids], device=self.model.device)
        with torch.no_grad():
            embeddings = self.model.get_input_embeddings()(ids)
            embeddings[ids == asked.tokens.placeholders["video"]] = features
            return seconds_of(
                lambda: self.model(
                    inputs_embeds=embeddings, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1
                ),
                self.device,
            )

    def answer_s(self, asked: Asked, *, new_tokens: int, rows: int = 1) -> float:
        """From frames that are decoded to the last token."""
        return seconds_of(lambda: self.generate(asked, new_tokens=new_tokens, rows=rows), self.device)

    def decode_tokens_per_s(self, asked: Asked, *, rows: int) -> float:
        """Of all rows together, from their first tokens to their last."""
        first_s: list[float] = []

        def note() -> None:
            if not first_s:
                finish(self.device)
                first_s.append(time.perf_counter())

        self.generate(asked, new_tokens=asked.new_tokens, rows=rows, see=note)
        finish(self.device)
        return rows * asked.steps / (time.perf_counter() - first_s[0])

    @torch.no_grad()
    def features(self, asked: Asked) -> Tensor:
        """[tokens, hidden] of the clip."""
        output = self.model.model.get_video_features(self._pixels(asked))
        features: Tensor = getattr(output, "pooler_output", output)
        return features.flatten(0, -2)

    @torch.no_grad()
    def logits(self, asked: Asked, new_ids: list[int]) -> Tensor:
        """[len(new_ids), vocabulary]: one pass over the prompt and these ids, what is said before each of them."""
        ids = torch.tensor([[*asked.ids, *new_ids[:-1]]], device=self.model.device)
        output = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=self._pixels(asked),
            logits_to_keep=len(new_ids),
        )
        logits: Tensor = output.logits[0]
        return logits

    def _pixels(self, asked: Asked) -> Tensor:
        pixels = video_pixels(asked.frames, asked.tokens.checkpoint.video_recipe)
        return pixels.to(self.model.device, self.model.dtype)


def _seeing(see: Callable[[], object]) -> Any:
    """Ends no answer."""
    from transformers import StoppingCriteriaList

    def look(ids: Tensor, _scores: object, **_: object) -> Tensor:
        see()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    return StoppingCriteriaList([look])


def _share_leaves(into: nn.Module, source: nn.Module) -> None:
    """Shares modules without children, and what parameters the others have of their own.

    Whole towers would share the hooks as well by which transformers records each layer's output: it would be recorded
    once for each tower.
    """
    into._parameters |= {name: each for name, each in source._parameters.items() if name in into._parameters}
    for name, child in source.named_children():
        mine = getattr(into, name, None)
        if mine is None or type(mine) is not type(child):
            continue
        if any(True for _ in child.children()):
            _share_leaves(mine, child)
        else:
            setattr(into, name, child)
