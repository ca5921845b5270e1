"""What is read while a question is typed needn't be read when it comes, and is safe to be broken off."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from tests.commands.chat.conftest import CLIP, HAPPENS, MOVES, Stage
from vllava_cli import demo
from vllava_cli.answers import Conversation
from vllava_cli.engine.clip_cache import ClipCache
from vllava_cli.engine.generate import Engine

Make = Callable[..., Stage]
STAR = str(demo.CLIPS / "yellow-star.png")


@pytest.fixture
def here(stage: Make) -> Stage:
    """A chat that reads ahead."""
    made = stage(CLIP)
    made.chat.has_editor = True
    return made


def finish(here: Stage) -> None:
    assert here.chat.prefill._reading
    concurrent.futures.wait([here.chat.prefill._reading])


def is_reading(here: Stage) -> bool:
    reading = here.chat.prefill._reading
    return reading is not None and not reading.done()


def test_what_is_read_already_or_not_there_is_not_read(stage: Make, here: Stage) -> None:
    here.enter(HAPPENS)
    here.chat.prefill_next()
    empty, piped = stage(), stage(CLIP)
    empty.chat.has_editor = True
    for each in (empty, piped):
        each.chat.prefill_next()
    assert [each.chat.prefill._reading for each in (here, empty, piped)] == [None] * 3


@contextmanager
def held(here: Stage) -> Iterator[None]:
    """A reading ends no chunk before it is stopped."""

    def wait(*_: object) -> None:
        here.chat.prefill._is_stopped.wait(timeout=10)

    hook = here.chat.engine.llama.blocks[0].register_forward_pre_hook(wait)
    yield
    hook.remove()


def test_a_stop_waits_for_one_chunk_only(here: Stage, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllava_cli.commands.chat.controller.CHUNK_TOKENS", 10)
    with held(here):
        here.chat.prefill_next()
        here.chat.prefill.stop()
    assert engine.prompt_cache
    assert len(engine.prompt_cache.ids) <= 10


def test_a_failure_shows_when_the_question_is_asked(here: Stage, engine: Engine) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no pass today")

    hook = engine.llama.blocks[0].register_forward_pre_hook(fail)
    here.chat.prefill_next()
    finish(here)
    try:
        with pytest.raises(ValueError, match="no pass today"):
            here.enter(HAPPENS)
    finally:
        hook.remove()
    assert here.enter(HAPPENS) == MOVES


@pytest.mark.parametrize(
    "line", [f"/open {STAR}", f"/add {STAR}", "/undo", "/clear", "/retry", "/edit 1 What shape is it?"]
)
def test_what_is_done_while_clips_are_read_changes_no_answer(line: str, stage: Make, engine: Engine) -> None:
    answers = []
    for is_ahead in (False, True):
        here = stage(CLIP)
        here.chat.has_editor = is_ahead
        for entry in (HAPPENS, "/show", line, "/show", "What colour is it?"):
            here.chat.prefill.stop()
            engine.prompt_cache = None
            engine.vision.forget()
            here.chat.prefill_next()
            here.enter(entry)
        answers.append([turn.answer_ids for turn in here.chat.conversation.turns])
        here.chat.prefill.stop()
    assert answers[0] == answers[1]


def test_reading_goes_on_where_it_was_stopped_without_a_second_look(stage: Make, engine: Engine) -> None:
    names = (CLIP, "two-shapes.png", "yellow-star.png")
    here, alone = stage(*names), stage(*names)
    for _ in range(6):
        here.chat.prefill.start(here.chat.conversation)
    finish(here)
    said = here.enter("What shape is it?")
    stats = here.chat.conversation.turns[0].stats
    assert (engine.vision.calls, stats.tower_calls) == (3, 0)
    assert stats.reused_tokens >= 136
    engine.prompt_cache = None
    engine.vision.forget()
    assert alone.enter("What shape is it?") == said
    assert alone.chat.conversation.turns[0].answer_ids == here.chat.conversation.turns[0].answer_ids, (
        "what was read in small chunks gives the same tokens"
    )


def test_ctrl_c_while_a_reading_stops_is_not_lost_in_a_hang(
    here: Stage, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, may_end = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        at_work.set()
        may_end.wait(60)

    def strike_and_wait(readings: list[concurrent.futures.Future[object]]) -> None:
        monkeypatch.setattr("vllava_cli.commands.chat.controller.wait", concurrent.futures.wait)
        may_end.set()  # the reading goes on for some layers yet
        os.kill(os.getpid(), signal.SIGINT)
        concurrent.futures.wait(readings)

    hook = engine.llama.blocks[0].register_forward_pre_hook(hold)
    try:
        here.chat.prefill_next()
        assert at_work.wait(60)
        monkeypatch.setattr("vllava_cli.commands.chat.controller.wait", strike_and_wait)
        here.chat.prefill.stop()
        assert not is_reading(here)
    finally:
        may_end.set()
        hook.remove()
    assert here.enter(HAPPENS) == MOVES


def test_closing_ends_a_reading(here: Stage) -> None:
    here.chat.prefill_next()
    here.chat.close()
    assert not is_reading(here)
    assert not here.path.exists()


def test_once_the_first_answer_was_given_the_clip_is_kept_while_a_line_is_typed(
    stage: Make, engine: Engine, tmp_path: Path
) -> None:
    cache = ClipCache.of(engine.plan, engine.tokens, most_bytes=1 << 30)
    assert cache
    cache = replace(cache, folder=tmp_path / "clips", least_bytes=0, least_gain_s=-inf)
    here = stage(CLIP, engine=Engine(model=engine.model, tokens=engine.tokens, plan=engine.plan, clips=cache))
    here.chat.has_editor = True
    here.chat.prefill_next()
    finish(here)
    assert not cache.folder.exists()
    here.enter(HAPPENS)
    here.chat.prefill_next()
    finish(here)
    assert cache.has_all(Conversation(attached=here.chat.conversation.media))
    later = stage(CLIP, engine=Engine(model=engine.model, tokens=engine.tokens, plan=engine.plan, clips=cache))
    later.chat.has_editor = True
    later.chat.prefill_next()
    finish(later)
    assert (later.enter(HAPPENS), later.calls) == (MOVES, 0)
