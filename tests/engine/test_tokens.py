"""When a conversation outgrows the context its oldest turns go, the video never."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.engine.engines import ask, conversation_about, engine_of, greedy_ids
from tests.reference import Reference, read_reference
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.generate import Engine
from vllava_cli.nouns import Frames

SHORT = Sampling(max_new_tokens=10, has_guard=False)
CONTEXT = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context of 160 tokens, 40 of them for a video."""
    return write_checkpoint(tmp_path_factory.mktemp("tight") / "tight", context=CONTEXT)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return engine_of(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return read_reference(folder)


@pytest.fixture
def media(clip: Path) -> tuple[Frames, ...]:
    return conversation_about(clip).attached


def test_turns_go_before_the_context_is_full_and_the_clip_is_looked_at_once(
    engine: Engine, reference: Reference, media: tuple[Frames, ...]
) -> None:
    conversation = Conversation(attached=media)
    gone: list[list[int]] = []
    calls = 0
    for number in range(14):
        gone.append(list(engine.make_room(conversation, f"a red circle {number}?", SHORT)))
        answer = ask(engine, conversation, f"a red circle {number}?", SHORT)
        calls += answer.stats.tower_calls
        assert not number or answer.stats.reused_tokens >= engine.tokens.checkpoint.tokens_per_video
        assert answer.stop_reason == "length"
        assert engine.tokens.used(conversation) <= CONTEXT
        assert list(conversation.turns[-1].answer_ids) == greedy_ids(
            engine, reference, conversation, conversation.turns[-1]
        )
    assert calls == 1
    assert [index for indices in gone for index in indices] == list(range(conversation.dropped))
    assert 0 < sum(map(bool, gone)) <= 5, "room is made for several turns at once"
    assert len(conversation.turns) == 14


def test_media_of_dropped_turns_stay_in_their_order(
    engine: Engine, reference: Reference, media: tuple[Frames, ...], other_clip: Path
) -> None:
    conversation = Conversation(attached=media)
    ask(engine, conversation, "what", SHORT)
    conversation.attached = conversation_about(other_clip).attached
    shown = conversation.media
    for _ in range(6):
        engine.make_room(conversation, "what is it?", SHORT)
        answer = ask(engine, conversation, "what is it?", SHORT)
        assert answer.stats.tower_calls <= 1
    assert conversation.dropped >= 2
    assert conversation.media == shown
    turn = conversation.turns[-1]
    assert list(turn.answer_ids) == greedy_ids(engine, reference, conversation, turn)


def test_a_long_question_may_drop_every_turn(engine: Engine, media: tuple[Frames, ...]) -> None:
    conversation = Conversation(attached=media)
    ask(engine, conversation, "what", SHORT)
    ask(engine, conversation, "and then", SHORT)
    words = 1
    without_the_first = replace(conversation, dropped=1)
    while len(engine.tokens.unchecked_ids(without_the_first, long := "red " * words)) <= CONTEXT:
        words += 1
    assert list(engine.make_room(conversation, long, SHORT)) == [0, 1]
    assert ask(engine, conversation, long, SHORT).stats.reused_tokens >= 40


def test_undoing_beyond_the_window_brings_the_oldest_turns_back(engine: Engine, media: tuple[Frames, ...]) -> None:
    conversation = Conversation(attached=media)
    while not engine.make_room(conversation, "a red circle?", SHORT):
        ask(engine, conversation, "a red circle?", SHORT)
    conversation.cut(1)
    assert (conversation.dropped, len(conversation.window)) == (0, 1)


def test_used_counts_media_that_wait(engine: Engine, media: tuple[Frames, ...]) -> None:
    assert engine.tokens.used(Conversation()) == 0
    assert engine.tokens.used(Conversation(attached=media)) == 40
    conversation = Conversation(attached=media)
    answer = ask(engine, conversation, "what", SHORT)
    assert engine.tokens.used(conversation) == answer.stats.prompt_tokens + 10
