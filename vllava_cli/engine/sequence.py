"""One answer being made, alone or in a batch: its prompt, the next id, the ids and the text so far, and why it ends."""

from __future__ import annotations

import math
import re
import time
from collections import abc
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic

import torch
from torch import Tensor

from vllava_cli.answers import (
    Answer,
    Conversation,
    Sampling,
    Stats,
    StopReason,
)
from vllava_cli.engine.answering import K
from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.tokens import HARD_SIGN, ChoiceIds, Tokenizer, Tokens, digest_of
from vllava_cli.errors import OverflowedError, UsageError

OVERFLOWED = -1
"""Stands for an id where logits are infinite or not numbers."""
SMALLEST_TEMPERATURE = 1e-6
"""A lower temperature would divide by zero in fp32; this one is as good as greedy."""
WORD_REPEATS = 10
"""A single token this often in a row is a loop: "the the the…"."""
PHRASE_REPEATS = 4
PHRASE_TOKENS = 24
"""A phrase is a loop when it came PHRASE_REPEATS times and filled at least this many tokens."""
LONGEST_PHRASE = 96
SENTENCE_REPEATS = 3
SENTENCE_TOKENS = 8
"""A phrase of this length or more is a loop when it came SENTENCE_REPEATS times."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CLOSE_TOKENS = 12
"""Three stray letters within this many tokens are a loop."""
_SIGNS = re.compile(rf"\s*{HARD_SIGN}+")


@dataclass(kw_only=True, eq=False)
class Sequence(Generic[K]):
    """One answer being made; the caller chooses its `key`."""

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
    """True if the prompt had already been read when memory ran out."""
    started_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    _sampler: Sampler | None = None
    _text: Detokenizer | None = None
    _shown: int = 0

    @classmethod
    def of(cls, key: K, tokens: Tokens, conversation: Conversation, question: str, sampling: Sampling) -> Sequence[K]:
        """Makes the sequence that answers a question.

        Errors: UsageError for an empty question, for choices that can't be compared, and for calibrating without a
        clip; ContextError, CheckpointError.
        """
        ids = tokens.prompt_ids(conversation, question)
        prompt = Prompt(ids=tuple(ids), media=conversation.media, fit=conversation.fit)
        options = tokens.option_ids(sampling.choices, prompt_tokens=len(ids)) if sampling.choices else ()
        if options and sampling.is_calibrated and not prompt.media:
            raise UsageError(
                "Calibrating replaces clips with blank ones, and there is no clip: show one, or don't calibrate."
            )
        return cls(key=key, tokens=tokens, sampling=sampling, prompt=prompt, options=options)

    @cached_property
    def shared(self) -> int:
        """The number of the prompt's first ids that every question about the same media shares."""
        return self.tokens.media_end(self.prompt.ids)

    @property
    def beginning(self) -> Prompt:
        """The part of the prompt that every question about the same media shares."""
        return replace(self.prompt, ids=self.prompt.ids[: self.shared])

    @property
    def text(self) -> Detokenizer:
        """The text so far. The first use makes it; from then on each new id adds to it."""
        if self._text is None:
            guard = self.sampling.has_guard
            self._text = Detokenizer.of(self.tokens.tokenizer, self.ids, drops_strays=guard)
        return self._text

    def begin(self, *, is_first_of_medium: bool) -> None:
        """Starts the clock; notes how many tokens are reused from an earlier prompt about the medium, if any."""
        self.started_s = time.perf_counter()
        self.tower_calls, self.reused_tokens = (1, 0) if is_first_of_medium else (0, self.shared)

    def pick(self, logits: Tensor) -> Tensor:
        """Chooses the next id [1] on the logits' device, with a random state that no other sequence changes."""
        if self._sampler is None:
            self._sampler = Sampler(self.sampling, self.tokens.banned_ids, logits.device)
        return self._sampler.pick(logits)

    def push(self, token: int) -> StopReason | None:
        """Adds the next id; returns why the answer ends with it, or None if it goes on. Errors: OverflowedError."""
        if token == OVERFLOWED:
            raise overflowed()
        self.first_s = self.first_s or time.perf_counter()
        if token in self.tokens.stop_ids:
            self.stop = "end"
            return self.stop
        if self._text:
            self._text.push(token)
        self.ids.append(token)
        # Reasons to stop although the model would go on:
        if self.sampling.has_guard and self._is_repeating(token):
            self.stop = "repetition"
        elif len(self.ids) >= self.sampling.max_new_tokens:
            self.stop = "length"
        elif len(self.prompt.ids) + len(self.ids) >= self.tokens.context_tokens:
            self.stop = "context"
        return self.stop

    def new_text(self) -> str:
        """Returns the text that came since the last call."""
        start, self._shown = self._shown, len(self.text.text)
        return self.text.text[start:]

    def choose(self, probabilities: tuple[float, ...]) -> None:
        """Ends the answer with the likeliest choice; on a tie, with the first. Errors: OverflowedError."""
        if not all(map(math.isfinite, probabilities)):
            raise overflowed()
        best = probabilities.index(max(probabilities))
        self.ids, self.stop, self.probabilities = list(self.options[best]), "choice", probabilities
        text = self.sampling.choices[best]
        self._text = Detokenizer(tokenizer=self.tokens.tokenizer, ids=list(self.ids), text=text)

    def answer(self, *, peak_bytes: int | None = None) -> Answer:
        """Returns the answer so far; its stop reason is "interrupted" if nothing has ended it."""
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
        """Returns a sequence that answers the same question anew, marked as one that was begun before."""
        return replace(self, ids=[], stop=None, first_s=None, _sampler=None, _text=None, was_begun=True)

    def _is_repeating(self, token: int) -> bool:
        """Returns True if the answer repeats itself; stray letters between the repeats don't hide that.

        Until an id comes that may be a stray letter, only ids are compared. From then on stray letters are skipped.
        """
        if self._text is None and token not in self.tokens.tokenizer.hard_sign_ids:
            return is_looping(self.ids)
        return self.text.is_straying or is_looping(self.text.likely_ids)


