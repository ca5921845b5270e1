"""A conversation to which random things happen, and what must hold after each of them."""

from __future__ import annotations

import random

from tests.engine.engines import FREE as GREEDY
from tests.engine.engines import after, ask, greedy_ids
from tests.reference import Reference
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.generate import Engine
from vllava_cli.interrupt import Cancel
from vllava_cli.nouns import Frames

QUESTIONS = (
    *("What happens in this video?", "What shape is it?", "And its colour?", "And the background?", "Is there a dog?"),
    *("Which way does it move?", "Why is this funny?", "How many shapes are there?", "Tell me more\nabout it. 日本"),
)
WARM = Sampling(max_new_tokens=24, temperature=2.0, seed=5, has_guard=False)


class Story:
    """A conversation to which random things happen; holds after each what must hold."""

    def __init__(self, engine: Engine, reference: Reference, shown: dict[str, Frames], seed: int) -> None:
        self.random = random.Random(seed)
        self.engine, self.reference = engine, reference
        self.shown = shown
        clip = self.random.choice([name for name in shown if name.endswith(".mp4")])
        self.conversation = Conversation(attached=(shown[clip],))
        self.calls = 0
        """How often a clip went through a tower."""
        self.seen: set[int] = set()
        self.begun: set[int] = set()
        """Clips of answers that were interrupted, perhaps before they were looked at."""

    def go_on(self) -> None:
        steps = [self.ask, self.ask, self.interrupt]
        if self.conversation.turns:
            steps += [self.undo, self.edit, self.retry, self.retry_warm]
        if len(self.conversation.media) < 3:
            steps.append(self.add)
        self.random.choice(steps)()

    def ask(self, question: str = "", sampling: Sampling = GREEDY, *, patience: int = 10_000) -> None:
        question = question or self.random.choice(QUESTIONS)
        media = self.conversation.media
        ask(self.engine, self.conversation, question, sampling, cancel=Cancel(after(patience)))
        turn = self.conversation.turns[-1]
        self.calls += turn.stats.tower_calls
        (self.seen if turn.stop_reason != "interrupted" else self.begun).update(map(id, media))
        assert len(self.seen) <= self.calls <= len(self.seen | self.begun)
        if sampling == GREEDY:
            assert list(turn.answer_ids) == greedy_ids(self.engine, self.reference, self.conversation, turn)

    def interrupt(self) -> None:
        self.ask(patience=self.random.choice([0, 2, 5, 9, 12, 15, 25, 40]))
        assert self.conversation.turns[-1].stop_reason in ("interrupted", "end")

    def undo(self) -> None:
        self.conversation.cut(len(self.conversation.turns) - 1)

    def edit(self) -> None:
        self.conversation.cut(self.random.randrange(len(self.conversation.turns)))
        self.ask()

    def retry(self, sampling: Sampling = GREEDY) -> None:
        question = self.conversation.turns[-1].question
        self.undo()
        self.ask(question, sampling)

    def retry_warm(self) -> None:
        self.retry(WARM)

    def add(self) -> None:
        name = self.random.choice(sorted(self.shown))
        if self.shown[name] not in self.conversation.media:
            self.conversation.attached += (self.shown[name],)
