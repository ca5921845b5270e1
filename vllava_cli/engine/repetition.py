"""Sees when an answer has run into one of the model's known loops: a word or a sentence over and over. Pure."""

from collections.abc import Sequence

WORD_REPEATS = 10
"""A single token this often in a row is a loop: "the the the…"."""
PHRASE_REPEATS = 4
PHRASE_TOKENS = 24
"""A phrase is a loop when it came PHRASE_REPEATS times and filled at least this many tokens."""
LONGEST_PHRASE = 96
SENTENCE_REPEATS = 3
SENTENCE_TOKENS = 8
"""From this length on, three times in a row is enough."""


def is_looping(ids: Sequence[int]) -> bool:
    """Whether the ids end in the same few tokens over and over: [5, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7] → True."""
    longest = min(LONGEST_PHRASE, len(ids) // SENTENCE_REPEATS)
    return any(_repeats(ids, period) for period in range(1, longest + 1))


def _repeats(ids: Sequence[int], period: int) -> bool:
    needed = _needed(period)
    if len(ids) < needed * period or ids[-1] != ids[-1 - period]:
        return False
    tail = ids[-needed * period :]
    return all(tail[position] == tail[position - period] for position in range(period, len(tail)))


def _needed(period: int) -> int:
    if period == 1:
        return WORD_REPEATS
    if period >= SENTENCE_TOKENS:
        return SENTENCE_REPEATS
    return max(PHRASE_REPEATS, -(-PHRASE_TOKENS // period))
