"""Files that training never saw: other sizes, rates, lengths, codecs, light and noise, drawn at the file's own size.

Scenes come in rounds in which every direction, action and number of things has its share.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import av
import numpy as np

from training.asking import Item, Medium
from training.media import Encoding, drawn, encode, rounded, save_picture
from training.questions import items, worded
from training.refusals import refusal
from training.world import DIRECTIONS, Scene, sample_scene, sample_still

ENCODINGS = (
    Encoding(options={"crf": "26", "bf": "2"}),
    Encoding(codec="mpeg4", options={"b": "400k"}),
    Encoding(codec="libvpx-vp9", suffix=".webm", options={"deadline": "realtime", "cpu-used": "8", "crf": "32"}),
    Encoding(codec="mjpeg", pix_fmt="yuvj420p", suffix=".avi"),
    Encoding(codec="libx265", options={"preset": "ultrafast", "crf": "26", "x265-params": "log-level=none"}),
    Encoding(codec="ffv1", suffix=".mkv"),
)
PICTURES = (".png", ".jpg", ".webp")
SIZES = ((96, 96), (160, 120), (320, 180), (240, 320), (128, 128))
"""(width, height)"""
RATES = (8, 10, 15, 24, 25, 30, 60)
SHARES = {"rest": 3, "act": 6, "duo": 5, "sequence": 5, "many": 4, "still": 11}
"""How often a round has each kind of scene, besides two that move in each direction."""
QUESTIONS_PER_CLIP = 6


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """One file, and what is asked about it."""

    path: Path
    scene: Scene
    items: tuple[Item, ...]


def make(folder: Path, count: int, seed: int) -> Iterator[HeldOut]:
    """Writes `count` files into `folder`, one after another; kinds of questions are kept in balance."""
    random, asked = Random(f"held out {seed}"), Counter[str]()
    encodings = [encoding for encoding in ENCODINGS if encoding.codec in av.codecs_available]
    order = _round(random)
    for position in range(count):
        scene = _scene(random, *order[position % len(order)])
        chosen = _chosen(scene, random, asked)
        asked.update(item.kind for item in chosen)
        path = _written(folder / f"{position:04d}", scene, encodings[position % len(encodings)], random)
        yield HeldOut(path=path, scene=scene, items=chosen)


def _round(random: Random) -> list[tuple[str, str | None]]:
    """(kind of scene, direction) of one round, shuffled."""
    order = list[tuple[str, str | None]]()
    order += [("move", direction) for direction in (*DIRECTIONS, *DIRECTIONS)]
    for kind, share in SHARES.items():
        order += [(kind, None)] * share
    random.shuffle(order)
    return order


def _scene(random: Random, kind: str, direction: str | None) -> Scene:
    if kind == "still":
        return sample_still(random)
    while True:
        scene = sample_scene(random, kind)
        if direction in (None, scene.things[0].direction):
            return scene


def _chosen(scene: Scene, random: Random, asked: Counter[str]) -> tuple[Item, ...]:
    """The questions whose kinds have been asked least so far, a refusal always among the candidates."""
    medium: Medium = "image" if scene.kind == "still" else "video"
    candidates = [*items(scene, random, medium), refusal(random, held_out=True)]
    random.shuffle(candidates)
    seen, chosen = Counter(asked), list[Item]()
    while candidates and len(chosen) < QUESTIONS_PER_CLIP:
        rarest = min(candidates, key=lambda item: (item.kind != "direction", seen[item.kind]))
        candidates.remove(rarest)
        seen[rarest.kind] += 1
        chosen.append(worded(rarest, random))
    return tuple(chosen)


def _written(stem: Path, scene: Scene, encoding: Encoding, random: Random) -> Path:
    """Draws, spoils and encodes a scene; returns the file."""
    (width, height), fps = random.choice(SIZES), random.choice(RATES)
    is_still = scene.kind == "still"
    count = 1 if is_still else max(8, round(fps * random.uniform(1, 4)))
    noise = np.random.default_rng(random.getrandbits(32))
    pixels = drawn(scene, count, height, width) * random.uniform(0.93, 1.06) + random.uniform(-6, 6)
    pixels += noise.normal(0, random.uniform(0, 7), pixels.shape).astype(np.float32)
    path = stem.with_suffix(random.choice(PICTURES) if is_still else encoding.suffix)
    if is_still:
        save_picture(path, rounded(pixels)[0])
    else:
        encode(path, rounded(pixels), fps, encoding)
    return path
