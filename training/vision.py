"""The first stage: the video tower learns to see single frames, with heads that are thrown away afterwards."""

import logging
from typing import Any

import torch
from torch import Tensor

from training.architecture import IDLE_LAYER
from training.batches import VisionSource, prepared
from training.checkpoint import IMAGE_MEAN, IMAGE_STD
from training.heads import FrameHeads
from training.optimise import Named, Optimiser, Schedule, descend

LOG = logging.getLogger(__name__)
WARM_UP, FLOOR = 100, 0.03
REPORT_EVERY = 50


def train(model: Any, source: VisionSource, steps: int, seed: int) -> None:
    """Trains the layers of the video tower that count."""
    torch.manual_seed(seed)
    heads = FrameHeads()
    named = tower_weights(model) + [(f"head.{name}", weight) for name, weight in heads.named_parameters()]
    optimiser = Optimiser(named, Schedule(steps=steps, warm_up=WARM_UP, floor=FLOOR))
    with prepared(source, seed) as batches:
        for step in range(1, steps + 1):
            batch = next(batches)
            with torch.autocast("cpu", torch.bfloat16):
                seen = features(model, batch.pixels)
            loss = heads.loss(seen.float(), batch.targets)
            descend(loss, [optimiser], named)
            if step % REPORT_EVERY == 0:
                LOG.info("vision %d of %d: loss %.3f", step, steps, loss.item())


def tower_weights(model: Any) -> Named:
    """The video tower's weights without those that never count."""
    return [
        (name, weight)
        for name, weight in model.model.video_tower.named_parameters()
        if "post_layernorm" not in name and f"layers.{IDLE_LAYER}." not in name
    ]


def features(model: Any, pixels: Tensor) -> Tensor:
    """uint8 [F, 3, 64, 64] → what the model uses of the tower, [F, 17, 128]: layer -2, class token first."""
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (IMAGE_MEAN, IMAGE_STD))
    seen = model.model.video_tower((pixels.float() - mean) / std, output_hidden_states=True)
    layer: Tensor = seen.hidden_states[-2]
    return layer
