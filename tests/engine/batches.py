"""Batches as tests need them: sources, what a stream says to the same question, and memory that runs out on command."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.engine.engines import PHRASES, ask
from vllava_cli.answers import Answer, Conversation, Sampling
from vllava_cli.engine.answering import AnswerRequest, AnswerResult, NextRequests
from vllava_cli.engine.batch import BatchScheduler
from vllava_cli.engine.generate import Engine
from vllava_cli.interrupt import Cancel
from vllava_cli.nouns import Frames

Job = tuple[Frames, str]
"""A medium and a question about it; the key of its query."""
Said = tuple[str, str]
"""An answer's text and stop reason."""
QUESTIONS = (
    *("What happens in this video?", "What shape is it?", "And its colour?", "And the background?", "Is there a dog?"),
    *("Which way does it move?", "Why is this funny?", "How many shapes are there?", "Tell me more\nabout it. 日本"),
    *("What comes first?", "What comes last?", "Does it grow, or does it shrink while one looks at it?", "Why?"),
    *("What does the star do?", "Where is it?", "What is in this clip", "a red circle?", "Which colours are there?"),
    *("Is it large?", "?"),
)


NO_CHOICES: Mapping[str, tuple[str, ...]] = {}


def crossed(media: Iterable[Frames], questions: Iterable[str]) -> list[Job]:
    """Every question about every medium, clip after clip."""
    questions = tuple(questions)
    return [(medium, question) for medium in media for question in questions]


def shuffled(jobs: Sequence[Job], seed: int) -> list[Job]:
    return random.Random(seed).sample(jobs, len(jobs))


OWN_CHOICES = dict(zip(QUESTIONS, (PHRASES, ("left", "right"), (), ("up", "the star", "a b c d e"), ()), strict=False))
"""Choices of single questions: some of several tokens, some of one token, and none."""


def query(job: Job, choices: Mapping[str, tuple[str, ...]] = NO_CHOICES) -> AnswerRequest[Job]:
    return AnswerRequest(key=job, medium=job[0], question=job[1], choices=choices.get(job[1], ()))


def portions(given: Iterable[Sequence[Job]]) -> NextRequests[Job]:
    """A source that gives these, one portion a call, however many it is asked for."""
    return _source([query(job) for job in portion] for portion in given)


def given_at_once(given: Sequence[AnswerRequest[Job] | AnswerResult[Job]]) -> NextRequests[Job]:
    return _source([given])


def as_asked(
    jobs: Sequence[Job], asked: list[int] | None = None, choices: Mapping[str, tuple[str, ...]] = NO_CHOICES
) -> NextRequests[Job]:
    """A source that gives as many as it is asked for; `asked` gets these numbers."""
    left = list(jobs)

    def source(most: int, *, is_waiting: bool) -> list[AnswerRequest[Job] | AnswerResult[Job]] | None:  # noqa: ARG001
        if asked is not None:
            asked.append(most)
        given = left[:most]
        del left[:most]
        return [query(job, choices) for job in given] or None

    return source


def trickle(jobs: Sequence[Job], seed: int = 0) -> NextRequests[Job]:
    """A source that has one now and then, so that rows join others that are underway."""
    chance = random.Random(seed)
    return portions(portion for job in jobs for portion in ([job], *[[]] * chance.choice([0, 0, 1, 2])))


def _source(given: Iterable[Sequence[AnswerRequest[Job] | AnswerResult[Job]]]) -> NextRequests[Job]:
    left = iter(given)

    def source(_most: int, *, is_waiting: bool) -> Sequence[AnswerRequest[Job] | AnswerResult[Job]] | None:  # noqa: ARG001
        return next(left, None)

    return source


@dataclass(kw_only=True)
class Batch:
    """What a batch gave and said; built by `run`."""

    found: dict[Job, AnswerResult[Job]] = field(default_factory=dict)
    shortages: list[int] = field(default_factory=list)

    @property
    def said(self) -> dict[Job, Said]:
        return {job: (each.answer.text, each.answer.stop_reason) for job, each in self.found.items() if each.answer}

    @property
    def faults(self) -> dict[Job, Exception]:
        return {job: each.fault for job, each in self.found.items() if each.fault}


def run(
    engine: Engine,
    sampling: Sampling,
    source: NextRequests[Job],
    *,
    most_rows: int = 8,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Batch:
    """All that comes; no key may come twice, and each has an answer or a fault."""
    batch = Batch()
    batching: BatchScheduler[Job] = BatchScheduler(
        engine=engine,
        sampling=sampling,
        fit="crop",
        most_rows=most_rows,
        cancel=Cancel(is_stopping),
        on_shortage=batch.shortages.append,
    )
    for each in batching.answers(source):
        assert each.key not in batch.found
        assert (each.answer is None) != (each.fault is None)
        batch.found[each.key] = each
    return batch


def streamed(
    engine: Engine, jobs: Iterable[Job], sampling: Sampling, choices: Mapping[str, tuple[str, ...]] = NO_CHOICES
) -> dict[Job, Answer]:
    """What each question gets from the stream in a conversation of its own."""
    answers: dict[Job, Answer] = {}
    for medium, question in jobs:
        engine.prompt_cache = None
        conversation = Conversation(attached=(medium,))
        own = replace(sampling, choices=choices.get(question, sampling.choices))
        answers[medium, question] = ask(engine, conversation, question, own)
    return answers


def said(answers: dict[Job, Answer]) -> dict[Job, Said]:
    return {job: (answer.text, answer.stop_reason) for job, answer in answers.items()}


class Pass(NamedTuple):
    """What went through the language model at once."""

    rows: int
    columns: int
    embedded: Tensor | None
    """[rows, columns, hidden] of the beginnings of prompts, where no row is padded."""

    @property
    def is_prefix(self) -> bool:
        return self.embedded is not None


@contextmanager
def watched(engine: Engine, see: Callable[[Pass], object]) -> Iterator[None]:
    """Calls `see` before each pass; what it raises breaks the pass off."""

    def note(_module: object, inputs: tuple[Tensor, object], named: dict[str, Any]) -> None:
        embedded = inputs[0]
        rows, columns = embedded.shape[:2]
        see(Pass(rows, columns, embedded if named.get("positions") is None else None))

    hook = engine.llama.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def row_counts(engine: Engine) -> Iterator[list[int]]:
    """How many rows went through the language model, a number for each pass."""
    rows: list[int] = []
    with watched(engine, lambda each: rows.append(each.rows)):
        yield rows


class Shortage(TorchFunctionMode):
    """Memory runs out at each operation of torch for which `is_short` says so."""

    def __init__(self, is_short: Callable[[], bool]) -> None:
        super().__init__()
        self.is_short = is_short
        self.count = 0

    def __torch_function__(
        self, function: Any, _types: Any, positional: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        if function.__name__ != "__get__" and self.is_short():
            self.count += 1
            raise torch.OutOfMemoryError("no room")
        return function(*positional, **(named or {}))


def is_within(name: str) -> bool:
    """Whether this is called by a function, however deep: is_within("DecodeBatch.leave")."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_qualname == name:
            return True
    return False
