"""An answer that a resident engine makes: its prompt, what of it is held already, and the text that was delivered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from torch import Tensor

from vllava_cli.answers import Answer
from vllava_cli.engine.kv_cache import HeldIds, Prompt
from vllava_cli.engine.resident.answer_events import Piece, RunningAnswer, TokenLogprob
from vllava_cli.engine.resident.prefix_store import PrefixKeys
from vllava_cli.engine.sequence import Sequence

ScoringManner = Literal["plain", "calibrated"]
"""What rows must have in common to be scored together; each has choices of its own."""


@dataclass(kw_only=True, eq=False)
class ReadTarget:
    """Ids that are to be read, with the numbers that stand for them in the prefix store, and what is held of them."""

    prompt: Prompt
    keys: PrefixKeys
    held: HeldIds = field(default_factory=HeldIds)

    @property
    def rest(self) -> int:
        """The number of ids that must be read."""
        return len(self.keys) - len(self.held)

    def until(self, end: int) -> ReadTarget:
        """Returns the target that ends earlier."""
        return ReadTarget(prompt=replace(self.prompt, ids=self.prompt.ids[:end]), keys=self.keys[:end], held=self.held)


@dataclass(kw_only=True, eq=False)
class AnswerRow:
    """One answer being made, with the events that it delivers."""

    running: RunningAnswer
    sequence: Sequence[None]
    target: ReadTarget
    """All ids that must be read before the next token: the prompt and, after memory ran out, the answer so far."""
    reused: int | None = None
    """The ids of the prompt that were held before this row had its beginning read; None if it had none read."""
    is_alone: bool = False
    """True if the row is read by itself, since a fault came while it was read with others."""
    was_recalled: bool = False
    """True once the clip cache was asked."""
    is_short: bool = False
    """True if memory ran out while no other row was in the batch."""
    drawn: int | None = None
    """The next id, once it was chosen at random: the random state can't be asked for it again."""
    _sent: int = 0
    """The number of letters that were delivered, or could have been."""
    _searched: int = 0
    """The number of letters in which no stop text begins."""
    _cut: int | None = None
    """Where a stop text begins."""
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    """The tokens that belong to the next piece."""
    _told: int = 0
    """The number of tokens that were delivered with their log-probabilities."""

    @property
    def is_cancelled(self) -> bool:
        return self.running.is_cancelled.is_set()

    @property
    def scoring(self) -> ScoringManner | None:
        sampling = self.sequence.sampling
        if not sampling.choices:
            return None
        return "calibrated" if sampling.is_calibrated else "plain"

    @cached_property
    def beginning(self) -> int:
        """The number of ids up to the end of the prompt's media; 0 without media."""
        return self.sequence.shared if self.sequence.prompt.media else 0

    @property
    def beginning_key(self) -> bytes:
        return self.target.keys[: self.beginning].tobytes()

    @property
    def prompt_key(self) -> bytes | int:
        """Rows with equal keys are read once for all; rows that are scored or read by themselves have their own."""
        return id(self) if self.scoring or self.is_alone else self.target.keys.tobytes()

    @property
    def lacks_beginning(self) -> bool:
        return len(self.target.held) < self.beginning

    def requeue(self) -> None:
        """Makes the answer go on from its last id, although the batch that held it is lost."""
        fresh = np.array(self.sequence.ids, dtype=np.int64)
        prompt = self.sequence.prompt
        prompt_keys = self.target.keys[: len(prompt.ids)]
        self.target = ReadTarget(
            prompt=replace(prompt, ids=(*prompt.ids, *self.sequence.ids)), keys=np.concatenate([prompt_keys, fresh])
        )

    def begin(self, *, is_read: bool) -> None:
        """Notes how much of the prompt is reused, just before it is read: all, if it isn't read for this row."""
        if not self.sequence.ids:
            held = len(self.target.held) if self.reused is None else self.reused
            self.sequence.reused_tokens = held if is_read else len(self.target.keys)

    def push(self, token: int, logits: Tensor) -> bool:
        """Adds the next id and delivers the text that is certain; returns True if the answer ends.

        Errors: OverflowedError.
        """
        self.drawn = None
        stop = self.sequence.push(token)
        wanted = self.running.wanted
        if wanted.top_logprobs is not None and len(self.sequence.ids) > self._told + len(self._logprobs):
            self._logprobs.append(self._logprob(token, logits, wanted.top_logprobs))
        if stop:
            self.sequence.text.rest()
        if wanted.is_streaming or wanted.stop_texts:
            self._follow(is_over=bool(stop))
        return bool(stop) or self._cut is not None

    def finish(self, peak_bytes: int | None) -> Answer:
        """Returns the answer, and delivers what of its text wasn't delivered yet."""
        sequence = self.sequence
        if not sequence.probabilities and not sequence.stop:
            sequence.text.rest()
        wanted = self.running.wanted
        if self._cut is None and (wanted.is_streaming or wanted.stop_texts):
            self._follow(is_over=True)
        answer = sequence.answer(peak_bytes=peak_bytes)
        if self._cut is not None:
            answer = replace(answer, text=answer.text[: self._cut], ids=self._ids_before(self._cut), stop_reason="end")
            self._logprobs = self._logprobs[: max(0, len(answer.ids) - self._told)]
        if self._logprobs:
            self.running.send(Piece(text="", tokens=tuple(self._logprobs)))
        return answer

    def _follow(self, *, is_over: bool) -> None:
        """Delivers the text that is certain: not what may still become a stop text."""
        text, stops = self.sequence.text.text, self.running.wanted.stop_texts
        found = [place for stop in stops if (place := text.find(stop, self._searched)) >= 0]
        if found:
            self._cut = end = min(found)
        else:
            end = len(text) - (0 if is_over else _held_back(text, stops))
        self._searched = max(self._searched, end)
        if end > self._sent:
            new, self._sent = text[self._sent : end], end
            if self.running.wanted.is_streaming:
                tokens, self._logprobs = tuple(self._logprobs), []
                self._told += len(tokens)
                self.running.send(Piece(text=new, tokens=tokens))

    def _ids_before(self, end: int) -> tuple[int, ...]:
        """Returns the first ids of the answer whose text ends before a letter."""
        ids, tokenizer = list(self.sequence.text.ids), self.sequence.tokens.tokenizer
        while ids and len(tokenizer.decode(ids)) > end:
            ids.pop()
        return tuple(ids)

    def _logprob(self, token: int, logits: Tensor, most: int) -> TokenLogprob:
        text_of = self.sequence.tokens.tokenizer.text_of
        scores = logits.float().log_softmax(-1)
        best = scores.topk(most)
        top = tuple(
            (number, text_of(number), score)
            for number, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
        return TokenLogprob(id=token, text=text_of(token), logprob=float(scores[token]), top=top)


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """Counts the last letters that may begin a stop text: ("a str", ("stop",)) → 0; ("a st", ("stop",)) → 2."""
    longest = min(len(text), max(map(len, stops), default=0))
    lengths = range(longest, 0, -1)
    return next((length for length in lengths if any(stop.startswith(text[-length:]) for stop in stops)), 0)
