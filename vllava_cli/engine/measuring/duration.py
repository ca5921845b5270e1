"""How long a contest takes, guessed from what a first answer of each contestant took. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vllava_cli.engine.measuring.limits import Limits
from vllava_cli.engine.measuring.turns import repeats_of

CLIPS = 8
"""How many clips the batch has that is measured as a whole."""


def expected_s(
    limits: Limits, answers_s: tuple[float, float], *, tokens: tuple[int, int], batches: Sequence[int], repeat: int
) -> float:
    """Seconds of all measurements but the first answers: `answers_s` are ours and the snippet's.

    `tokens` are those of the prompt and of an answer. The limits say how an answer's time is shared out.
    """
    rounds_s = _rounds_s(limits, answers_s, tokens, batches)
    return sum(round_s * (1 + repeats_of(round_s, repeat)) for round_s in rounds_s)


def least_s(limits: Limits, *, tokens: tuple[int, int]) -> float:
    """Seconds of one answer at the limits."""
    prompt, new = tokens
    return limits.first_token_s(prompt) + new * limits.step_s(1, prompt + new / 2)


def _rounds_s(
    limits: Limits, answers_s: tuple[float, float], tokens: tuple[int, int], batches: Sequence[int]
) -> Iterator[float]:
    """Of vision, prefill, first token, second turn (the snippet reads all again), decoding, and the batch of clips."""
    (ours_s, snippet_s), (prompt, new) = answers_s, tokens
    first = limits.first_token_s(prompt) / least_s(limits, tokens=tokens)
    vision = limits.vision_s / limits.first_token_s(prompt)

    def decoding(rows: int) -> float:
        """Of so many rows side by side, as a share of one answer."""
        length = prompt + new / 2
        return (1 - first) * limits.step_s(rows, length) / limits.step_s(1, length)

    both_s = first * (ours_s + snippet_s)
    yield from (vision * both_s, (1 - vision) * both_s, both_s, 2 * both_s)
    for rows in batches:
        yield ours_s * (first + decoding(rows)) + snippet_s * (rows * first + decoding(rows))
    yield ours_s * (CLIPS * first + decoding(CLIPS)) + snippet_s
