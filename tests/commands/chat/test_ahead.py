"""What is read while a question is typed needn't be read when it comes, and is safe to be broken off."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from tests.commands.chat.conftest import CLIP, Stage
from vllava_cli import demo
from vllava_cli.commands.chat.ahead import Ahead
from vllava_cli.engine.generate import Engine

Make = Callable[..., Stage]
QUESTION = "What happens in this video?"


def finish(ahead: Ahead) -> None:
    assert ahead._thread
    ahead._thread.join()


def test_the_clip_is_in_the_cache_when_the_question_comes(stage: Make) -> None:
    here = stage(CLIP)
    here.talk.ahead.start(here.talk.conversation)
    finish(here.talk.ahead)
    ahead = here.enter(QUESTION)
    stats = here.talk.conversation.turns[0].stats
    assert stats.reused_tokens >= 136
    assert (stats.tower_calls, here.talk.engine.vision.calls) == (0, 1)
    here.talk.engine.prompt_cache = None
    assert here.enter("/retry --guard on") == ahead


def test_after_an_answer_there_is_nothing_to_read(stage: Make) -> None:
    here = stage(CLIP)
    here.enter(QUESTION)
    here.talk.ahead.start(here.talk.conversation)
    assert here.talk.ahead._thread is None


def test_a_resumed_conversation_is_read_up_to_its_last_answer(stage: Make) -> None:
    here = stage(CLIP)
    here.enter(QUESTION)
    here.talk.engine.prompt_cache = None
    here.talk.ahead.start(here.talk.conversation)
    finish(here.talk.ahead)
    here.talk.ahead.stop()
    finished = len(here.talk.engine.tokens.finished_ids(here.talk.conversation))
    here.enter("And its colour?")
    assert here.talk.conversation.turns[1].stats.reused_tokens == finished


def test_a_reading_that_is_stopped_at_once_costs_nothing(stage: Make) -> None:
    here = stage(CLIP)
    plain = here.enter(QUESTION)
    here.enter("/undo")
    for _ in range(20):
        here.talk.engine.prompt_cache = None
        here.talk.ahead.start(here.talk.conversation)
        here.talk.ahead.stop()
    assert here.enter(QUESTION) == plain
    assert here.talk.engine.vision.calls == 1


def test_a_stop_waits_for_one_chunk_only(stage: Make, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllava_cli.commands.chat.ahead.CHUNK_TOKENS", 10)
    here = stage(CLIP)
    ahead = here.talk.ahead

    def hold(*_: object) -> None:
        ahead._is_stopped.wait(timeout=20)

    hook = engine.llama.blocks[0].register_forward_pre_hook(hold)
    ahead.start(here.talk.conversation)
    ahead.stop()
    hook.remove()
    assert engine.prompt_cache
    assert len(engine.prompt_cache.ids) <= 10


def test_the_engine_is_free_before_a_question_is_asked(stage: Make, engine: Engine) -> None:
    here = stage(CLIP)
    here.talk.ahead.start(here.talk.conversation)
    reading = here.talk.ahead._thread
    assert reading
    alive: list[bool] = []
    hook = engine.vision.model.lm_head.register_forward_pre_hook(
        lambda *_: alive.append(here.talk.ahead._thread is not None)
    )
    here.enter(QUESTION)
    hook.remove()
    assert not any(alive[-5:])


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_shows_when_the_question_is_asked(stage: Make, engine: Engine) -> None:
    here = stage(CLIP)

    def fail(*_: object) -> None:
        raise ValueError("no pass today")

    hook = engine.llama.blocks[0].register_forward_pre_hook(fail)
    here.talk.ahead.start(here.talk.conversation)
    finish(here.talk.ahead)
    try:
        with pytest.raises(ValueError, match="no pass today"):
            here.enter(QUESTION)
    finally:
        hook.remove()
    assert here.enter(QUESTION) == "A red circle moves left.\n"


def test_without_clips_and_turns_there_is_nothing_to_read(stage: Make) -> None:
    here = stage()
    here.talk.ahead.start(here.talk.conversation)
    assert here.talk.ahead._thread is None


@pytest.mark.parametrize(
    "line",
    [
        "/open STAR",
        "/add STAR",
        "/undo",
        "/clear",
        "/retry",
        "/edit 1 What shape is it?",
    ],
)
def test_what_is_done_while_clips_are_read_changes_no_answer(line: str, stage: Make, engine: Engine) -> None:
    answers = []
    for is_ahead in (False, True):
        here = stage(CLIP)
        here.talk.is_ahead = is_ahead
        for entry in (QUESTION, "/show", line, "/show", "What colour is it?"):
            here.talk.ahead.stop()
            engine.prompt_cache = None
            engine.vision.forget()
            here.talk.look_ahead()
            here.enter(entry.replace("STAR", str(demo.CLIPS / "yellow-star.png")))
        answers.append([turn.answer_ids for turn in here.talk.conversation.turns])
        here.talk.ahead.stop()
    assert answers[0] == answers[1]


def test_reading_goes_on_where_it_was_stopped_without_a_second_look(stage: Make, engine: Engine) -> None:
    here = stage(CLIP, "two-shapes.png", "yellow-star.png")
    for _ in range(3):
        here.talk.ahead.start(here.talk.conversation)
        here.talk.ahead.start(here.talk.conversation)
    if here.talk.ahead._thread:  # on a fast machine all was read by now
        finish(here.talk.ahead)
    ahead = here.enter("What shape is it?")
    assert (engine.vision.calls, here.talk.conversation.turns[0].stats.tower_calls) == (3, 0)
    engine.prompt_cache = None
    engine.vision.forget()
    alone = stage(CLIP, "two-shapes.png", "yellow-star.png")
    assert alone.enter("What shape is it?") == ahead
    assert alone.talk.conversation.turns[0].answer_ids == here.talk.conversation.turns[0].answer_ids, (
        "what was read in small chunks gives the same tokens"
    )


def test_added_clips_are_read_ahead_of_their_question(stage: Make) -> None:
    here = stage(CLIP)
    here.talk.is_ahead = True
    here.enter(QUESTION)
    here.enter(f"/add {demo.CLIPS / 'yellow-star.png'}")
    here.talk.look_ahead()
    finish(here.talk.ahead)
    here.enter("What shape is it?")
    stats = here.talk.conversation.turns[1].stats
    assert (stats.tower_calls, here.talk.engine.vision.calls) == (0, 2)
    finished = len(here.talk.engine.tokens.finished_ids(here.talk.conversation)) - stats.new_tokens
    assert stats.reused_tokens > finished - 20


def test_nothing_is_read_ahead_unless_asked_for(stage: Make) -> None:
    here = stage(CLIP)
    here.talk.look_ahead()
    assert here.talk.ahead._thread is None
    here.talk.is_ahead = True
    here.talk.look_ahead()
    assert here.talk.ahead._thread


def test_ctrl_c_while_a_reading_stops_is_not_lost_in_a_hang(
    stage: Make, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = stage(CLIP)
    at_work, may_end = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        at_work.set()
        may_end.wait(60)

    hook = engine.llama.blocks[0].register_forward_pre_hook(wait)
    try:
        here.talk.ahead.start(here.talk.conversation)
        assert at_work.wait(60)
        over = here.talk.ahead._is_over
        really_wait = over.wait

        def wait_and_strike() -> bool:
            monkeypatch.setattr(over, "wait", really_wait)
            may_end.set()
            os.kill(os.getpid(), signal.SIGINT)
            return really_wait()

        monkeypatch.setattr(over, "wait", wait_and_strike)
        here.talk.ahead.stop()
    finally:
        may_end.set()
        hook.remove()
    assert here.talk.ahead._thread is None
    assert here.enter(QUESTION) == "A red circle moves left.\n"


def test_closing_ends_a_reading(stage: Make) -> None:
    here = stage(CLIP)
    here.talk.ahead.start(here.talk.conversation)
    here.talk.close()
    assert here.talk.ahead._thread is None
    assert not here.path.exists()
