"""The second stage: tower, projector and language model learn to answer together.

Two throwaway heads help. The scene head asks hidden layers of the language model, at the clip's last token, what the
whole scene is. Frame heads as in the first stage ask the tower, which was seen to forget shapes without them.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training import attention
from training.batches import AskedBatch, JointSource, prepared
from training.heads import READ_LAYERS, FrameHeads, SceneHead
from training.optimise import Average, Named, Optimiser, Schedule, descend
from training.packing import MEDIUM_TOKENS
from training.targets import IGNORED
from training.vision import features, tower_weights

LOG = logging.getLogger(__name__)
FLOOR = 0.01
WARM_UP, TOWER_WARM_UP = 100, 400
TOWER_PEAK = 1.2e-3
SCENE_SHARE, SCENE_IMAGE_SHARE = 0.15, 0.5
FRAME_SHARE, FRAME_IMAGE_SHARE = 0.3, 0.1
"""What each head counts beside the answers, and what it counts on pictures beside videos."""
REPORT_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The mean over all answer tokens, and what each head adds."""

    answers: Tensor
    scenes: Tensor
    frames: Tensor

    @property
    def total(self) -> Tensor:
        return self.answers + SCENE_SHARE * self.scenes + FRAME_SHARE * self.frames


class Learner:
    """The model with its two throwaway heads."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.scene_head, self.frame_heads = SceneHead(), FrameHeads()
        self.heads = nn.ModuleList([self.scene_head, self.frame_heads])

    def losses(self, videos: AskedBatch, images: AskedBatch) -> Losses:
        with torch.autocast("cpu", torch.bfloat16):
            seen, shown = (features(self.model, batch.pixels.flatten(0, -4)) for batch in (videos, images))
            told, also_told = self._told(videos, seen), self._told(images, shown)
            frames = self.frame_heads.loss(seen.float(), videos.frames)
            frames = frames + FRAME_IMAGE_SHARE * self.frame_heads.loss(shown.float(), images.frames)
        logits, labels = (torch.cat(parts) for parts in zip(told[:2], also_told[:2], strict=True))
        scenes = told[2] + SCENE_IMAGE_SHARE * also_told[2]
        return Losses(answers=functional.cross_entropy(logits, labels), scenes=scenes, frames=frames)

    def _told(self, batch: AskedBatch, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [A, vocabulary] and labels [A] of all answer tokens, and the scene head's loss."""
        text = batch.text
        mask = torch.zeros(text.mask.shape, dtype=torch.bfloat16).masked_fill(~text.mask, float("-inf"))
        out = self.model.model.language_model(
            inputs_embeds=_embedded(self.model, batch, seen),
            attention_mask=mask[:, None],
            position_ids=text.positions,
            use_cache=False,
            output_hidden_states=True,
        )
        labels = functional.pad(text.labels[:, 1:], (0, 1), value=IGNORED)
        is_answer = labels != IGNORED
        read = [layer[:, text.prefix_end].float() for layer in out.hidden_states[READ_LAYERS]]
        logits: Tensor = self.model.lm_head(out[0][is_answer]).float()
        scene = self.scene_head.loss(read, batch.scenes, is_video=batch.medium == "video")
        return logits, labels[is_answer], scene


def train(model: Any, source: JointSource, steps: int, seed: int) -> dict[str, Tensor]:
    """Trains everything that counts; returns the whole state, running means in the place of the trained weights."""
    attention.use(model)
    learner = Learner(model)
    named = trained_weights(model)
    optimisers, average = _optimisers(learner, steps), Average(named)
    with prepared(source, seed) as batches:
        for step in range(1, steps + 1):
            losses = learner.losses(*next(batches))
            descend(losses.total, optimisers, named)
            average.update(named)
            if step % REPORT_EVERY == 0:
                told = (losses.answers.item(), losses.scenes.item(), losses.frames.item())
                LOG.info("joint %d of %d: answers %.4f, scenes %.3f, frames %.3f", step, steps, *told)
    return {**model.state_dict(), **average.weights}


def trained_weights(model: Any) -> Named:
    return _tower(model) + [(name, weight) for name, weight in model.named_parameters() if "_tower." not in name]


def _tower(model: Any) -> Named:
    return [(f"model.video_tower.{name}", weight) for name, weight in tower_weights(model)]


def _optimisers(learner: Learner, steps: int) -> list[Optimiser]:
    """The tower knows much already and moves at two fifths of the rate, after a longer warm-up."""
    heads: Named = [(f"head.{name}", weight) for name, weight in learner.heads.named_parameters()]
    rest = [(name, weight) for name, weight in trained_weights(learner.model) if "_tower." not in name]
    schedule = Schedule(steps=steps, warm_up=WARM_UP, floor=FLOOR)
    slow = Schedule(steps=steps, warm_up=TOWER_WARM_UP, floor=FLOOR, peak=TOWER_PEAK)
    return [Optimiser(rest + heads, schedule), Optimiser(_tower(learner.model), slow)]


def _embedded(model: Any, batch: AskedBatch, seen: Tensor) -> Tensor:
    """[row, token, 192]: the words' embeddings, projected features in the place of the placeholders."""
    if batch.medium == "image":
        seen = seen[:, 1:]  # the "default" strategy: a picture's class token isn't shown
    projected = model.model.multi_modal_projector(seen)
    words: Tensor = model.get_input_embeddings()(batch.text.ids)
    is_placeholder = (batch.text.ids == MEDIUM_TOKENS[batch.medium])[..., None]
    return words.masked_scatter(is_placeholder, projected.to(words.dtype))
