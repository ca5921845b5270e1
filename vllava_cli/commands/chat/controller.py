"""Holds a conversation: asks questions, saves each change, and goes on with sessions; reads no lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vllava_cli.answers import Conversation, Sampling
from vllava_cli.commands.asked import AnswerForm
from vllava_cli.commands.chat.display import clip_names, end_answer
from vllava_cli.commands.chat.recorder import FramedClip, SessionRecorder, changes, restored
from vllava_cli.commands.provenance import report, seeded
from vllava_cli.commands.start import read_clips, show
from vllava_cli.errors import UsageError
from vllava_cli.interrupt import Cancel, GracefulExit, sigint_flag
from vllava_cli.nouns import DecodeLimits, Frames, counted
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of
from vllava_cli.storage.session_file import SessionRecord
from vllava_cli.times import Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.answering import AnswerEngine

CHUNK_TOKENS = 128
"""The size of a chunk of background prefill. It is small, because a question waits until the current chunk ends."""


class BackgroundPrefill:
    """Reads clips into the KV cache while a question is typed, so that the first answer starts as fast as later ones.

    Once a question was answered, it writes what was read to the clip cache. Between `start` and `stop` only the
    background thread may use the engine.
    """

    def __init__(self, engine: AnswerEngine) -> None:
        self._engine = engine
        self._is_stopped = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefill")
        self._reading: Future[object] | None = None

    def start(self, conversation: Conversation) -> None:
        """Begins to read the next prompt up to its question; an error shows only when the question is asked."""
        self.stop()
        if work := self._engine.reading_of(conversation, CHUNK_TOKENS):
            self._is_stopped.clear()
            self._reading = self._thread.submit(work, Cancel(self._is_stopped.is_set))

    def stop(self) -> None:
        """Waits for the end of the current chunk; the tokens that were read stay in the cache."""
        self._is_stopped.set()
        while self._reading and not self._reading.done():
            with suppress(KeyboardInterrupt):  # the engine must be free first
                wait([self._reading])


@dataclass(kw_only=True)
class ChatController:
    """Holds one conversation at a time, with the engine that answers and the recorder that writes the session file."""

    engine: AnswerEngine
    conversation: Conversation
    sampling: Sampling
    screen: Screen
    recorder: SessionRecorder
    limits: DecodeLimits
    is_as_stored: bool = False
    """True if the pixels of clips that are opened or added are taken as they are stored."""
    ending: GracefulExit = field(default_factory=GracefulExit)
    form: AnswerForm = "stream"
    has_editor: bool = False
    """True if lines are typed into an editor. Meanwhile clips are read into the cache, and /edit fills the editor."""
    edited: int = 0
    """The number of the question that the editor offers for editing next; 0 for none."""
    is_over: bool = False
    """True if the chat is to end: after /bye, or at the end of the input."""
    was_interrupted: bool = False
    """True if Ctrl-C stopped the last answer."""
    frames_s: float = 0.0
    load_s: float = 0.0
    """The time that frames and weights took, in seconds; the stats of the first answer alone report both."""

    def __post_init__(self) -> None:
        self.prefill = BackgroundPrefill(self.engine)

    @property
    def left_tokens(self) -> int:
        """The number of tokens that still fit into the context."""
        tokens = self.engine.tokens
        return max(0, tokens.context_tokens - tokens.used(self.conversation))

    @property
    def questions(self) -> tuple[str, ...]:
        return tuple(turn.question for turn in self.conversation.turns)

    @property
    def about(self) -> str:
        """A sentence that names the clips."""
        media = self.conversation.media
        return f"About {clip_names(media)}." if media else "No clip is open: /open FILE opens one."

    def question_of(self, number: int) -> str:
        """Returns the question of turn `number`, from 1. Errors: UsageError if there is no such turn."""
        count = len(self.conversation.turns)
        if not 1 <= number <= count:
            known = f"the last one is {count}" if count else "none was asked yet"
            raise UsageError(f"There is no question {number}: {known}.")
        return self.questions[number - 1]

    def read(self, clips: Sequence[FramedClip]) -> tuple[Frames, ...]:
        """Returns the frames of clips; clips that are in use aren't read again. Errors: MediaError, UsageError."""
        return self.recorder.cache.frames(clips, lambda missing: read_clips(missing, self.limits, self.screen))

    def resume(self, record: SessionRecord, frames: Mapping[FramedClip, Frames], *, is_same_file: bool = False) -> None:
        """Goes on with a session, in its own file if `is_same_file`, else in a new one. Errors: ContextError."""
        with self.screen.waiting("Comparing the clips with what they were"):
            found = changes(record)
        for change in found:
            self.screen.notice(f"vllava: warning: {change}")
        tokens = self.engine.tokens
        conversation, renewed = restored(record, frames, tokens, model=self.recorder.header.model)
        tokens.prompt_ids(Conversation(attached=conversation.media, fit=record.fit), "?")
        if renewed:
            answers = counted(renewed, "answer")
            self.screen.notice(f"vllava: warning: tokenised again: {answers} of another model, or edited since.")
        if is_same_file:
            self.conversation = conversation
            self.recorder.turns = list(conversation.turns)
        else:
            self.begin(conversation)
        count = len(conversation.turns)
        last = f" The last question: {' '.join(self.questions[-1].split())}" if count else ""
        self.screen.notice(f"Going on after {counted(count, 'turn')}. {self.about}{last}")

    def prefill_next(self) -> None:
        """Begins to read the next question's clips in the background, if the question is typed into an editor."""
        if self.has_editor:
            self.prefill.start(self.conversation)

    def close(self) -> None:
        """Stops background prefill, writes turns that a Ctrl-C left out of the session file, and closes the file."""
        with self.changing():
            pass
        self.recorder.close()

    def ask(self, question: str, *, sampling: Sampling | None = None, number: int | None = None) -> None:
        """Streams an answer, as the next turn or in place of turn `number`, from 1, and those after it.

        However the answer ends, the turn is saved before a signal ends the process. Errors: any VllavaError; the
        conversation is then as before.
        """
        conversation, watch = self.conversation, Stopwatch()
        before = (list(conversation.turns), conversation.attached, conversation.dropped)
        sampling = seeded(sampling or self.sampling)
        number = number or len(conversation.turns) + 1
        with self.changing():
            conversation.cut(number - 1)
            try:
                dropped = self.engine.make_room(conversation, question, sampling)
                if dropped:
                    turns = turns_are(dropped.start + 1, dropped.stop)
                    self.screen.notice(f"{turns} no longer in the context, which was full; the clips still are.")
                self._answer(question, sampling)
            except BaseException:
                if len(conversation.turns) < number:
                    conversation.turns, conversation.attached, conversation.dropped = before
                raise
            watch.lap(conversation.turns[-1].wait, conversation.turns[-1].stats.first_token_s)
            watch.lap("decoding")
        watch.lap("keeping")
        turn = conversation.turns[-1]
        self.was_interrupted = turn.stop_reason == "interrupted"
        if self.form == "json":
            file, clips = self.recorder.file, [self.recorder.shown(frames) for frames in conversation.media]
            # replay finds the earlier turns of the conversation by `turn` and `session`
            row = {"turn": len(conversation.turns), "session": str(file.path) if file else None}
            self.screen.answer(json_of(row | report(conversation, clips, self.engine)) + "\n")
        end_answer(turn, len(conversation.turns), self.screen, self.form, took=watch.account())

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Saves the conversation at the end of the block, however that ends; SIGTERM and SIGHUP wait for it."""
        with self.ending.held():
            try:
                self.prefill.stop()
                yield
            finally:
                self.recorder.save(self.conversation)

    def _answer(self, question: str, sampling: Sampling) -> None:
        before = len(self.conversation.turns)
        with sigint_flag() as is_stopped:
            texts = self.engine.stream(
                self.conversation,
                question,
                sampling,
                cancel=Cancel(lambda: is_stopped() or self.ending.is_asked()),
            )
            with closing(texts):
                try:
                    show(texts, self.screen, self.form, self.engine.activity)
                except KeyboardInterrupt:  # a second Ctrl-C, in the middle of a pass
                    texts.close()
                    if len(self.conversation.turns) == before:  # the Ctrl-C came before the stream had begun
                        raise
                finally:
                    if len(self.conversation.turns) > before:
                        turn = self.conversation.turns[-1]
                        stats = replace(turn.stats, frames_s=self.frames_s, load_s=self.load_s)
                        self.conversation.turns[-1] = replace(turn, stats=stats)
                        self.frames_s = self.load_s = 0.0

    def begin(self, conversation: Conversation) -> None:
        """Replaces the conversation by another one, which gets a session file of its own."""
        self.prefill.stop()
        self.recorder.begin_another()
        self.conversation = conversation


def turns_are(first: int, last: int) -> str:
    """Begins a sentence about turns: (1, 1) → "Turn 1 is", (2, 5) → "Turns 2 to 5 are"."""
    return f"Turn {first} is" if first == last else f"Turns {first} to {last} are"
