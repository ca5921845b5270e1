"""An engine that stays loaded: one thread runs the model, and any number of threads submit questions to it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from vllava_cli.answers import Answer, Conversation, Sampling
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import BusyError, VllavaError
from vllava_cli.interrupt import NEVER, Cancel
from vllava_cli.nouns import LoadPlan


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token of an answer with its log-probability, and the likeliest tokens in its place, the likeliest first."""

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
    """Texts that end the answer where they appear; they aren't part of it."""
    top_logprobs: int | None = None
    """How many likely tokens come with each token's log-probability; None leaves log-probabilities out."""


@dataclass(kw_only=True)
class RunningAnswer:
    """An answer that waits or is being made; `cancel` ends it within a token, from any thread."""

    wanted: AnswerWanted
    deliver: Callable[[Event], object]
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.is_cancelled.set()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The counts of a resident engine since its start."""

    running: int = 0
    waiting: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    tower_calls: int = 0
    prefix_bytes: int = 0


@dataclass(kw_only=True)
class ResidentEngine:
    """Answers questions that threads submit; at most `most_waiting` wait for their turn."""

    engine: Engine
    most_rows: int | None = None
    """The most answers that are made at once; None decides by the free memory."""
    most_waiting: int = 256
    prefix_bytes: int | None = None
    """The most memory for beginnings of prompts that are kept; None decides by the free memory."""

    def __post_init__(self) -> None:
        self._waiting: queue.Queue[RunningAnswer | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def tokens(self) -> Tokens:
        return self.engine.tokens

    @property
    def plan(self) -> LoadPlan:
        return self.engine.plan

    @property
    def figures(self) -> Figures:
        return Figures(waiting=self._waiting.qsize())

    def submit(self, wanted: AnswerWanted, deliver: Callable[[Event], object]) -> RunningAnswer:
        """Begins an answer and returns at once. `deliver` is called in the model's thread, and must not wait.

        The last event is an `Ended`, also after a cancel: its answer then has the stop reason "interrupted". Errors:
        BusyError if too many wait.
        """
        if self._waiting.qsize() >= self.most_waiting:
            raise BusyError(f"{self.most_waiting} questions wait already. Try again in a moment.")
        running = RunningAnswer(wanted=wanted, deliver=deliver)
        self._waiting.put(running)
        return running

    def stream(
        self, conversation: Conversation, question: str, sampling: Sampling, *, cancel: Cancel = NEVER
    ) -> Generator[str, None, None]:
        """Yields the text of an answer as `Engine.stream` does, and adds the turn to the conversation."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        media = conversation.attached
        running = self.submit(AnswerWanted(conversation=conversation, question=question, sampling=sampling), events.put)
        while True:
            try:
                event = events.get(timeout=0.05)
            except queue.Empty:
                if cancel.is_asked():
                    running.cancel()
                continue
            if isinstance(event, Piece):
                yield event.text
            elif event.fault:
                raise event.fault
            elif event.answer:
                conversation.turns.append(event.answer.turn(question, media, sampling))
                conversation.attached = ()
                return

    def close(self) -> None:
        """Ends the thread once the answers that were submitted have ended."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while running := self._waiting.get():
            wanted = running.wanted
            held = Conversation(
                attached=wanted.conversation.attached,
                fit=wanted.conversation.fit,
                turns=list(wanted.conversation.turns),
                dropped=wanted.conversation.dropped,
            )
            cancel = Cancel(running.is_cancelled.is_set)
            try:
                for text in self.engine.stream(held, wanted.question, wanted.sampling, cancel=cancel):
                    running.deliver(Piece(text=text))
                turn = held.turns[-1]
                answer = Answer(
                    text=turn.answer,
                    stop_reason=turn.stop_reason,
                    stats=turn.stats,
                    probabilities=turn.probabilities,
                    ids=turn.answer_ids,
                    prompt_sha256=turn.prompt_sha256,
                )
                running.deliver(Ended(answer=answer))
            except VllavaError as exc:
                running.deliver(Ended(fault=exc))
