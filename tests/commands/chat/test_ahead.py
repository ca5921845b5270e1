"""What is read while a question is typed needn't be read when it comes, and is safe to be broken off."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.commands.chat.conftest import Stage
from vllava_cli.commands.chat.ahead import Ahead
from vllava_cli.engine.stream import Engine

Make = Callable[..., Stage]
CLIP = "red-circle-moves-left.mp4"
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
    assert (stats.tower_calls, here.talk.engine.sight.calls) == (0, 1)
    here.talk.engine.memory = None
    assert here.enter("/retry --guard on") == ahead


def test_after_an_answer_there_is_nothing_to_read(stage: Make) -> None:
    here = stage(CLIP)
    here.enter(QUESTION)
    here.talk.ahead.start(here.talk.conversation)
    assert here.talk.ahead._thread is None


def test_a_resumed_conversation_is_read_up_to_its_last_answer(stage: Make) -> None:
    here = stage(CLIP)
    here.enter(QUESTION)
    here.talk.engine.memory = None
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
        here.talk.engine.memory = None
        here.talk.ahead.start(here.talk.conversation)
        here.talk.ahead.stop()
    assert here.enter(QUESTION) == plain
    assert here.talk.engine.sight.calls == 1


def test_a_failure_shows_when_the_question_is_asked(stage: Make, engine: Engine) -> None:
    here = stage(CLIP)

    def fail(*_: object) -> None:
        raise ValueError("no pass today")

    hook = engine.model.model.language_model.layers[0].register_forward_pre_hook(fail)
    here.talk.ahead.start(here.talk.conversation)
    finish(here.talk.ahead)
    with pytest.raises(ValueError, match="no pass today"):
        here.enter(QUESTION)
    hook.remove()
    assert here.enter(QUESTION) == "A red circle moves left.\n"


def test_without_clips_and_turns_there_is_nothing_to_read(stage: Make) -> None:
    here = stage()
    here.talk.ahead.start(here.talk.conversation)
    assert here.talk.ahead._thread is None
