"""Makes the demo checkpoint from nothing: `python -m training.train [--steps VISION,JOINT] [--seed S] [--out FOLDER]`.

Tokenizer, vision stage, joint stage, files. On 2 CPU cores it takes about 80 minutes; nothing is downloaded.
"""

import argparse
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin would starve the drawing process

import torch
from transformers import VideoLlavaForConditionalGeneration

from training import checkpoint, joint, tokenizer, vision
from training.architecture import config
from training.batches import JointSource, VisionSource
from vllava_cli.demo import CHECKPOINT

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long each stage lasts, how large its batches are, and where all randomness begins."""

    vision_steps: int = 1180
    joint_steps: int = 3000
    seed: int = 0
    vocabulary_scenes: int = 6000
    vision: VisionSource = field(default_factory=VisionSource)
    videos: int = 16
    images: int = 8


def run(recipe: Recipe, folder: Path) -> None:
    """Trains and writes the checkpoint."""
    torch.manual_seed(recipe.seed)
    words = tokenizer.make(recipe.seed, recipe.vocabulary_scenes)
    LOG.info("tokenizer: %d tokens", len(words))
    model = VideoLlavaForConditionalGeneration(config())
    model.train()
    vision.train(model, recipe.vision, recipe.vision_steps, recipe.seed + 11)
    source = JointSource(tokenizer=words, videos=recipe.videos, images=recipe.images)
    weights = joint.train(model, source, recipe.joint_steps, recipe.seed + 21)
    checkpoint.write(weights, folder, words)
    LOG.info("written to %s", folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.train")
    parser.add_argument("--steps", default=f"{Recipe.vision_steps},{Recipe.joint_steps}", metavar="VISION,JOINT")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--out", type=Path, default=CHECKPOINT, metavar="FOLDER")
    told = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vision_steps, joint_steps = map(int, told.steps.split(","))
    run(Recipe(vision_steps=vision_steps, joint_steps=joint_steps, seed=told.seed), told.out)


if __name__ == "__main__":
    main()
