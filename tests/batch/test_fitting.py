"""Those who read frames are told how small the model takes them, in whichever process they are."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tests.batch.parts import Reading, batch_of
from tests.clips import write_clip
from vllava_cli.answers import Sampling
from vllava_cli.batch.executors.processes import WorkerSetup, answer
from vllava_cli.batch.jobs import ClipJobs, JobRequest, make_jobs
from vllava_cli.batch.request import BatchRequest, Inputs
from vllava_cli.batch.run import run
from vllava_cli.demo import CHECKPOINT
from vllava_cli.media.decoder.pool import Pool
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import Source, VideoRecipe


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
def batch(tmp_path: Path) -> BatchRequest:
    inputs = Inputs(paths=(str(write_clip(tmp_path / "a.mp4")),), questions=("Why?",))
    return batch_of(inputs=inputs, sampling=Sampling(max_new_tokens=1), decoders=1)


def test_by_the_process_itself_and_by_a_process_for_each_device(batch: BatchRequest, told: list[VideoRecipe]) -> None:
    assert run(batch, Reading().screen()) == 0
    source = Source(model="demo", folder=CHECKPOINT)
    setup = WorkerSetup(batch=batch, source=source, kinds=frozenset({"video"}), longest=4)
    ours, theirs = multiprocessing.Pipe()
    request = JobRequest(path=batch.inputs.paths[0], question="Why?")
    ours.send(ClipJobs(jobs=tuple(make_jobs([request], "settings"))))
    ours.send(None)
    answer(theirs, setup)
    said = []
    while ours.poll():
        said.append(ours.recv()[0])
    assert said.count("result") == 1
    assert told == [read_video_recipe(CHECKPOINT)] * 2
