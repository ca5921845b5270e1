"""The recipe runs from end to end, and writes a checkpoint that the product and transformers can load."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests.published import tensors
from training import evaluate
from training.batches import JointSource, VisionSource
from training.heldout import make
from training.packing import Packer
from training.questions import items
from training.tokenizer import corpus
from training.train import Recipe, run
from training.world import sample_scene
from vllava_cli.demo import CHECKPOINT

SMALL = Recipe(
    vision_steps=2,
    joint_steps=2,
    vocabulary_scenes=300,
    vision=VisionSource(scenes=4, frames=2),
    videos=2,
    images=2,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(SMALL, folder)
    return folder


def test_a_short_training_writes_what_the_demo_has(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == {path.name for path in CHECKPOINT.iterdir()}
    made, shipped = (load_file(folder / "model.safetensors") for folder in (written, CHECKPOINT))
    assert {name: weight.shape for name, weight in made.items()} == {
        name: weight.shape for name, weight in shipped.items()
    }


def test_the_demo_has_the_names_of_the_published_tensors() -> None:
    def anonymous(names: Iterable[str]) -> set[str]:
        return {re.sub(r"layers\.\d+", "layers.*", name) for name in names}

    shipped = load_file(CHECKPOINT / "model.safetensors")
    assert anonymous(shipped) == anonymous(name for name, _, _ in tensors())


def test_a_short_training_can_be_asked(written: Path, tmp_path: Path) -> None:
    found = list(evaluate.outcomes(written, make(tmp_path, 2, seed=3)))
    assert len(found) == 12


def test_both_towers_are_one_and_the_idle_layer_is_blank() -> None:
    weights = load_file(CHECKPOINT / "model.safetensors")
    towers = {name: weight for name, weight in weights.items() if "video_tower" in name}
    assert all(
        torch.equal(weight, weights[name.replace("video_tower", "image_tower")]) for name, weight in towers.items()
    )
    idle = [weight for name, weight in towers.items() if ".layers.3." in name and "norm" not in name]
    assert len(idle) == 12
    assert not any(weight.any() for weight in idle)


def test_the_tokenizer_gives_back_every_question_and_answer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    for line in corpus(Random(9), scenes=150):
        assert tokenizer.decode(tokenizer(line)["input_ids"], skip_special_tokens=True) == line


def test_packed_questions_see_the_clip_and_themselves_alone() -> None:
    source = JointSource(tokenizer=AutoTokenizer.from_pretrained(CHECKPOINT), videos=1, images=1)
    (videos, _) = next(source.batches(seed=1))
    text = videos.text
    mask, segments = text.mask[0], text.segments[0]
    last = int((segments == 2).nonzero().max())
    assert set(segments[mask[last]].tolist()) == {0, 2}
    assert int(mask[last].nonzero().max()) == last


def test_a_packed_question_is_the_prompt_that_the_product_makes() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    random = Random(2)
    (item,) = [one for one in items(sample_scene(random, "sequence"), random) if one.kind == "follow-up"][:1]
    (question, answer), (later, last) = item.turns
    packed = Packer(tokenizer).pack([[item]], "video", 136)
    text = f"USER: {'<video>' * 136}\n{question} ASSISTANT: {answer} USER: {later} ASSISTANT: {last}</s>"
    assert packed.ids[0][packed.segments[0] >= 0].tolist() == tokenizer(text)["input_ids"]
