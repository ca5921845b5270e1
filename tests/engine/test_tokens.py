"""Ids that were made are remembered, but not for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllava_cli.engine.generate import Engine
from vllava_cli.nouns import Conversation, Frames


class Counting:
    """A tokenizer that notes what it is asked for."""

    def __init__(self, tokenizer: object) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, **named: object) -> object:
        self.texts.append(text)
        return self._tokenizer.encode(text, **named)  # type: ignore[attr-defined]


def test_the_ids_of_a_question_are_remembered_until_many_others_came(
    demo_engine: Engine, media: tuple[Frames, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllava_cli.engine.tokens.MOST_KNOWN", 3)
    counting = Counting(demo_engine.tokens.tokenizer)
    tokens = replace(demo_engine.tokens, tokenizer=counting, _known={})  # type: ignore[arg-type]
    conversation = Conversation(attached=media[:1])
    made = [tuple(tokens.prompt_ids(conversation, question)) for question in "aabcabcdbcda"]
    assert len(counting.texts) == 5
    assert len(set(made)) == 4
    assert made[-1] == made[0]
