"""Cuts what is spoken in a clip so that the question and its answer keep their room in the context."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from itertools import accumulate, chain

from vllava_cli import prompt
from vllava_cli.answers import Sampling
from vllava_cli.engine.tokens import Tokens
from vllava_cli.media.timeline.spoken import Spoken, sentence_ends, text_of, word_ends
from vllava_cli.nouns import Frames


def spoken_that_fits(tokens: Tokens, medium: Frames, question: str, sampling: Sampling) -> Spoken | None:
    """Returns as much of a clip's subtitles, from their beginning, as fits before a question about the clip.

    The answer keeps the room of its new tokens, but not more than half of what the clip and the question leave, or that
    of the longest choice. Returns None if subtitles weren't asked for.
    """
    found = medium.subtitles
    if found is None:
        return None
    said = text_of(found.lines)
    text = _fitting(tokens, medium, question, sampling, said) if question.strip() else ""
    ends = accumulate(len(line.text) + 1 for line in found.lines)
    lines = [line for line, end in zip(found.lines, ends, strict=True) if end - 1 - len(line.text) < len(text)]
    return Spoken(
        source=found.source,
        text=text,
        start_s=lines[0].start_s if lines else None,
        end_s=max(line.end_s for line in lines) if lines else None,
        cut=len(said) - len(text),
    )


def _fitting(tokens: Tokens, medium: Frames, question: str, sampling: Sampling, said: str) -> str:
    """Returns the text up to the last end of a sentence that fits; up to that of a word, if this is twice as much."""

    @cache
    def count(end: int) -> int:
        text = tokens.written(prompt.heard(said[:end], question), [medium])
        return len(tokens.tokenizer.encode(text, has_start=True))

    left = tokens.context_tokens - count(0)
    choices = [len(tokens.answer_ids(choice)) for choice in sampling.choices]
    most = tokens.context_tokens - max(1, max(choices, default=min(sampling.max_new_tokens, left // 2)))
    if count(len(said)) <= most:
        return said
    words = word_ends(said)
    room = [0, *words[: bisect_right(words, most, key=count)]][-1]
    sentences = (end for end in reversed(sentence_ends(said)) if room <= 2 * end <= 2 * room)
    ends = chain(sentences, reversed([end for end in words if end <= room]))
    return said[: next((end for end in ends if count(end) <= most), 0)]
