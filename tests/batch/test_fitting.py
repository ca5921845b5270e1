"""Those who read frames are told how small the model takes them, in whichever process they are."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tests.batch.parts import Reading
from tests.clips import write_clip
from vllava_cli.batch.clip_jobs import units_of
from vllava_cli.batch.executors.worker import Done, Setup, Worker
from vllava_cli.batch.jobs import Wanted, made
from vllava_cli.batch.request import Batch, Inputs
from vllava_cli.batch.run import run
from vllava_cli.demo import CHECKPOINT
from vllava_cli.media.decoder.pool import Pool
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import Framing, Sampling, Source, VideoRecipe, Wishes


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[VideoRecipe]:
    """What pools are told."""
    recipes: list[VideoRecipe] = []
    fit_to = Pool.fit_to

    def noted(self: Pool, recipe: VideoRecipe) -> None:
        recipes.append(recipe)
        fit_to(self, recipe)

    monkeypatch.setattr(Pool, "fit_to", noted)
    return recipes


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    inputs = Inputs(paths=(str(write_clip(tmp_path / "a.mp4")),), questions=("Why?",))
    return Batch(
        inputs=inputs, wishes=Wishes(model="demo"), framing=Framing(), sampling=Sampling(max_new_tokens=1), decoders=1
    )


def test_by_the_process_itself(batch: Batch, told: list[VideoRecipe]) -> None:
    assert run(batch, Reading().screen()) == 0
    assert told == [read_video_recipe(CHECKPOINT)]


def test_by_a_process_for_each_device(batch: Batch, told: list[VideoRecipe]) -> None:
    source = Source(model="demo", folder=CHECKPOINT)
    setup = Setup(batch=batch, source=source, device="cpu", kinds=frozenset({"video"}), longest=4, decoders=1)
    ours, theirs = multiprocessing.Pipe()
    (unit,) = units_of(made([Wanted(path=batch.inputs.paths[0], question="Why?")], "settings"))
    ours.send(unit)
    ours.send(None)
    Worker(theirs, setup).run()
    said = []
    while ours.poll():
        said.append(ours.recv())
    assert [type(message) for message in said if isinstance(message, Done)] == [Done]
    assert told == [read_video_recipe(CHECKPOINT)]
