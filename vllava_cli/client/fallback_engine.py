"""`FallbackEngine`: an engine behind a server as long as the server lives, and then one that is loaded here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeVar

from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.answering import AnswerEngine, AnswerRequest, AnswerResult, Batching, K, Maker, NextRequests
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import ServerError, ServerGoneError
from vllava_cli.interrupt import NEVER, Cancel
from vllava_cli.nouns import LoadPlan
from vllava_cli.times import Activity

L = TypeVar("L")


@dataclass(kw_only=True)
class FallbackEngine:
    """Asks `engine`; when its server has ended, says so, and from then on asks the engine that `load` returns."""

    engine: AnswerEngine
    load: Callable[[], AnswerEngine]
    notice: Callable[[str], object] = str

    @property
    def tokens(self) -> Tokens:
        return self.engine.tokens

    @property
    def plan(self) -> LoadPlan:
        return self.engine.plan

    @property
    def activity(self) -> Activity:
        return self.engine.activity

    @property
    def maker(self) -> Maker | None:
        return self.engine.maker

    @property
    def tower_calls(self) -> int:
        return self.engine.tower_calls

    @property
    def used_bytes(self) -> int | None:
        return self.engine.used_bytes

    def make_room(self, conversation: Conversation, question: str, sampling: Sampling) -> range:
        return self.engine.make_room(conversation, question, sampling)

    def reading_of(self, conversation: Conversation, chunk_tokens: int) -> Callable[[Cancel], object] | None:
        return self.engine.reading_of(conversation, chunk_tokens)

    def keep_clips(self, cancel: Cancel = NEVER) -> None:
        self.engine.keep_clips(cancel)

    def rows_that_fit(self, sampling: Sampling, *, question_characters: int) -> int:
        return self.engine.rows_that_fit(sampling, question_characters=question_characters)

    def stream(
        self, conversation: Conversation, question: str, sampling: Sampling, *, cancel: Cancel = NEVER
    ) -> Generator[str, None, None]:
        """Yields the text of an answer as `Engine.stream` does, each part of it once.

        Errors: those of `Engine.stream`; ServerError if the answer made here doesn't begin with what was yielded.
        """
        shown = ""
        try:
            for text in self.engine.stream(conversation, question, sampling, cancel=cancel):
                shown += text
                yield text
            return
        except ServerGoneError:
            self._fall_back()
        turns, attached, made = list(conversation.turns), conversation.attached, ""
        with closing(self.engine.stream(conversation, question, sampling, cancel=cancel)) as texts:
            for text in texts:
                made += text
                if made.startswith(shown):
                    yield made[len(shown) :]
                    shown = made
                elif not shown.startswith(made):
                    break
        if not shown.startswith(made):
            conversation.turns[:], conversation.attached = turns, attached
            raise ServerError("The server ended in the middle of an answer, and the model differs here. Ask again.")

    def answers(self, source: NextRequests[K], batching: Batching) -> Iterator[AnswerResult[K]]:
        """Yields one result for each request, as `BatchScheduler` does; what the server left open is asked here."""
        numbers = count()
        left: dict[int, AnswerRequest[K] | AnswerResult[K]] = {}
        """The requests without a result, by the numbers that are their keys for the server."""

        def numbered(most: int, *, is_waiting: bool) -> list[AnswerRequest[int] | AnswerResult[int]] | None:
            given = source(most, is_waiting=is_waiting)
            if given is None:
                return None
            new = dict(zip(islice(numbers, len(given)), given, strict=True))
            left.update(new)
            return [
                _result(each, number) if isinstance(each, AnswerResult) else _request(each, number)
                for number, each in new.items()
            ]

        try:
            for result in self.engine.answers(numbered, batching):
                yield _result(result, left.pop(result.key).key)
            return
        except ServerGoneError:
            self._fall_back()

        def rest(most: int, *, is_waiting: bool) -> Sequence[AnswerRequest[K] | AnswerResult[K]] | None:
            given = [left.pop(number) for number in list(left)]
            return given or source(most, is_waiting=is_waiting)

        yield from self.engine.answers(rest, batching)

    def _fall_back(self) -> None:
        self.notice("vllava: the server ended; loading the model here.")
        self.engine = self.load()


def _request(request: AnswerRequest[L], key: K) -> AnswerRequest[K]:
    return AnswerRequest(
        key=key, medium=request.medium, question=request.question, seed=request.seed, choices=request.choices
    )


def _result(result: AnswerResult[L], key: K) -> AnswerResult[K]:
    return AnswerResult(key=key, answer=result.answer, fault=result.fault, seconds=result.seconds)
