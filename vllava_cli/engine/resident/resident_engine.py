"""An engine that stays loaded: one thread runs the model, and any number of threads submit questions to it."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from vllava_cli.answers import Answer, Conversation, Sampling
from vllava_cli.engine.batch import MOST_ON_CPU, MOST_ON_GPU, SHARE
from vllava_cli.engine.forward import free_bytes, memory_faults
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.resident.answer_events import (
    AnswerWanted,
    Ended,
    Event,
    Figures,
    Piece,
    RunningAnswer,
    TokenLogprob,
    fault_of,
)
from vllava_cli.engine.resident.prefix_store import PrefixStore
from vllava_cli.engine.resident.row_scheduler import RowScheduler
from vllava_cli.engine.sequence import Sequence as Answering
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import BusyError, ServerError, VllavaError, reason_of
from vllava_cli.interrupt import NEVER, Cancel
from vllava_cli.nouns import LoadPlan, counted
from vllava_cli.times import Activity

__all__ = ["AnswerWanted", "Ended", "Event", "Figures", "Piece", "ResidentEngine", "RunningAnswer", "TokenLogprob"]
PREFIX_SHARE = 0.2
"""The part of the free memory that beginnings of prompts may take, if the user names no number."""
LOOK_S = 0.05
"""How often a stream looks whether it was cancelled."""


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
        self.activity = Activity()
        self.activity.begin("answering")
        self._changed = threading.Condition()
        self._tokenizing = threading.Lock()
        self._inbox: deque[RunningAnswer] = deque()
        self._open: set[RunningAnswer] = set()
        """The answers that haven't ended."""
        self._figures = Figures()
        self._idle_since = time.monotonic()
        self._is_closing = False
        self._scheduler = self._make_scheduler()
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
        with self._changed:
            running = sum(each.state == "running" for each in self._open)
            return replace(
                self._figures,
                running=running,
                waiting=len(self._open) - running,
                prefix_bytes=self._scheduler.store.bytes,
                most_rows=self._scheduler.most_rows,
            )

    @property
    def is_idle_since(self) -> float | None:
        """The `time.monotonic()` at which the last answer ended, or the engine was made; None while one is made."""
        with self._changed:
            return None if self._open else self._idle_since

    def submit(self, wanted: AnswerWanted, deliver: Callable[[Event], object]) -> RunningAnswer:
        """Begins an answer and returns at once. `deliver` is called in other threads, and must not wait.

        The last event is an `Ended`, also after a cancel: its answer then has the stop reason "interrupted". What
        `deliver` raises cancels the answer. Errors: BusyError if too many wait, ServerError if the engine has ended.
        """
        held = replace(wanted.conversation, turns=list(wanted.conversation.turns))
        running = RunningAnswer(
            wanted=replace(wanted, conversation=held), deliver=deliver, on_cancel=self._end_if_waiting
        )
        with self._changed:
            if self._is_closing:
                raise ServerError("The server is ending and takes no more questions. Ask again in a moment.")
            if sum(each.state == "waiting" for each in self._open) >= self.most_waiting:
                raise BusyError(
                    f"The queue is full, with {counted(self.most_waiting, 'question')}. Try again in a moment."
                )
            self._open.add(running)
            self._inbox.append(running)
            self._changed.notify()
        return running

    def stream(
        self, conversation: Conversation, question: str, sampling: Sampling, *, cancel: Cancel = NEVER
    ) -> Generator[str, None, None]:
        """Yields the text of an answer as `Engine.stream` does, and adds the turn to the conversation."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        media = conversation.attached
        wanted = AnswerWanted(conversation=conversation, question=question, sampling=sampling)
        running = self.submit(wanted, events.put)
        ended = Ended()
        try:
            while not (ended.answer or ended.fault):
                try:
                    event = events.get(timeout=LOOK_S)
                except queue.Empty:
                    event = None
                if cancel.is_asked():
                    running.cancel()
                if isinstance(event, Piece):
                    yield event.text
                elif event:
                    ended = event
        finally:
            running.cancel()
            while not (ended.answer or ended.fault):
                event = events.get()
                ended = event if isinstance(event, Ended) else ended
            if ended.answer:
                conversation.turns.append(ended.answer.turn(question, media, sampling))
                conversation.attached = ()
        if ended.fault:
            raise ended.fault

    def prompt_tokens(self, conversation: Conversation, question: str) -> int:
        """Counts the tokens of a prompt; may be called in any thread.

        Media count by their kind, whatever they show. Errors: UsageError, ContextError, CheckpointError.
        """
        with self._tokenizing:
            return len(self.tokens.prompt_ids(conversation, question))

    def keep_clips(self, cancel: Cancel = NEVER) -> None:
        """Does nothing: what was read of clips stays in the memory."""

    def close(self, *, is_hurried: bool = False) -> None:
        """Ends the thread once the answers that were submitted have ended; with `is_hurried`, all are cancelled."""
        with self._changed:
            self._is_closing = True
            left = list(self._open) if is_hurried else []
            self._changed.notify()
        for running in left:
            running.cancel()
        self._thread.join()

    def _make_scheduler(self) -> RowScheduler:
        engine, device = self.engine, self.engine.model.device
        free = free_bytes(str(device))
        most_rows = self.most_rows or (MOST_ON_CPU if device.type == "cpu" else MOST_ON_GPU)
        token_bytes = self.tokens.checkpoint.cache_values_per_token * engine.model.dtype.itemsize
        prefix_bytes = self.prefix_bytes
        if prefix_bytes is None:
            prefix_bytes = min(int(free * PREFIX_SHARE), most_rows * self.tokens.context_tokens * token_bytes)
        return RowScheduler(
            engine=engine,
            most_rows=most_rows,
            row_bytes=int((free - prefix_bytes) * SHARE),
            store=PrefixStore(prefix_bytes),
            begins=self._begins,
            ends=self._end,
        )

    # The model's thread

    def _work(self) -> None:
        try:
            while self._take():
                self._scheduler.turn()
        except BaseException as exc:
            self.engine.log.notice(f"vllava: the model's thread has ended: {reason_of(exc)}.")
            with self._changed:
                self._is_closing = True
                left = list(self._open)
            for running in left:
                self._end(running, None, ServerError("The model's thread has ended. Start the server again."))

    def _take(self) -> bool:
        """Takes what was submitted, and waits if there is nothing to do; returns False at the end."""
        with self._changed:
            while not (self._inbox or self._scheduler.is_busy or self._is_closing):
                self._changed.wait()
            taken = [*self._inbox]
            self._inbox.clear()
            if not taken and not self._scheduler.is_busy:
                return False
        for running in taken:
            try:
                if running.state == "waiting":
                    with memory_faults(self.plan.device, self.plan):
                        self._scheduler.put(running, self._sequence(running))
            except Exception as exc:
                self._end(running, None, fault_of(exc))
        return True

    def _sequence(self, running: RunningAnswer) -> Answering[None]:
        wanted = running.wanted
        with self._tokenizing:
            sequence = Answering.of(None, self.tokens, wanted.conversation, wanted.question, wanted.sampling)
        sequence.started_s = running.submitted_s
        return sequence

    def _begins(self, running: RunningAnswer) -> bool:
        with self._changed:
            if running.state == "waiting":
                running.state = "running"
            return running.state == "running"

    def _end_if_waiting(self, running: RunningAnswer) -> None:
        """Ends an answer that was cancelled before its prompt was read, in the thread that cancelled it."""
        with self._changed:
            if running.state != "waiting":
                return
            running.state = "ended"
        try:
            answer, fault = self._sequence(running).answer(), None
        except VllavaError as exc:
            answer, fault = None, exc
        self._finish(running, answer, fault)

    def _end(self, running: RunningAnswer, answer: Answer | None, fault: Exception | None) -> None:
        with self._changed:
            if running.state == "ended":
                return
            running.state = "ended"
        self._finish(running, answer, fault)

    def _finish(self, running: RunningAnswer, answer: Answer | None, fault: Exception | None) -> None:
        """Counts an answer that has ended, and delivers its end."""
        with self._changed:
            self._open.discard(running)
            self._idle_since = time.monotonic()
            self._figures = self._figures.plus(answer)
        running.send(Ended(answer=answer, fault=fault))