def is_looping(ids: abc.Sequence[int]) -> bool:
    """Returns True if the ids end in the same tokens over and over: [5, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7] → True."""
    for period in range(1, min(LONGEST_PHRASE, len(ids) // SENTENCE_REPEATS) + 1):
        repeats = SENTENCE_REPEATS if period >= SENTENCE_TOKENS else max(PHRASE_REPEATS, -(-PHRASE_TOKENS // period))
        needed = period * (WORD_REPEATS if period == 1 else repeats)
        if ids[-1] == ids[-1 - period] and len(ids) >= needed and ids[-needed:-period] == ids[period - needed :]:
            return True
    return False


class Sampler:
    """Chooses the tokens of one answer as its sampling says, with a random state of its own on the logits' device."""

    def __init__(self, sampling: Sampling, banned_ids: tuple[int, ...], device: torch.device) -> None:
        self._sampling = sampling
        self._banned = torch.tensor(banned_ids, dtype=torch.long, device=device)
        self._generator = torch.Generator(device=device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def pick(self, logits: Tensor) -> Tensor:
        """Chooses the next id [1] from logits [vocabulary], on their device and without waiting for the device.

        A banned id is never chosen. The id is OVERFLOWED if logits are infinite or not numbers.
        """
        scores = logits.float().index_fill(0, self._banned, float("-inf"))
        most, best = scores.max(dim=0, keepdim=True)
        if self._sampling.temperature:
            # The largest score is subtracted from all, so that no temperature makes a score overflow.
            temperature = max(self._sampling.temperature, SMALLEST_TEMPERATURE)
            kept = nucleus(torch.softmax((scores - most) / temperature, dim=-1), self._sampling.top_p)
            # torch.multinomial does the same, but first checks the probabilities, and waits for the device to do that.
            noise = torch.empty_like(kept).exponential_(1, generator=self._generator)
            best = (kept / noise).argmax(dim=0, keepdim=True)
        return best.where(most.isfinite(), OVERFLOWED)


def greedy(logits: Tensor, banned: Tensor) -> list[int]:
    """Returns the likeliest id of each row [B, vocabulary] that isn't banned; OVERFLOWED for a row that overflowed."""
    most, best = logits.float().index_fill(1, banned, float("-inf")).max(dim=-1)
    ids: list[int] = best.where(most.isfinite(), OVERFLOWED).tolist()
    return ids


def overflowed() -> OverflowedError:
    return OverflowedError(
        "The model's numbers overflowed: try --precision bf16 or fp32; if neither helps, its weights are damaged."
    )


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keeps the likeliest tokens that together reach `top_p`, at least one: ([.5, .3, .2], 0.6) → [.5, .3, 0]."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(descending=True)
    is_kept = ordered.cumsum(dim=-1) - ordered < top_p
    is_kept[0] = True
    return torch.zeros_like(probabilities).scatter(0, order, ordered.where(is_kept, 0.0))


@dataclass(kw_only=True)
class Detokenizer:
    """Turns ids into text, one id after another.

    Text that may still change is held back: a run of byte tokens, since one wrong byte makes replacement characters of
    the whole run; and, with `drops_strays`, a "Ъ" that may still begin a Cyrillic word.
    """

    tokenizer: Tokenizer
    drops_strays: bool = True
    ids: list[int] = field(default_factory=list)
    """The ids of `text`, and of the bytes that are held back."""
    text: str = ""
    produced: int = 0
    """The number of ids that came, strays included."""
    _open: list[int] = field(default_factory=list)
    """The last ids, which don't make a whole character yet."""
    _signs: list[int] = field(default_factory=list)
    """Ids in front of those whose "Ъ" are stray or begin a word."""
    _signs_at: list[int] = field(default_factory=list)
    _strays_at: list[int] = field(default_factory=list)
    """The number of ids at each "Ъ" that waits (`_signs_at`) and at each that was left out."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, ids: abc.Sequence[int], *, drops_strays: bool = True) -> Detokenizer:
        """Makes a detokenizer that has taken these ids. If no "Ъ" is among them, their text is decoded at once."""
        made = cls(tokenizer=tokenizer, drops_strays=drops_strays)
        if ids and not (drops_strays and not tokenizer.hard_sign_ids.isdisjoint(ids)):
            made.produced, made._open = len(ids) - 1, list(ids[:-1])
            ids = ids[-1:]
        for token in ids:
            made.push(token)
        return made

    def push(self, token: int) -> None:
        """Adds an id, and adds to `text` what the id completes."""
        self.produced += 1
        self._open.append(token)
        whole = self._whole()
        if whole.endswith(REPLACEMENT):
            return
        if self.drops_strays and (self._signs or token in self.tokenizer.hard_sign_ids):
            if self._is_sign(whole):
                return
            whole = self._whole()
        self._accept()
        if self.tokenizer.ends_bytes(token):
            self.text = whole

    def rest(self) -> None:
        """Ends the answer: adds the text that was held back, except a "Ъ" at the end, which is stray."""
        self._drop_signs()
        self._accept()
        self.text = self._whole()

    @property
    def likely_ids(self) -> list[int]:
        """The ids that came, without those that are or may be stray."""
        return self.ids + self._open

    @property
    def stray_tokens(self) -> int:
        """The number of "Ъ" that were left out."""
        return len(self._strays_at)

    @property
    def is_straying(self) -> bool:
        """True if the last three "Ъ" that are or may be stray came within a few tokens."""
        last = [*self._strays_at, *self._signs_at][-3:]
        return len(last) == 3 and last[-1] - last[0] < CLOSE_TOKENS

    def _whole(self) -> str:
        return self.tokenizer.decode(self.ids + self._signs + self._open)

    def _is_sign(self, whole: str) -> bool:
        """Returns True for a new "Ъ" without a Cyrillic letter before it, and holds it back.

        Any other text decides on the "Ъ" that were held back: if it begins with a Cyrillic letter, they belong to the
        text, otherwise they are stray.
        """
        known = self.tokenizer.decode(self.ids + self._signs)
        new = whole[len(known) :]
        if _SIGNS.fullmatch(new) and not _is_cyrillic(whole.rstrip(HARD_SIGN)[-1:]):
            self._signs += self._open
            self._signs_at.append(self.produced)
            self._open = []
            return True
        if _is_cyrillic(new[:1]):
            self.ids += self._signs
            self._signs_at = []
        self._drop_signs()
        return False

    def _drop_signs(self) -> None:
        self._strays_at += self._signs_at
        self._signs, self._signs_at = [], []

    def _accept(self) -> None:
        self.ids += self._signs + self._open
        self._open = []


def _is_cyrillic(letter: str) -> bool:
    return "\u0400" <= letter <= "\u04ff"
