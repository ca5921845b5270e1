"""Memory that runs out costs time and no answer: each goes on from its last token, and fails only where it is alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.engine.batches import Pass, Shortage, is_within, watched
from tests.engine.resident.asking import FREE, Asked, alone, check, mixed, wanted
from vllava_cli.answers import Answer
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.resident.answer_events import AnswerWanted, Ended, RunningAnswer
from vllava_cli.engine.resident.prefix_store import PrefixStore
from vllava_cli.engine.resident.row_scheduler import RowScheduler
from vllava_cli.engine.sequence import Sequence as Answering
from vllava_cli.errors import MemoryShortError
from vllava_cli.nouns import Frames

pytestmark = pytest.mark.usefixtures("one_thread")


class Thread:
    """What the model's thread does, step by step in this one."""

    def __init__(self, engine: Engine, *, most_rows: int, row_bytes: int = 1 << 40) -> None:
        self.engine = engine
        self.scheduler = RowScheduler(
            engine=engine,
            most_rows=most_rows,
            row_bytes=row_bytes,
            store=PrefixStore(5_000_000),
            begins=self._begins,
            ends=self._ends,
        )

    def submit(self, one: AnswerWanted) -> Asked:
        asked = Asked(running=RunningAnswer(wanted=one, deliver=lambda event: asked.events.append(event)))
        sequence = Answering.of(None, self.engine.tokens, one.conversation, one.question, one.sampling)
        self.scheduler.put(asked.running, sequence)
        return asked

    def finish(self) -> None:
        while self.scheduler.is_busy:
            self.scheduler.turn()

    def _begins(self, running: RunningAnswer) -> bool:
        assert running.state != "ended"
        running.state = "running"
        return True

    def _ends(self, running: RunningAnswer, answer: Answer | None, fault: Exception | None) -> None:
        assert running.state != "ended"
        running.state = "ended"
        running.send(Ended(answer=answer, fault=fault))


def finished(asked: Sequence[Asked]) -> Sequence[Asked]:
    for each in asked:
        each.done.set()
    return asked


# A batch of 1, 3 and 8 rows, and memory that runs out often and seldom.
@pytest.mark.parametrize("seed", [0, 5, 7, 8, 10])
def test_no_answer_changes_whenever_memory_runs_out(
    seed: int, media: tuple[Frames, ...], ending_engine: Engine
) -> None:
    chance = random.Random(seed)
    ones = mixed(ending_engine, media, 16, seed)
    expected = [alone(ending_engine, one) for one in ones]
    thread = Thread(ending_engine, most_rows=chance.choice([1, 3, 8]))
    rate, asked = chance.choice([1 / 500, 1 / 1500]), list[Asked]()
    shortage = Shortage(lambda: chance.random() < rate and not is_within("Sampler.pick"))
    while len(asked) < len(ones) or thread.scheduler.is_busy:
        if len(asked) < len(ones) and chance.random() < 0.7:
            asked.append(thread.submit(ones[len(asked)]))
        with shortage:
            thread.scheduler.turn()
    assert shortage.count
    faults = 0
    for each, answer in zip(finished(asked), expected, strict=True):
        if each.end.fault:
            assert isinstance(each.end.fault, MemoryShortError)
            faults += 1
        else:
            check(each, answer)
    assert faults <= shortage.count / 2


def test_rows_are_halved_and_come_back(media: tuple[Frames, ...], random_engine: Engine) -> None:
    """Eight rows and then no more than three fit; a row is added for each eight answers after that."""
    ones = [wanted(media[number % 5], question=f"{number}?") for number in range(40)]
    expected = [alone(random_engine, one) for one in ones]
    thread, most, rows = Thread(random_engine, most_rows=8), [8], list[int]()

    def see(each: Pass) -> None:
        if each.columns == 1:
            rows.append(each.rows)
        if each.columns == 1 and each.rows > most[0]:
            raise torch.OutOfMemoryError("no room")

    asked = [thread.submit(one) for one in ones]
    with watched(random_engine, see):
        for _ in range(12):
            thread.scheduler.turn()
        most[0] = 3
        thread.scheduler.turn()
        assert thread.scheduler.most_rows == 4
        thread.finish()
    for each, answer in zip(finished(asked), expected, strict=True):
        check(each, answer)
    assert max(rows[:13]) == 8
    assert thread.scheduler.most_rows in (2, 3, 4)


def test_a_question_that_is_too_large_by_itself_fails_alone(media: tuple[Frames, ...], random_engine: Engine) -> None:
    seen = random_engine.vision.features(media[0], "crop")[0]
    ones = [wanted(medium) for medium in (*media[2:5], media[0], *media[5:8])]
    expected = [alone(random_engine, one) for one in ones]

    def see(each: tuple[torch.Tensor, ...]) -> None:
        if (each[0] == seen).all(dim=-1).any():
            raise torch.OutOfMemoryError("no room")

    hook = random_engine.llama.register_forward_pre_hook(lambda _, inputs: see(inputs))
    thread = Thread(random_engine, most_rows=4)
    asked = [thread.submit(one) for one in ones]
    thread.finish()
    hook.remove()
    for one, each, answer in zip(ones, finished(asked), expected, strict=True):
        if media[0] in one.conversation.media:
            assert isinstance(each.end.fault, MemoryShortError)
            assert each.end.fault.__traceback__ is None
        else:
            check(each, answer)


def test_rows_wait_where_the_memory_has_no_room_for_them(media: tuple[Frames, ...], random_engine: Engine) -> None:
    """All rows are as wide as the widest; a single one is always let in."""
    ones = [wanted(media[0], question=question) for question in ("Why?", "Who?", "why " * 100, "Where?", "When?")]
    expected = [alone(random_engine, one) for one in ones]
    token_bytes = random_engine.tokens.checkpoint.cache_values_per_token * 4
    rows: list[int] = []
    thread = Thread(random_engine, most_rows=8, row_bytes=2 * 250 * token_bytes)
    asked = [thread.submit(one) for one in ones]
    with watched(random_engine, lambda each: rows.append(each.rows)):
        thread.finish()
    for each, answer in zip(finished(asked), expected, strict=True):
        check(each, answer)
    assert max(rows) == 2


@pytest.mark.parametrize("clips", [0, 1])
def test_a_prompt_that_many_ask_at_once_is_read_once(
    clips: int, media: tuple[Frames, ...], random_engine: Engine
) -> None:
    """All but one reuse the whole prompt; a question of its own reads what differs."""
    ones = [wanted(*media[:clips], sampling=replace(FREE, temperature=0.8, seed=seed)) for seed in range(5)]
    ones.insert(3, wanted(*media[:clips], question="Who?"))
    ones.append(wanted(*media[:clips]))
    expected = [alone(random_engine, one) for one in ones]
    tokens = expected[0].stats.prompt_tokens
    thread, read = Thread(random_engine, most_rows=6), 0

    def see(each: Pass) -> None:
        nonlocal read
        read += each.rows * each.columns if each.columns > 1 else 0

    asked = [thread.submit(one) for one in ones]
    with watched(random_engine, see):
        thread.finish()
    for each, answer in zip(finished(asked), expected, strict=True):
        check(each, answer)
    shared = asked[3].answer.stats.reused_tokens
    reused = [each.answer.stats.reused_tokens for each in asked]
    assert reused == [0, tokens, tokens, shared, tokens, tokens, tokens - 1]
    assert (read, shared > 0) == (shared + 2 * (tokens - shared), clips > 0)
