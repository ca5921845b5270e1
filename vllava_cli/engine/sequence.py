"""One answer being made, alone or in a batch: its prompt, the ids so far, and why it ends."""

from __future__ import annotations

import math
import time
from collections import abc
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic, TypeVar

from torch import Tensor

from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.sampler import Sampler, checked, overflowed
from vllava_cli.engine.tokenizer import Detokenizer
from vllava_cli.engine.tokens import ChoiceIds, Tokens, digest_of
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Answer, Conversation, Sampling, Stats, StopReason

K = TypeVar("K")
WORD_REPEATS = 10
"""A single token this often in a row is a loop: "the the the…"."""
PHRASE_REPEATS = 4
PHRASE_TOKENS = 24
"""A phrase is a loop when it came PHRASE_REPEATS times and filled at least this many tokens."""
LONGEST_PHRASE = 96
SENTENCE_REPEATS = 3
SENTENCE_TOKENS = 8
"""A phrase of this length or more is a loop when it came SENTENCE_REPEATS times."""


@dataclass(kw_only=True, eq=False)
class Sequence(Generic[K]):
    """One answer on its way; `key` is the caller's."""

    key: K
    tokens: Tokens
    sampling: Sampling
    prompt: Prompt
    options: tuple[ChoiceIds, ...] = ()
    """The ids of the sampling's choices."""
    ids: list[int] = field(default_factory=list)
    """All that the model produced."""
    stop: StopReason | None = None
    probabilities: tuple[float, ...] = ()
    reused_tokens: int = 0
    tower_calls: int = 0
    was_begun: bool = False
    """True: its prompt had been read when memory ran out."""
    started_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    _sampler: Sampler | None = None
    _text: Detokenizer | None = None
    _shown: int = 0

    @classmethod
    def of(cls, key: K, tokens: Tokens, conversation: Conversation, question: str, sampling: Sampling) -> Sequence[K]:
        """Errors: UsageError for an empty question or choices that can't be compared, ContextError."""
        ids = tokens.prompt_ids(conversation, question)
        prompt = Prompt(ids=tuple(ids), media=conversation.media, fit=conversation.fit)
        options = tokens.option_ids(sampling.choices, prompt_tokens=len(ids)) if sampling.choices else ()
        if options and sampling.is_calibrated and not prompt.media:
            raise UsageError(
                "Calibrating replaces clips by blank ones, and there is no clip: show one, or don't calibrate."
            )
        return cls(key=key, tokens=tokens, sampling=sampling, prompt=prompt, options=options)

    @cached_property
    def shared(self) -> int:
        """The number of the prompt's first ids that every question about the same media shares."""
        return self.tokens.media_end(self.prompt.ids)

    @property
    def text(self) -> Detokenizer:
        """The text so far; from the first use on it is made with each id."""
        if self._text is None:
            guard = self.sampling.has_guard
            self._text = Detokenizer.of(self.tokens.tokenizer, self.ids, drops_strays=guard)
        return self._text

    def begin(self, *, is_first_of_medium: bool) -> None:
        """Starts the time: its prompt is read now, the first about its medium or one of which that is read already."""
        self.started_s = time.perf_counter()
        self.tower_calls, self.reused_tokens = (1, 0) if is_first_of_medium else (0, self.shared)

    def pick(self, logits: Tensor) -> Tensor:
        """The next id as [1] on the device, by a random state of its own, so that no other sequence changes it."""
        if self._sampler is None:
            self._sampler = Sampler(self.sampling, self.tokens.banned_ids, logits.device)
        return self._sampler.pick(logits)

    def push(self, token: int) -> StopReason | None:
        """Takes the next id, and says why the answer ends with it, if it does. Errors: OverflowedError."""
        checked(token)
        self.first_s = self.first_s or time.perf_counter()
        if token in self.tokens.stop_ids:
            self.stop = "end"
            return self.stop
        if self._text:
            self._text.push(token)
        self.ids.append(token)
        self.stop = self._stop_behind(token)
        return self.stop

    def new_text(self) -> str:
        """The text that came since this was called last."""
        start, self._shown = self._shown, len(self.text.text)
        return self.text.text[start:]

    def choose(self, probabilities: tuple[float, ...]) -> None:
        """Ends with the likeliest of the sampling's choices, the first of equals. Errors: OverflowedError."""
        if not all(map(math.isfinite, probabilities)):
            raise overflowed()
        best = probabilities.index(max(probabilities))
        self.ids, self.stop, self.probabilities = list(self.options[best]), "choice", probabilities
        text = self.sampling.choices[best]
        self._text = Detokenizer(tokenizer=self.tokens.tokenizer, ids=list(self.ids), text=text)

    def answer(self, *, peak_bytes: int | None = None) -> Answer:
        """The answer as far as it came; interrupted where nothing has ended it."""
        now = time.perf_counter()
        first = self.first_s or now
        stats = Stats(
            prompt_tokens=len(self.prompt.ids),
            reused_tokens=self.reused_tokens,
            new_tokens=len(self.ids),
            stray_tokens=self.text.stray_tokens,
            tower_calls=self.tower_calls,
            first_token_s=first - self.started_s,
            decode_s=now - first,
            peak_bytes=peak_bytes,
        )
        return Answer(
            text=self.text.text,
            stop_reason=self.stop or "interrupted",
            stats=stats,
            probabilities=self.probabilities,
            ids=tuple(self.text.ids),
            prompt_sha256=digest_of(self.prompt.ids),
        )

    def again(self) -> Sequence[K]:
        """A new sequence for the same question."""
        return replace(self, ids=[], stop=None, first_s=None, _sampler=None, _text=None, was_begun=True)

    def _stop_behind(self, token: int) -> StopReason | None:
        """Ends an answer where the model itself would go on."""
        if self.sampling.has_guard and self._is_repeating(token):
            return "repetition"
        if len(self.ids) >= self.sampling.max_new_tokens:
            return "length"
        return "context" if len(self.prompt.ids) + len(self.ids) >= self.tokens.context_tokens else None

    def _is_repeating(self, token: int) -> bool:
        """True if the answer loops, stray tokens not counted; before the first possible one the text isn't needed."""
        if self._text is None and token not in self.tokens.tokenizer.hard_sign_ids:
            return is_looping(self.ids)
        return self.text.is_straying or is_looping(self.text.likely_ids)


def is_looping(ids: abc.Sequence[int]) -> bool:
    """True if the ids end in the same few tokens over and over: [5, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7] → True."""
    longest = min(LONGEST_PHRASE, len(ids) // SENTENCE_REPEATS)
    return any(_repeats(ids, period) for period in range(1, longest + 1))


def _repeats(ids: abc.Sequence[int], period: int) -> bool:
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
