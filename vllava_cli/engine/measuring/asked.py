"""What both contestants are asked: the same clip, the same ids, as many tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import ContextError
from vllava_cli.nouns import Conversation, Frames, Sampling, Turn

LEAST_TOKENS = 2
"""The first comes with the prefill, so that there is a step of decoding behind it."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question about one clip, and how many tokens answer it, whatever the model would say."""

    tokens: Tokens
    frames: Frames
    question: str
    new_tokens: int
    turns: tuple[Turn, ...] = ()
    """What was asked and answered before; the clip came with the first."""

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self.tokens.prompt_ids(self.conversation, self.question))

    @property
    def conversation(self) -> Conversation:
        """A new one, with the clip attached, or one that has its earlier turns."""
        return Conversation(turns=list(self.turns), attached=() if self.turns else (self.frames,))

    @property
    def prompt(self) -> Prompt:
        return Prompt(ids=self.ids, media=(self.frames,))

    @property
    def steps(self) -> int:
        """How many tokens are decoded behind the first."""
        return self.new_tokens - 1

    def following(self, turns: tuple[Turn, ...]) -> Asked:
        """The same question once more behind these turns. Errors: ContextError where it doesn't fit."""
        again = replace(self, turns=turns)
        self.tokens.prompt_ids(again.conversation, again.question)
        return again

    def sampling(self, new_tokens: int | None = None) -> Sampling:
        return Sampling(max_new_tokens=new_tokens or self.new_tokens, has_guard=False)


def asked(tokens: Tokens, frames: Frames, question: str, new_tokens: int) -> Asked:
    """As many tokens as were wanted and fit. Errors: UsageError for an empty question, ContextError."""
    wanted = Asked(tokens=tokens, frames=frames, question=question, new_tokens=max(LEAST_TOKENS, new_tokens))
    prompt_tokens = len(wanted.ids)
    room = tokens.context_tokens - prompt_tokens
    if room < LEAST_TOKENS:
        raise ContextError(
            f"The prompt has {prompt_tokens} tokens and the context holds {tokens.context_tokens}: "
            "shorten the question, so that there is room for an answer to measure."
        )
    return Asked(tokens=tokens, frames=frames, question=question, new_tokens=min(wanted.new_tokens, room))
