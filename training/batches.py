"""Batches for the two stages, made by a process of its own while the model learns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, multiprocessing
from transformers import PreTrainedTokenizerFast

from training.architecture import PATCHES, VIDEO_TOKENS
from training.asking import Item, Medium
from training.packing import Packed, Packer
from training.questions import items, worded
from training.refusals import refusal
from training.render import TIMES, draw
from training.targets import FrameTargets, SceneTargets, frame_targets, scene_targets
from training.weather import SIDE, weather
from training.world import Scene, sample_scene, sample_still

SHARES = {
    "background": 0.6,
    "colour": 0.8,
    "shape": 0.9,
    "yes/no": 1.0,
    "count": 1.2,
    "order": 1.2,
    "action": 1.2,
    "follow-up": 1.2,
    "direction": 1.6,
    "direction beside another": 1.6,
}
"""How readily a kind of question is taken where more fit than are asked."""
AHEAD = 6
"""Batches that may wait."""


@dataclass(frozen=True, kw_only=True)
class AskedBatch:
    """Videos [N, 8, 3, 64, 64] or pictures [N, 3, 64, 64], uint8, and what is asked about each."""

    medium: Medium
    pixels: Tensor
    text: Packed
    scenes: SceneTargets
    frames: FrameTargets


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Single frames [F, 3, 64, 64] uint8."""

    pixels: Tensor
    targets: FrameTargets


@dataclass(frozen=True, kw_only=True)
class JointSource:
    """Clips of each medium in a step, and questions about each."""

    tokenizer: PreTrainedTokenizerFast
    videos: int = 16
    images: int = 8
    questions: int = 12

    def batches(self, seed: int) -> Iterator[tuple[AskedBatch, AskedBatch]]:
        """(videos, pictures) for one step after another."""
        random, generator = Random(seed), torch.Generator().manual_seed(seed)
        packer = Packer(self.tokenizer)
        while True:
            yield self._videos(random, generator, packer), self._images(random, generator, packer)

    def _videos(self, random: Random, generator: torch.Generator, packer: Packer) -> AskedBatch:
        scenes = [sample_scene(random) for _ in range(self.videos)]
        pixels = weather(draw(scenes, SIDE, SIDE), generator)
        text = packer.pack([self._asked(scene, random) for scene in scenes], "video", VIDEO_TOKENS)
        return _asked_batch("video", scenes, pixels, text)

    def _images(self, random: Random, generator: torch.Generator, packer: Packer) -> AskedBatch:
        scenes = [sample_still(random) for _ in range(self.images)]
        pixels = weather(draw(scenes, SIDE, SIDE, TIMES[:1]), generator)[:, 0]
        text = packer.pack([self._asked(scene, random) for scene in scenes], "image", PATCHES)
        return _asked_batch("image", scenes, pixels, text)

    def _asked(self, scene: Scene, random: Random) -> list[Item]:
        """Questions that fit, one or two of them (about a picture none or one) outside the world."""
        if scene.kind == "still":
            fitting = chosen(items(scene, random, "image"), random, self.questions - 1)
            outside = [refusal(random)] if random.random() < 0.6 else []
        else:
            candidates = items(scene, random)
            outside = [refusal(random), *([refusal(random)] if random.random() < 0.5 else [])]
            fitting = chosen(candidates, random, self.questions - len(outside))
        return [worded(item, random) for item in (*fitting, *outside)]


@dataclass(frozen=True, kw_only=True)
class VisionSource:
    """Scenes in a step, and frames of each."""

    scenes: int = 64
    frames: int = 4

    def batches(self, seed: int) -> Iterator[FrameBatch]:
        random, generator = Random(seed), torch.Generator().manual_seed(seed)
        while True:
            scenes = [_any_scene(random) for _ in range(self.scenes)]
            times = np.sort(np.array(random.sample(list(TIMES), self.frames), np.float32))
            pixels = weather(draw(scenes, SIDE, SIDE, times), generator).flatten(0, 1)
            yield FrameBatch(pixels=pixels, targets=frame_targets(scenes, times))


def chosen(candidates: list[Item], random: Random, number: int) -> list[Item]:
    """At most `number` items without replacement, drawn by SHARES."""
    keys = [random.random() ** (1 / SHARES[item.kind.removeprefix("image ")]) for item in candidates]
    order = sorted(range(len(candidates)), key=keys.__getitem__, reverse=True)
    return [candidates[index] for index in order[:number]]


@contextmanager
def prepared(source: JointSource | VisionSource, seed: int) -> Iterator[Iterator[Any]]:
    """The source's batches in the order of `seed`, drawn ahead by another process until the context is left."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(AHEAD)
    process = context.Process(target=_produce, args=(queue, source, seed), daemon=True)
    process.start()
    try:
        yield iter(queue.get, None)
    finally:
        process.terminate()
        process.join()


def _produce(queue: Any, source: JointSource | VisionSource, seed: int) -> None:
    torch.set_num_threads(1)
    for batch in source.batches(seed):
        queue.put(batch)


def _asked_batch(medium: Medium, scenes: list[Scene], pixels: Tensor, text: Packed) -> AskedBatch:
    frames = frame_targets(scenes, TIMES if medium == "video" else TIMES[:1])
    return AskedBatch(medium=medium, pixels=pixels, text=text, scenes=scene_targets(scenes), frames=frames)


def _any_scene(random: Random) -> Scene:
    return sample_scene(random) if random.random() < 0.7 else sample_still(random)
