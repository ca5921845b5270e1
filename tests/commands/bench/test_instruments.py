"""The real instruments refuse what can be refused before a weight is read."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clips import write_clip
from tests.commands.bench.parts import PLAN, frames
from vllava_cli import demo
from vllava_cli.commands.bench.instruments import Instruments
from vllava_cli.commands.bench.request import Bench
from vllava_cli.errors import CheckpointError, ContextError, MediaError
from vllava_cli.screen import Screen

TOOLS = Instruments()
BENCH = Bench(clip=Path("a.mp4"), question="What happens?", random="tiny", new_tokens=3, repeat=2, batches=(1, 2))
SCREEN = Screen(out=io.StringIO(), err=io.StringIO())


def test_an_image_is_refused() -> None:
    with pytest.raises(MediaError, match=r"'two-shapes\.png' is an image, and bench measures with a video: name one\."):
        TOOLS.frames(replace(BENCH, clip=demo.CLIPS / "two-shapes.png"), SCREEN)


def test_eight_frames_of_a_clip_are_read(clip: Path) -> None:
    found = TOOLS.frames(replace(BENCH, clip=clip), SCREEN)
    assert (found.pixels.shape, found.clip.frame_count) == ((8, 48, 64, 3), 24)


def test_the_task_is_what_was_asked() -> None:
    task = TOOLS.task(BENCH, frames())
    assert (task.question, task.new_tokens, task.repeat, task.batches) == ("What happens?", 3, 2, (1, 2))


def test_random_weights_are_a_subject_that_nothing_is_fetched_for() -> None:
    subject = TOOLS.subject(BENCH, TOOLS.task(BENCH, frames()), SCREEN)
    assert (subject.random, subject.tokens.checkpoint.model) == ("tiny", "random tiny")
    TOOLS.fetch(subject, SCREEN)


def test_a_model_is_a_subject() -> None:
    bench = replace(BENCH, random=None, model="demo")
    subject = TOOLS.subject(bench, TOOLS.task(bench, frames()), SCREEN)
    assert (subject.random, subject.tokens.checkpoint.model) == (None, "demo")
    TOOLS.fetch(subject, SCREEN)


def test_a_folder_without_weights_is_refused_before_anything_is_measured(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    for name in small_checkpoint.iterdir():
        if name.suffix != ".safetensors":
            (tmp_path / name.name).write_bytes(name.read_bytes())
    bench = replace(BENCH, random=None, model=str(tmp_path))
    subject = TOOLS.subject(bench, TOOLS.task(bench, frames()), SCREEN)
    with pytest.raises(CheckpointError, match="lacks"):
        TOOLS.fetch(subject, SCREEN)


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    endless = replace(BENCH, question="What? " * 5000)
    with pytest.raises(ContextError):
        TOOLS.subject(endless, TOOLS.task(endless, frames()), SCREEN)
    task = TOOLS.task(BENCH, frames())
    subject = TOOLS.subject(BENCH, task, SCREEN)
    with pytest.raises(ContextError):
        TOOLS.fitted(subject, replace(PLAN, context_tokens=100), task)
    assert TOOLS.fitted(subject, PLAN, task) is subject
    assert TOOLS.fitted(subject, replace(PLAN, context_tokens=1000), task).tokens.context_tokens == 1000


def test_reading_frames_is_measured_as_often_as_asked(clip: Path) -> None:
    line = TOOLS.frames_line(replace(BENCH, clip=clip), is_interrupted=lambda: False)
    assert (line.name, line.unit, line.ours and len(line.ours.values)) == ("frames", "s", 2)
    with pytest.raises(KeyboardInterrupt):
        TOOLS.frames_line(replace(BENCH, clip=clip), is_interrupted=lambda: True)


def test_a_stream_that_the_loop_cannot_read_has_our_figure_and_a_note(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.h264")
    line = TOOLS.frames_line(replace(BENCH, clip=path), is_interrupted=lambda: False)
    assert (line.ours is not None, line.snippet) == (True, None)
    assert line.note.startswith("There is no figure of the documentation's loop: ")
