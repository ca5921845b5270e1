"""What the throwaway heads learn to tell: of a frame, for the tower alone, and of a whole scene, for the joint stage.

Colours stand for things, since no two things of a scene share one. IGNORED is what cross_entropy skips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.architecture import PATCHES, SIDE_PATCHES
from training.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Floats, Scene, Thing, track

IGNORED = -100
COLOUR = {colour: index for index, colour in enumerate(COLOURS)}
BACKGROUND = {colour: index for index, colour in enumerate(BACKGROUNDS)}
ACTIONS = ("rests", *DIRECTIONS, "grows", "shrinks", "appears", "disappears", "turns")
NEAR = 0.06
"""How far from a thing's outline a patch centre may be to count as showing it."""


@dataclass(frozen=True, kw_only=True)
class FrameTargets:
    """F frames: what is in them by colour, and what each of P patches shows (0 for background)."""

    present: Tensor
    """[F, 6] float"""
    place: Tensor
    """[F, 6, 3] float: x and y in -1..1, radius * 4"""
    shape: Tensor
    """[F, 6]"""
    background: Tensor
    """[F]"""
    patch_colour: Tensor
    """[F, P]"""
    patch_shape: Tensor
    """[F, P]"""
    patch_offset: Tensor
    """[F, P, 2] float: from the patch's centre to the thing's, * 4"""


@dataclass(frozen=True, kw_only=True)
class SceneTargets:
    """N scenes: what they hold by colour, and what that does."""

    present: Tensor
    """[N, 6] float"""
    shape: Tensor
    """[N, 6]"""
    action: Tensor
    """[N, 6]: index in ACTIONS, a mover's direction for its action"""
    order: Tensor
    """[N, 6]: 0 there from the start, 1 first, 2 second"""
    background: Tensor
    """[N]"""
    count: Tensor
    """[N]: number of things - 1"""


def frame_targets(scenes: Sequence[Scene], times: Floats) -> FrameTargets:
    """The targets of every scene at every instant, scene by scene."""
    frames = len(scenes) * len(times)
    targets = FrameTargets(
        present=torch.zeros(frames, len(COLOURS)),
        place=torch.zeros(frames, len(COLOURS), 3),
        shape=torch.full((frames, len(COLOURS)), IGNORED),
        background=torch.tensor([BACKGROUND[scene.background] for scene in scenes]).repeat_interleave(len(times)),
        patch_colour=torch.zeros(frames, PATCHES, dtype=torch.long),
        patch_shape=torch.zeros(frames, PATCHES, dtype=torch.long),
        patch_offset=torch.zeros(frames, PATCHES, 2),
    )
    for index, scene in enumerate(scenes):
        nearest = np.full((len(times), PATCHES), np.inf)
        for thing in scene.things:
            _mark(targets, thing, times, index * len(times), nearest)
    return targets


def _mark(targets: FrameTargets, thing: Thing, times: Floats, first: int, nearest: NDArray[np.float64]) -> None:
    """Enters one thing into the frames from `first` on; `nearest` is the distance of what a patch shows so far."""
    path, shape = track(thing, times), SHAPES.index(thing.shape)
    colour = _colours(thing, times)
    centres = (np.arange(SIDE_PATCHES) + 0.5) / SIDE_PATCHES
    across, down = (axis.ravel() for axis in np.meshgrid(centres, centres))
    dx, dy = path.x[:, None] - across, path.y[:, None] - down
    outside = np.maximum(np.maximum(abs(dx), abs(dy)) - path.radius[:, None], 0)
    is_hit = (outside < NEAR) & (np.hypot(dx, dy) < nearest) & (path.visible[:, None] > 0.5)
    nearest[is_hit] = np.hypot(dx, dy)[is_hit]
    frame, patch = (torch.from_numpy(axis) for axis in is_hit.nonzero())
    targets.patch_colour[first + frame, patch] = torch.from_numpy(colour)[frame] + 1
    targets.patch_shape[first + frame, patch] = shape + 1
    offsets = (np.stack([dx, dy], -1)[is_hit] * 4).astype(np.float32)
    targets.patch_offset[first + frame, patch] = torch.from_numpy(offsets)
    for at in ((path.visible > 0.5) & (colour >= 0)).nonzero()[0]:
        row, column = first + int(at), int(colour[at])
        targets.present[row, column] = 1
        place = (path.x[at] * 2 - 1, path.y[at] * 2 - 1, path.radius[at] * 4)
        targets.place[row, column] = torch.tensor([float(value) for value in place])
        targets.shape[row, column] = shape


def _colours(thing: Thing, times: Floats) -> NDArray[np.int64]:
    """The index of the thing's colour at each instant [T], -1 while it turns."""
    first, last = COLOUR[thing.colour], COLOUR[thing.final_colour or thing.colour]
    done = np.clip((times - thing.begins) / max(thing.ends - thing.begins, 1e-6), 0, 1)
    between = -1 if thing.final_colour else first
    return np.where(done >= 1, last, np.where(done > 0, between, first))


def scene_targets(scenes: Sequence[Scene]) -> SceneTargets:
    """Of things that come one after another the order is asked, of others the action."""
    size = (len(scenes), len(COLOURS))
    targets = SceneTargets(
        present=torch.zeros(size),
        shape=torch.full(size, IGNORED),
        action=torch.full(size, IGNORED),
        order=torch.full(size, IGNORED),
        background=torch.tensor([BACKGROUND[scene.background] for scene in scenes]),
        count=torch.tensor([len(scene.things) - 1 for scene in scenes]),
    )
    for row, scene in enumerate(scenes):
        for position, thing in enumerate(scene.things):
            at = (row, COLOUR[thing.colour])
            targets.present[at], targets.shape[at] = 1, SHAPES.index(thing.shape)
            is_sequence = scene.kind == "sequence"
            targets.order[at] = position + 1 if is_sequence else 0
            if not is_sequence:
                targets.action[at] = ACTIONS.index(thing.direction or thing.action)
    return targets
