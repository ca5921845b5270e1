"""Draws scenes: signed distances, antialiased, whole batches at once, in any size; values are 0..255."""

from collections.abc import Sequence
from math import cos, pi, sin, tau

import numpy as np
import torch
from torch import Tensor

from training.world import SHAPES, Scene, track

FRAMES = 8
TIMES = (np.arange(FRAMES) / FRAMES).astype(np.float32)
SLOTS = 4


def draw(scenes: Sequence[Scene], height: int, width: int, times: np.ndarray = TIMES) -> Tensor:
    """Draw every scene at every instant: float [scene, time, 3, height, width], the action in the central square."""
    side = min(height, width)
    rows = (torch.arange(height) + 0.5 - (height - side) / 2) / side
    columns = (torch.arange(width) + 0.5 - (width - side) / 2) / side
    frames = torch.tensor([scene.background_rgb for scene in scenes], dtype=torch.float32)
    frames = frames[:, None, :, None, None].expand(-1, len(times), -1, height, width).clone()
    flat = frames.flatten(0, 1)
    for slot in range(max(len(scene.things) for scene in scenes)):
        _draw_slot(flat, scenes, slot, (rows, columns), times)
    return frames


def _draw_slot(
    flat: Tensor, scenes: Sequence[Scene], slot: int, grid: tuple[Tensor, Tensor], times: np.ndarray
) -> None:
    """Paint the slot-th thing of every scene over the frames, one shape at a time."""
    groups: dict[str, list[tuple[int, Tensor]]] = {shape: [] for shape in SHAPES}
    for index, scene in enumerate(scenes):
        if slot < len(scene.things):
            thing = scene.things[slot]
            path = track(thing, times)
            angle = np.full_like(path.x, thing.angle)
            columns = np.column_stack([path.x, path.y, path.radius, angle, path.rgb, path.visible])
            groups[thing.shape].append((index, torch.from_numpy(columns)))
    side = 1 / float(grid[0][1] - grid[0][0])
    for shape, members in groups.items():
        if not members:
            continue
        states = torch.cat([state for _, state in members])
        where = torch.cat([torch.arange(len(times)) + index * len(times) for index, _ in members])
        seen = states[:, 7] > 0
        states, where = states[seen], where[seen]
        if len(where) == 0:
            continue
        cover = (0.5 - _distance(shape, states, grid) * side).clamp_(0, 1)[:, None]
        flat[where] = torch.lerp(flat[where], states[:, 4:7, None, None], cover)


def _distance(shape: str, states: Tensor, grid: tuple[Tensor, Tensor]) -> Tensor:
    """Signed distance to the outline, negative inside: [states, height, width]."""
    x, y, radius, angle = (states[:, column, None, None] for column in range(4))
    across, down = grid[1][None, None, :] - x, grid[0][None, :, None] - y
    if shape == "circle":
        return (across.square() + down.square()).sqrt() - radius * 0.95
    turned_x = across * angle.cos() + down * angle.sin()
    turned_y = down * angle.cos() - across * angle.sin()
    if shape == "square":
        return torch.maximum(turned_x.abs(), turned_y.abs()) - radius * 0.82
    if shape == "triangle":
        turned_y = turned_y - radius * 0.2
        slanted = turned_x.abs() * cos(pi / 6) - turned_y * 0.5
        return torch.maximum(turned_y, slanted) - radius * 0.6
    return _star_distance(turned_x, turned_y, radius)


def _star_distance(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Fold the plane into one arm of a five-pointed star that points up, then measure to its edge."""
    turn = torch.atan2(x, -y)
    turn = (turn - (turn * (5 / tau)).round() * (tau / 5)).abs()
    far = (x.square() + y.square()).sqrt()
    along, beside = far * turn.cos(), far * turn.sin()
    inner_x, inner_y = 0.42 * cos(pi / 5), 0.42 * sin(pi / 5)
    tip = 1.1
    length = ((tip - inner_x) ** 2 + inner_y**2) ** 0.5
    normal_x, normal_y = inner_y / length, (tip - inner_x) / length
    distance: Tensor = (along - tip * radius) * normal_x + beside * normal_y
    return distance
