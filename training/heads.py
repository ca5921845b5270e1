"""Linear heads that ask the model what it sees while it learns, and are thrown away afterwards."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.architecture import TEXT_WIDTH, VISION_WIDTH
from training.targets import ACTIONS, IGNORED, FrameTargets, SceneTargets
from training.world import BACKGROUNDS, COLOURS, SHAPES

READ_LAYERS = slice(2, 4)
"""The hidden layers of the language model that SceneHead reads."""
ORDERS = 3
MOST_THINGS = 4


class FrameHeads(nn.Module):
    """Linear readings of the class token (the whole frame) and of each patch."""

    def __init__(self) -> None:
        super().__init__()
        self.present = nn.Linear(VISION_WIDTH, len(COLOURS))
        self.place = nn.Linear(VISION_WIDTH, len(COLOURS) * 3)
        self.shape = nn.Linear(VISION_WIDTH, len(COLOURS) * len(SHAPES))
        self.background = nn.Linear(VISION_WIDTH, len(BACKGROUNDS))
        self.patch_colour = nn.Linear(VISION_WIDTH, len(COLOURS) + 1)
        self.patch_shape = nn.Linear(VISION_WIDTH, len(SHAPES) + 1)
        self.patch_offset = nn.Linear(VISION_WIDTH, 2)

    def loss(self, seen: Tensor, targets: FrameTargets) -> Tensor:
        """One number from features [F, 17, 128]."""
        return self._frame_loss(seen[:, 0], targets) + self._patch_loss(seen[:, 1:], targets)

    def _frame_loss(self, whole: Tensor, targets: FrameTargets) -> Tensor:
        present, count = targets.present, targets.present.sum()
        place = self.place(whole).view(-1, len(COLOURS), 3)
        shape = self.shape(whole).view(-1, len(SHAPES))
        loss: Tensor = (
            2 * functional.binary_cross_entropy_with_logits(self.present(whole), present)
            + 2 * ((place - targets.place).abs() * present[..., None]).sum() / count / 3
            + functional.cross_entropy(shape, targets.shape.view(-1), ignore_index=IGNORED)
            + 0.5 * functional.cross_entropy(self.background(whole), targets.background)
        )
        return loss

    def _patch_loss(self, patches: Tensor, targets: FrameTargets) -> Tensor:
        is_thing = (targets.patch_shape > 0)[..., None]
        offset = (self.patch_offset(patches) - targets.patch_offset).abs() * is_thing
        loss: Tensor = (
            functional.cross_entropy(self.patch_colour(patches).flatten(0, 1), targets.patch_colour.flatten())
            + functional.cross_entropy(self.patch_shape(patches).flatten(0, 1), targets.patch_shape.flatten())
            + 0.5 * offset.sum() / is_thing.sum() / 2
        )
        return loss


class SceneHead(nn.Module):
    """Linear readings of the whole scene from each of two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        colours = len(COLOURS)
        self.sizes = [
            colours,
            colours * len(SHAPES),
            colours * len(ACTIONS),
            colours * ORDERS,
            len(BACKGROUNDS),
            MOST_THINGS,
        ]
        self.readings = nn.ModuleList(nn.Linear(TEXT_WIDTH, sum(self.sizes)) for _ in range(2))

    def loss(self, layers: list[Tensor], targets: SceneTargets, *, is_video: bool) -> Tensor:
        """The mean over layers [N, 192]; pictures have neither actions nor orders to tell."""
        read = (reading(layer) for reading, layer in zip(self.readings, layers, strict=True))
        return torch.stack([self._loss(readings, targets, is_video) for readings in read]).mean()

    def _loss(self, readings: Tensor, targets: SceneTargets, is_video: bool) -> Tensor:
        present, shape, action, order, background, count = torch.split(readings, self.sizes, -1)
        loss = (
            3 * functional.binary_cross_entropy_with_logits(present, targets.present)
            + _classified(shape, targets.shape)
            + 0.3 * functional.cross_entropy(background, targets.background)
            + 0.5 * functional.cross_entropy(count, targets.count)
        )
        if is_video:
            loss = loss + _classified(action, targets.action) + 0.5 * _classified(order, targets.order)
        return loss


def _classified(readings: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy of readings [N, 6 * classes] against [N, 6]."""
    flat = readings.reshape(wanted.numel(), -1)
    return functional.cross_entropy(flat, wanted.view(-1), ignore_index=IGNORED)
