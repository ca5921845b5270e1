"""One of the questions that are answered side by side: its prompt, what was said so far, and when it ends."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from torch import Tensor

from vllava_cli.engine.detokenizer import Detokenizer
from vllava_cli.engine.sampler import Chooser, checked, overflowed
from vllava_cli.engine.stopping import stop_of
from vllava_cli.engine.tokens import Tokens, digest_of
from vllava_cli.errors import OverflowedError, VllavaError
from vllava_cli.nouns import Answer, Conversation, Fit, Frames, Sampling, Stats, StopReason

K = TypeVar("K")


@dataclass(frozen=True, kw_only=True, eq=False)
class Query(Generic[K]):
    """One question about one medium; `key` is the caller's."""

    key: K
    medium: Frames
    question: str
    seed: int | None = None
    """In the place of the sampling's, where it has none."""


@dataclass(frozen=True, kw_only=True)
class Finished(Generic[K]):
    """What became of a query, an answer or a fault. `seconds` count from where its prompt was read."""

    key: K
    answer: Answer | None = None
    fault: Exception | None = None
    seconds: float = 0.0


@dataclass(kw_only=True, eq=False)
class Row(Generic[K]):
    """A query on its way. `shared` is how many of its prompt's ids every question about the medium begins with."""

    query: Query[K]
    tokens: Tokens
    sampling: Sampling
    prompt: tuple[int, ...]
    shared: int
    options: tuple[tuple[int, ...], ...] = ()
    """The ids of the sampling's choices."""
    is_first_of_medium: bool = True
    was_begun: bool = False
    """Whether it had joined others when memory ran out."""
    ids: list[int] = field(default_factory=list)
    """All that the model produced."""
    started_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    _chooser: Chooser | None = None
    _text: Detokenizer | None = None
    """From the first "Ъ" on; before that the text isn't needed."""

    @classmethod
    def of(cls, query: Query[K], tokens: Tokens, sampling: Sampling, fit: Fit) -> Row[K]:
        """Errors: UsageError for an empty question, ContextError for one that leaves no room for an answer."""
        ids = tokens.prompt_ids(Conversation(attached=(query.medium,), fit=fit), query.question)
        media = (tokens.video_id, tokens.image_id)
        last = max(position for position, token in enumerate(ids) if token in media)
        options = tokens.option_ids(sampling.choices, prompt_tokens=len(ids)) if sampling.choices else ()
        sampling = replace(sampling, seed=query.seed if sampling.seed is None else sampling.seed)
        return cls(query=query, tokens=tokens, sampling=sampling, prompt=tuple(ids), shared=last + 1, options=options)

    def begin(self, *, is_first_of_medium: bool) -> None:
        """Its prompt is read now; `is_first_of_medium` says that this is the first about its medium."""
        self.started_s, self.is_first_of_medium = time.perf_counter(), is_first_of_medium

    def choose(self, logits: Tensor) -> int:
        """The next id by this row's own random state, so that others don't change what it draws; or OVERFLOWED."""
        if self._chooser is None:
            self._chooser = Chooser(self.sampling, self.tokens.banned_ids, logits.device)
        return int(self._chooser.pick(logits))

    def take(self, token: int) -> Finished[K] | None:
        """Takes the next id, which may be OVERFLOWED, and gives the outcome where the row ends with it."""
        try:
            stop = self.push(checked(token))
        except OverflowedError as exc:
            return self.failed(exc)
        return self.finished(stop) if stop else None

    def push(self, token: int) -> StopReason | None:
        """Takes the next id; says why the row ends with it, if it does."""
        self.first_s = self.first_s or time.perf_counter()
        if token in self.tokens.stop_ids:
            return "end"
        self.ids.append(token)
        room = self.tokens.context_tokens - len(self.prompt)
        text = self._watched(token)
        return stop_of(
            text.likely_ids if text else self.ids,
            self.sampling,
            produced=len(self.ids),
            room_tokens=room,
            is_straying=bool(text and text.is_straying),
        )

    def finished(self, stop: StopReason) -> Finished[K]:
        """What `Engine.stream` would have given for the same ids."""
        text = Detokenizer.of(self.tokens.tokenizer, self.ids, drops_strays=self.sampling.has_guard)
        text.rest()
        return self._finished(text, stop)

    def chosen(self, probabilities: tuple[float, ...]) -> Finished[K]:
        """The likeliest of the sampling's choices; a fault where the probabilities aren't numbers."""
        if not all(map(math.isfinite, probabilities)):
            return self.failed(overflowed())
        best = probabilities.index(max(probabilities))
        self.ids = list(self.options[best])
        text = Detokenizer(tokenizer=self.tokens.tokenizer, ids=self.ids, text=self.sampling.choices[best])
        return self._finished(text, "choice", probabilities)

    def failed(self, fault: VllavaError) -> Finished[K]:
        return Finished(key=self.query.key, fault=fault, seconds=time.perf_counter() - self.started_s)

    def again(self) -> Row[K]:
        """The same query, begun and with nothing said."""
        return replace(self, ids=[], first_s=None, _chooser=None, _text=None, was_begun=True)

    def _watched(self, token: int) -> Detokenizer | None:
        """The text so far, once a token came that may be stray."""
        if self._text:
            self._text.push(token)
        elif self.sampling.has_guard and token in self.tokens.tokenizer.hard_sign_ids:
            self._text = Detokenizer.of(self.tokens.tokenizer, self.ids)
        return self._text

    def _finished(self, text: Detokenizer, stop: StopReason, probabilities: tuple[float, ...] = ()) -> Finished[K]:
        now = time.perf_counter()
        first = self.first_s or now
        stats = Stats(
            prompt_tokens=len(self.prompt),
            reused_tokens=0 if self.is_first_of_medium else self.shared,
            new_tokens=len(self.ids),
            stray_tokens=text.stray_tokens,
            tower_calls=int(self.is_first_of_medium),
            first_token_s=first - self.started_s,
            decode_s=now - first,
        )
        answer = Answer(
            text=text.text,
            stop_reason=stop,
            stats=stats,
            probabilities=probabilities,
            ids=tuple(text.ids),
            prompt_sha256=digest_of(self.prompt),
        )
        return Finished(key=self.query.key, answer=answer, seconds=now - self.started_s)
