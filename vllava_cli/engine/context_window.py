"""What the context still has room for: which of the oldest turns must go before a question is asked."""

from __future__ import annotations

from dataclasses import replace

from vllava_cli.engine.tokens import Tokens
from vllava_cli.nouns import Conversation, Sampling

ANSWER_TOKENS = 256
"""The room that is kept for an answer; a longer one may still come where there is more."""


def make_room(tokens: Tokens, conversation: Conversation, question: str, sampling: Sampling) -> range:
    """Drops the oldest turns until a question and its answer fit, and returns the indices of those that went.

    The media stay. As what remains must be prefilled again behind them, enough turns go to leave a quarter of the
    text's room free, so that this is rare; but the last turn goes only for the question itself. Errors: UsageError.
    """
    before = conversation.dropped
    conversation.dropped = dropped(tokens, conversation, question, sampling)
    return range(before, conversation.dropped)


def dropped(tokens: Tokens, conversation: Conversation, question: str, sampling: Sampling) -> int:
    """How many turns must have gone, the number that the conversation has if its window fits. Errors: UsageError."""
    room = tokens.context_tokens
    media = sum(tokens.tokens_of(medium.kind) for medium in conversation.media)
    answer = min(_longest_answer(tokens, sampling), max(1, (room - media) // 4))
    spare = (room - media) // 4
    if len(tokens.unchecked_ids(conversation, question)) + answer <= room:
        return conversation.dropped
    lengths = [
        len(tokens.unchecked_ids(replace(conversation, dropped=gone), question))
        for gone in range(conversation.dropped, len(conversation.turns) + 1)
    ]
    if lengths[-1] >= room:
        return conversation.dropped  # nothing would help: the question itself is refused
    roomy = _first_at_most(lengths[:-1], room - answer - spare)
    tight = _first_at_most(lengths, room - answer)
    last = len(lengths) - 1
    chosen = roomy if roomy is not None else tight if tight is not None else last
    return conversation.dropped + chosen


def _longest_answer(tokens: Tokens, sampling: Sampling) -> int:
    if sampling.choices:
        return max(map(len, tokens.option_ids(sampling.choices)))
    return min(sampling.max_new_tokens, ANSWER_TOKENS)


def _first_at_most(lengths: list[int], limit: int) -> int | None:
    return next((number for number, length in enumerate(lengths) if length <= limit), None)
