"""Both are asked the same, for as many tokens as were wanted and fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllava_cli.engine.measuring.asked import asked
from vllava_cli.engine.measuring.contest import Subject
from vllava_cli.errors import ContextError
from vllava_cli.nouns import Frames, Sampling

QUESTION = "What happens?"


@pytest.mark.parametrize(("wanted", "room", "found"), [(64, 100, 64), (64, 64, 64), (64, 3, 3), (1, 100, 2), (0, 2, 2)])
def test_an_answer_has_as_many_tokens_as_fit(
    wanted: int, room: int, found: int, subject: Subject, frames: Frames
) -> None:
    prompt_tokens = len(asked(subject.tokens, frames, QUESTION, 2).ids)
    made = asked(replace(subject.tokens, context_tokens=prompt_tokens + room), frames, QUESTION, wanted)
    assert (made.new_tokens, made.steps) == (found, found - 1)
    assert made.sampling() == Sampling(max_new_tokens=found, has_guard=False)
    assert made.sampling(1) == Sampling(max_new_tokens=1, has_guard=False)


def test_a_single_token_is_too_little_room(subject: Subject, frames: Frames) -> None:
    prompt_tokens = len(asked(subject.tokens, frames, QUESTION, 2).ids)
    with pytest.raises(ContextError) as caught:
        asked(replace(subject.tokens, context_tokens=prompt_tokens + 1), frames, QUESTION, 2)
    assert str(caught.value) == (
        f"The prompt has {prompt_tokens} tokens and the context holds {prompt_tokens + 1}: "
        "shorten the question, so that there is room for an answer to measure."
    )


def test_the_clip_is_shown_in_a_new_conversation_each_time(subject: Subject, frames: Frames) -> None:
    made = asked(subject.tokens, frames, QUESTION, 2)
    assert made.conversation is not made.conversation
    assert made.conversation.attached == made.shown.media == (frames,)
    assert made.shown.ids == made.ids == tuple(subject.tokens.prompt_ids(made.conversation, QUESTION))
