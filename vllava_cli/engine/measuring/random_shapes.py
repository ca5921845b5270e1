"""The shapes that random weights can have, by name. Nothing heavy is imported: a help text can list them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How wide and how deep a model is: a Llama behind two CLIP towers."""

    words: str
    """What it is, for a help text."""
    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    vision_hidden: int
    vision_inner: int
    vision_layers: int
    vision_heads: int
    image_side: int
    patch_side: int
    """In pixels, both."""


SHAPES: dict[str, Shape] = {
    "7b": Shape(
        words="Video-LLaVA 7B",
        hidden=4096,
        inner=11008,
        layers=32,
        heads=32,
        vocabulary=32064,
        vision_hidden=1024,
        vision_inner=4096,
        vision_layers=24,
        vision_heads=16,
        image_side=224,
        patch_side=14,
    ),
    "1b": Shape(
        words="a language model of 1.1 billion parameters behind the same towers",
        hidden=2048,
        inner=5632,
        layers=22,
        heads=16,
        vocabulary=32064,
        vision_hidden=1024,
        vision_inner=4096,
        vision_layers=24,
        vision_heads=16,
        image_side=224,
        patch_side=14,
    ),
    "tiny": Shape(
        words="about the size of the demo model",
        hidden=256,
        inner=688,
        layers=4,
        heads=8,
        vocabulary=1024,
        vision_hidden=128,
        vision_inner=256,
        vision_layers=4,
        vision_heads=4,
        image_side=64,
        patch_side=16,
    ),
}
"""The names that --random-weights knows."""
