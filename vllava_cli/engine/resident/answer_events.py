"""The questions that a resident engine takes, and the events by which it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from vllava_cli.answers import Answer, Conversation, Sampling
from vllava_cli.errors import ServerError, VllavaError, reason_of

SECONDS_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""The upper bounds of the buckets in which seconds are counted."""


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token of an answer with its log-probability, and the likeliest tokens in its place, the likeliest first.

    The probabilities are the model's own, before temperature and top_p, and before tokens that an answer may not hold
    are left out.
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    """Triples of id, text and log-probability."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer's text, as it comes."""

    text: str
    tokens: tuple[TokenLogprob, ...] = ()
    """The tokens that came since the last piece; () unless log-probabilities are wanted."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of an answer: the whole answer, or the fault that prevented it."""

    answer: Answer | None = None
    fault: Exception | None = None


Event = Piece | Ended


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerWanted:
    """A question after a conversation, which isn't changed."""

    conversation: Conversation
    question: str
    sampling: Sampling
    stop_texts: tuple[str, ...] = ()
    """Texts that end the answer where they appear. The answer then has the ids whose text lies before that."""
    top_logprobs: int | None = None
    """How many likely tokens come with each token's log-probability; None leaves log-probabilities out."""
    is_streaming: bool = True
    """False where only the end matters: then no piece has text, and only log-probabilities make a piece."""


@dataclass(kw_only=True, eq=False)
class RunningAnswer:
    """An answer that waits or is being made."""

    wanted: AnswerWanted
    deliver: Callable[[Event], object]
    on_cancel: Callable[[RunningAnswer], object] = str
    """Called by `cancel`."""
    is_cancelled: threading.Event = field(default_factory=threading.Event)
    submitted_s: float = field(default_factory=time.perf_counter)
    state: Literal["waiting", "running", "ended"] = "waiting"

    def cancel(self) -> None:
        """Ends the answer: at once if it waits, else within a token. May be called from any thread, and repeatedly."""
        self.is_cancelled.set()
        self.on_cancel(self)

    def send(self, event: Event) -> None:
        """Delivers an event; if that fails, nobody listens any more, and the answer is cancelled."""
        try:
            self.deliver(event)
        except Exception:
            self.is_cancelled.set()


@dataclass(frozen=True, kw_only=True)
class SecondsCount:
    """How many times were at most as long as each of SECONDS_BOUNDS, how many there were, and their sum."""

    within: tuple[int, ...] = (0,) * len(SECONDS_BOUNDS)
    count: int = 0
    sum_s: float = 0.0

    def plus(self, seconds: float) -> SecondsCount:
        within = tuple(count + (seconds <= bound) for count, bound in zip(self.within, SECONDS_BOUNDS, strict=True))
        return SecondsCount(within=within, count=self.count + 1, sum_s=self.sum_s + seconds)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The counts of a resident engine since its start."""

    running: int = 0
    waiting: int = 0
    answers: int = 0
    """The answers that ended, those that were cancelled too; faults aren't counted."""
    faults: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    tower_calls: int = 0
    prefix_bytes: int = 0
    most_rows: int = 0
    """The most answers that are made at once now."""
    first_tokens: SecondsCount = SecondsCount()
    """The times from a question to the first token of its answer."""
    whole_answers: SecondsCount = SecondsCount()
    """The times from a question to the end of its answer."""
    ends: Mapping[str, int] = field(default_factory=dict)
    """The answers that ended, by their stop reasons."""

    def plus(self, answer: Answer | None) -> Figures:
        """Returns the counts after one more answer, or after a fault."""
        if answer is None:
            return replace(self, faults=self.faults + 1)
        stats, reason = answer.stats, answer.stop_reason
        has_begun = reason != "interrupted" or stats.new_tokens > 0
        return replace(
            self,
            answers=self.answers + 1,
            ends={**self.ends, reason: self.ends.get(reason, 0) + 1},
            prompt_tokens=self.prompt_tokens + stats.prompt_tokens,
            reused_tokens=self.reused_tokens + stats.reused_tokens,
            new_tokens=self.new_tokens + stats.new_tokens,
            tower_calls=self.tower_calls + stats.tower_calls,
            first_tokens=self.first_tokens.plus(stats.first_token_s) if has_begun else self.first_tokens,
            whole_answers=self.whole_answers.plus(stats.first_token_s + stats.decode_s),
        )


def fault_of(error: Exception) -> VllavaError:
    """Returns what is told of an error, without its traceback, which would keep all tensors of a pass in memory."""
    if isinstance(error, VllavaError):
        return type(error)(*error.args)
    return ServerError(f"The model failed: {reason_of(error)}.")
