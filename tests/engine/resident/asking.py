"""Questions to a resident engine, their events, and what an engine that is asked alone says."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest

from tests.engine.batches import QUESTIONS
from tests.engine.engines import PHRASES
from tests.waiting import PATIENCE_S
from vllava_cli.answers import Answer, Conversation, Sampling, Stats, Turn
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.resident.resident_engine import (
    AnswerWanted,
    Ended,
    Event,
    Piece,
    ResidentEngine,
    RunningAnswer,
    TokenLogprob,
)
from vllava_cli.nouns import Fit, Frames

FREE = Sampling(max_new_tokens=24, has_guard=False)
SAMPLINGS = (
    *(FREE, Sampling(max_new_tokens=24), Sampling(max_new_tokens=1), Sampling(max_new_tokens=70, has_guard=False)),
    *(replace(FREE, temperature=0.8, seed=3), replace(FREE, temperature=1.5, top_p=0.9, seed=4)),
    *(Sampling(choices=PHRASES), Sampling(choices=("yes", "no"), is_calibrated=True)),
    Sampling(choices=("Yes.", "No.", "left"), is_calibrated=True, blank_choice="No."),
)


def wanted(
    *media: Frames, question: str = "Why?", sampling: Sampling = FREE, stops: tuple[str, ...] = (), **more: Any
) -> AnswerWanted:
    conversation = Conversation(attached=media, **more)
    return AnswerWanted(conversation=conversation, question=question, sampling=sampling, stop_texts=stops)


def turn(engine: Engine, question: str, answer: str, *media: Frames) -> Turn:
    """A turn as somebody may have written it."""
    ids = engine.tokens.answer_ids(answer)
    stats = Stats(prompt_tokens=0, reused_tokens=0, new_tokens=0, first_token_s=0.0, decode_s=0.0)
    return Turn(
        question=question, answer=answer, answer_ids=ids, media=media, stop_reason="end", sampling=FREE, stats=stats
    )


def mixed(engine: Engine, media: Sequence[Frames], wanted_count: int, seed: int) -> list[AnswerWanted]:
    """Questions that differ in everything: turns, media before and between these, fit, sampling, choices, stops."""
    chance = random.Random(seed)
    found: list[AnswerWanted] = []
    while len(found) < wanted_count:
        few = media[:5]
        turns = [
            turn(
                engine,
                chance.choice(QUESTIONS),
                chance.choice(PHRASES),
                *chance.choices(few, k=chance.choice([0, 0, 1])),
            )
            for _ in range(chance.choice([0, 0, 0, 1, 3]))
        ]
        attached = tuple(chance.choices(few, k=chance.choice([0, 1, 1, 1, 2])))
        fit: Fit = chance.choice(["crop", "crop", "pad"])
        conversation = Conversation(attached=attached, turns=turns, fit=fit)
        sampling = chance.choice(SAMPLINGS)
        if sampling.is_calibrated and not conversation.media:
            continue
        stops = chance.choice([(), (), ("e", "Zebra"), ("left", "grows", "circle.")])
        one = AnswerWanted(
            conversation=conversation,
            question=chance.choice(QUESTIONS),
            sampling=sampling,
            stop_texts=() if sampling.choices else stops,
            top_logprobs=chance.choice([None, None, 3]),
            is_streaming=chance.random() < 0.7,
        )
        found.append(one)
    return found


@dataclass(kw_only=True, eq=False)
class Asked:
    """A question that was submitted, and its events so far."""

    running: RunningAnswer
    events: list[Event] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def end(self) -> Ended:
        """The last event, which comes once; waits for it."""
        assert self.done.wait(PATIENCE_S)
        (ended,) = (each for each in self.events if isinstance(each, Ended))
        assert ended is self.events[-1]
        assert (ended.answer is None) != (ended.fault is None)
        return ended

    @property
    def answer(self) -> Answer:
        answer, fault = self.end.answer, self.end.fault
        assert answer, fault
        return answer

    @property
    def pieces(self) -> list[Piece]:
        return [each for each in self.events if isinstance(each, Piece)]

    @property
    def text(self) -> str:
        return "".join(each.text for each in self.pieces)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [token for each in self.pieces for token in each.tokens]


def submit(resident: ResidentEngine, one: AnswerWanted) -> Asked:
    events: list[Event] = []
    done = threading.Event()

    def deliver(event: Event) -> None:
        events.append(event)
        if isinstance(event, Ended):
            done.set()

    return Asked(running=resident.submit(one, deliver), events=events, done=done)


def alone(engine: Engine, one: AnswerWanted) -> Answer:
    """What the engine says to the question in a conversation of its own, up to the first stop text."""
    engine.prompt_cache = None
    conversation = replace(one.conversation, turns=list(one.conversation.turns))
    text = "".join(engine.stream(conversation, one.question, one.sampling))
    last = conversation.turns[-1]
    ends = [text.find(stop) for stop in one.stop_texts if stop in text]
    return Answer(
        text=text[: min(ends)] if ends else text,
        stop_reason="end" if ends else last.stop_reason,
        stats=last.stats,
        probabilities=last.probabilities,
        ids=() if ends else last.answer_ids,
        prompt_sha256=last.prompt_sha256,
    )


def check(asked: Asked, expected: Answer) -> None:
    """The answer is the expected one, and its pieces are its text."""
    one, answer = asked.running.wanted, asked.answer
    assert (answer.text, answer.stop_reason) == (expected.text, expected.stop_reason)
    assert answer.prompt_sha256 == expected.prompt_sha256
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert not expected.ids or answer.ids == expected.ids
    assert asked.text == (answer.text if one.is_streaming else "")
    assert answer.stats.prompt_tokens == expected.stats.prompt_tokens
    if one.top_logprobs is None or one.sampling.choices:
        assert not asked.logprobs
    else:
        told = tuple(token.id for token in asked.logprobs)
        assert told[: len(answer.ids)] == answer.ids


@contextmanager
def resident_of(engine: Engine, **settings: Any) -> Iterator[ResidentEngine]:
    resident = ResidentEngine(engine=engine, **settings)
    try:
        yield resident
    finally:
        for gate in list(Gate.closed):
            gate.open()
        resident.close(is_hurried=True)


class Gate:
    """Holds the model's thread before a pass, until it is opened."""

    closed: ClassVar[set[Gate]] = set()

    def __init__(self, engine: Engine) -> None:
        self.is_reached, self._is_open = threading.Event(), threading.Event()
        self.closed.add(self)
        self._hook = engine.llama.register_forward_pre_hook(self._hold)

    def _hold(self, *_: object) -> None:
        self.is_reached.set()
        assert self._is_open.wait(PATIENCE_S)

    def open(self) -> None:
        self._hook.remove()
        self._is_open.set()
        self.closed.discard(self)
