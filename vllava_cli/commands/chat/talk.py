"""A conversation and all that can be done to it; it reads no line and knows no exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vllava_cli.commands.chat.ahead import Ahead
from vllava_cli.commands.chat.gallery import Clips, Gallery
from vllava_cli.commands.chat.keeping import Keeping
from vllava_cli.commands.chat.settings import Settings
from vllava_cli.commands.chat.telling import Output, Telling
from vllava_cli.commands.provenance import seeded
from vllava_cli.commands.start import read_clips, warn_of_many
from vllava_cli.engine.cancel import Cancel
from vllava_cli.errors import UsageError
from vllava_cli.interrupt import GracefulExit, sigint_flag
from vllava_cli.nouns import Conversation, DecodeLimits, Frames, Sampling
from vllava_cli.screen import Screen, one_line
from vllava_cli.times import Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine


@dataclass(kw_only=True)
class Talk:
    """One conversation at a time, with the engine that answers and the file that keeps it."""

    engine: Engine
    conversation: Conversation
    settings: Settings
    screen: Screen
    keeping: Keeping
    ending: GracefulExit
    limits: DecodeLimits
    gallery: Gallery = field(default_factory=Gallery)
    output: Output = "stream"
    is_ahead: bool = False
    """Clips are read into the cache while the question is typed."""
    was_interrupted: bool = False
    """Whether the last answer was stopped by Ctrl-C."""
    frames_s: float = 0.0
    load_s: float = 0.0
    """What the first answer had to wait for, told once."""

    def __post_init__(self) -> None:
        self.ahead = Ahead(self.engine)
        self.telling = Telling(engine=self.engine, screen=self.screen, keeping=self.keeping, output=self.output)

    @property
    def left_tokens(self) -> int:
        """What the context still has room for."""
        tokens = self.engine.tokens
        return max(0, tokens.context_tokens - tokens.used(self.conversation))

    @property
    def questions(self) -> tuple[str, ...]:
        return tuple(turn.question for turn in self.conversation.turns)

    def ask(self, question: str, sampling: Sampling | None = None) -> None:
        """Streams an answer; however it ends, the turn is kept before anything else can happen.

        Errors: any VllavaError, then the conversation is as before.
        """
        self._put(question, sampling or self.settings.sampling, len(self.conversation.turns) + 1)

    def retry(self, changes: Sequence[tuple[str, str]]) -> None:
        """Asks the last question again, with other settings for this once."""
        if not self.conversation.turns:
            raise UsageError("There is no question to ask again yet.")
        settings = self.settings
        for name, value in changes:
            settings = settings.changed(name, value)
        if settings.sampling.choices and not changes:
            self.screen.notice("A choice doesn't vary, so the answer will be the same: /set choices none lifts it.")
        elif settings.sampling.temperature == 0 and not changes:
            self.screen.notice("The temperature is 0, so the answer will be the same: /retry --temperature 0.8 varies.")
        self._put(self.questions[-1], settings.sampling, len(self.conversation.turns))

    def edit(self, number: int, question: str) -> None:
        """Asks turn `number`, from 1, with other words; what follows it is dropped. Errors: UsageError."""
        self.question_of(number)
        behind = len(self.conversation.turns) - number
        if behind:
            self.screen.notice(f"{_turns(number + 1, number + behind)} dropped with the old question.")
        self._put(question, self.settings.sampling, number)

    def question_of(self, number: int) -> str:
        """The question of a turn. Errors: UsageError where there is none of that number."""
        count = len(self.conversation.turns)
        if not 1 <= number <= count:
            known = f"the last one is {count}" if count else "none was asked yet"
            raise UsageError(f"There is no question {number}: {known}.")
        return self.questions[number - 1]

    def undo(self) -> None:
        """Takes the last turn back; what came with it is attached to the next question."""
        if not self.conversation.turns:
            raise UsageError("There is nothing to undo.")
        last = self.conversation.turns[-1]
        with self.ending.held(), self._kept():
            self.ahead.stop()
            self.conversation.cut(len(self.conversation.turns) - 1)
        self.screen.notice(f"Took back: {_short(last.question)}")

    def clear(self) -> None:
        """Forgets all turns; the clips stay."""
        count = len(self.conversation.turns)
        media = self.conversation.media
        with self.ending.held(), self._kept():
            self.ahead.stop()
            self.conversation.cut(0)
            self.conversation.attached = media
        self.screen.notice(f"Forgot {count} turn{'s' * (count != 1)}. {self.about()}")

    def open(self, clips: Clips) -> None:
        """Begins a new conversation about other clips. Errors: those of reading them; then the old one goes on."""
        media = self.read(clips)
        fresh = Conversation(attached=media, fit=self.conversation.fit)
        self.engine.tokens.prompt_ids(fresh, "?")
        warn_of_many(len(media), self.screen)
        self._begin(fresh)
        self.screen.notice(f"A new conversation. {self.about()}")

    def take_over(self, conversation: Conversation) -> None:
        """Goes on with another conversation, in a file of its own."""
        self._begin(conversation)

    def add(self, clips: Clips) -> None:
        """Attaches clips to the next question. Errors: those of reading them; ContextError where they can't fit."""
        media = self.read(clips)
        self.ahead.stop()
        self.engine.tokens.prompt_ids(Conversation(attached=self.conversation.media + media), "?")
        self.conversation.attached += media
        warn_of_many(len(self.conversation.media), self.screen)
        self.screen.notice(f"Attached to the next question: {_names(self.conversation.attached)}.")

    def read(self, clips: Clips) -> tuple[Frames, ...]:
        """The frames of clips; those in use needn't be read again. Errors: MediaError, UsageError."""
        media = self.gallery.frames(clips, lambda missing: read_clips(missing, self.limits, self.screen))
        self.keeping.know(media, clips)
        return media

    def about(self) -> str:
        """What the conversation is about, a sentence."""
        media = self.conversation.media
        return f"About {_names(media)}." if media else "No clip is open: /open FILE opens one."

    def look_ahead(self) -> None:
        """Begins to read what the next question will show, in the background."""
        if self.is_ahead:
            self.ahead.start(self.conversation)

    def close(self) -> None:
        """Gives the engine and the session file back; what a Ctrl-C kept from the file is written now."""
        with self.ending.held():
            self.ahead.stop()
            self.keeping.keep(self.conversation)
            self.keeping.close()

    def _put(self, question: str, sampling: Sampling, number: int) -> None:
        """Makes turn `number` of a question, in the place of what is there; a failure brings that back."""
        conversation, watch = self.conversation, Stopwatch()
        before = (list(conversation.turns), conversation.attached, conversation.dropped)
        sampling = seeded(sampling)
        with self.ending.held(), self._kept():
            self.ahead.stop()
            conversation.cut(number - 1)
            try:
                self._say_dropped(self.engine.make_room(conversation, question, sampling))
                self._answer(question, sampling)
            except BaseException:
                if len(conversation.turns) < number:
                    conversation.turns, conversation.attached, conversation.dropped = before
                raise
            watch.lap("first token", conversation.turns[-1].stats.first_token_s)
            watch.lap("decoding")
        watch.lap("keeping")
        self.was_interrupted = conversation.turns[-1].stop_reason == "interrupted"
        self.telling.tell(conversation, took=watch.account())

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.keeping.keep(self.conversation)

    def _answer(self, question: str, sampling: Sampling) -> None:
        before = len(self.conversation.turns)
        with sigint_flag() as is_stopped:
            pieces = self.engine.stream(
                self.conversation,
                question,
                sampling,
                cancel=Cancel(lambda: is_stopped() or self.ending.is_asked()),
            )
            with closing(pieces):
                try:
                    self.telling.show(pieces)
                except KeyboardInterrupt:  # a second Ctrl-C, in the middle of a pass
                    pieces.close()
                    if len(self.conversation.turns) == before:  # it came before the stream had begun
                        raise
                finally:
                    if len(self.conversation.turns) > before:
                        self._add_waits()

    def _add_waits(self) -> None:
        turn = self.conversation.turns[-1]
        stats = replace(turn.stats, frames_s=self.frames_s, load_s=self.load_s)
        self.conversation.turns[-1] = replace(turn, stats=stats)
        self.frames_s = self.load_s = 0.0

    def _say_dropped(self, gone: range) -> None:
        if gone:
            self.screen.notice(
                f"{_turns(gone.start + 1, gone.stop)} no longer in the context, which was full; the clips still are."
            )

    def _begin(self, conversation: Conversation) -> None:
        self.ahead.stop()
        self.keeping.anew()
        self.conversation = conversation


def _turns(first: int, last: int) -> str:
    """(1, 1) → "Turn 1 is", (2, 5) → "Turns 2 to 5 are"."""
    return f"Turn {first} is" if first == last else f"Turns {first} to {last} are"


def _names(media: Sequence[Frames]) -> str:
    return ", ".join(one_line(medium.clip.path.name) for medium in media)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
