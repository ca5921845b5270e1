"""What is answered side by side is what a stream says to each question alone, whoever the neighbours are."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakSet

import pytest

from tests.engine.batches import (
    OWN_CHOICES,
    QUESTIONS,
    Job,
    Pass,
    Said,
    as_asked,
    crossed,
    given_at_once,
    portions,
    query,
    row_counts,
    run,
    said,
    shuffled,
    streamed,
    trickle,
    watched,
)
from tests.engine.engines import PHRASES, after, engine_like
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.answering import AnswerRequest, AnswerResult, NextRequests
from vllava_cli.engine.batch import BatchScheduler
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.tokens import Tokenizer
from vllava_cli.errors import ContextError, MediaError, UsageError
from vllava_cli.nouns import Frames

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = Sampling(max_new_tokens=24)
FREE = Sampling(max_new_tokens=24, has_guard=False)
WARM = Sampling(max_new_tokens=24, has_guard=False, temperature=0.8, seed=3)
COOL = replace(WARM, temperature=0.02)
"""The random model hardly prefers one token to another, so that all rows draw the same with WARM."""


@pytest.fixture(scope="module")
def jobs(media: tuple[Frames, ...]) -> list[Job]:
    """200, so that neighbours have other clips and other kinds."""
    return shuffled(crossed(media, QUESTIONS), 1)[:200]


@pytest.fixture(scope="module")
def wanted(jobs: list[Job], demo_engine: Engine) -> dict[Job, Said]:
    return said(streamed(demo_engine, jobs, GREEDY))


@pytest.fixture(scope="module")
def few(media: tuple[Frames, ...]) -> list[Job]:
    return shuffled(crossed(media[:4], QUESTIONS[:9]), 2)


@pytest.mark.parametrize(
    ("source", "most_rows"),
    [
        (lambda jobs: portions([jobs]), 1),
        (lambda jobs: portions([jobs]), 3),
        (as_asked, 16),
        (as_asked, 32),
        (trickle, 16),
    ],
)
def test_each_of_200_rows_equals_the_stream(
    source: Callable[[list[Job]], NextRequests[Job]],
    most_rows: int,
    jobs: list[Job],
    wanted: dict[Job, Said],
    demo_engine: Engine,
) -> None:
    with row_counts(demo_engine) as sizes:
        assert run(demo_engine, GREEDY, source(jobs), most_rows=most_rows).said == wanted
    if source is trickle:
        assert set(range(1, 8)) < set(sizes), "rows joined others that were underway"


@pytest.mark.parametrize(("sampling", "lengths"), [(FREE, 5), (COOL, 5), (WARM, 0)], ids=["greedy", "cool", "warm"])
@pytest.mark.parametrize("most_rows", [3, 16])
def test_rows_of_all_lengths_equal_the_stream(
    most_rows: int, sampling: Sampling, lengths: int, few: list[Job], ending_engine: Engine
) -> None:
    answers = streamed(ending_engine, few, sampling)
    assert len({answer.stats.new_tokens for answer in answers.values()}) > lengths
    for source in (as_asked(few), trickle(few)):
        batch = run(ending_engine, sampling, source, most_rows=most_rows)
        assert batch.said == said(answers)
        for job, found in batch.found.items():
            assert found.answer
            assert found.answer.stats.new_tokens == answers[job].stats.new_tokens
            assert found.answer.stats.prompt_tokens == answers[job].stats.prompt_tokens


class Straying:
    """A tokenizer for which a word is a stray letter."""

    def __init__(self, tokenizer: Tokenizer, word: str) -> None:
        self._tokenizer, self._word = tokenizer, word
        self.hard_sign_ids = frozenset({tokenizer.encode(word, has_start=False)[-1]})

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids).replace(self._word, "Ъ")


@pytest.mark.parametrize("word", ["red", "left", "moves", "."])
def test_a_stray_letter_is_left_out_of_a_row_as_of_a_stream(
    word: str, media: tuple[Frames, ...], demo_engine: Engine
) -> None:
    straying = engine_like(demo_engine, tokenizer=Straying(demo_engine.tokens.tokenizer, word))
    asked = crossed(media[:8], ("What happens in this video?", "Why is this funny?", "Which way does it move?"))
    answers = streamed(straying, asked, GREEDY)
    assert any(answer.stats.stray_tokens for answer in answers.values())
    assert not any("Ъ" in answer.text for answer in answers.values())
    assert run(straying, GREEDY, as_asked(asked)).said == said(answers)


@pytest.mark.parametrize("count", [1, 4])
def test_a_clip_is_looked_at_and_read_once_however_many_questions_there_are(
    count: int, media: tuple[Frames, ...], demo_engine: Engine
) -> None:
    clips = [replace(medium) for medium in media if medium.kind == "video"][:count]
    asked = crossed(clips, [f"{question} {number}" for question in QUESTIONS for number in (1, 2)])
    shared = len(demo_engine.tokens.known_ids(Conversation(attached=(clips[0],))))
    looked = demo_engine.vision.calls
    passes: list[Pass] = []
    with watched(demo_engine, passes.append):
        batch = run(demo_engine, replace(GREEDY, max_new_tokens=2), portions([asked]))
    assert len(batch.said) == 40 * count
    assert demo_engine.vision.calls - looked == count
    assert sum(each.rows * each.columns for each in passes if each.is_prefix) == shared * count
    stats = [found.answer.stats for found in batch.found.values() if found.answer]
    assert sum(each.tower_calls for each in stats) == count
    assert Counter(each.reused_tokens for each in stats) == {0: count, shared: 39 * count}


def test_clips_and_images_that_take_turns_are_read_together(media: tuple[Frames, ...], demo_engine: Engine) -> None:
    videos, images = ([medium for medium in media if medium.kind == kind] for kind in ("video", "image"))
    asked = [(medium, "Why?") for pair in zip(videos, images, strict=False) for medium in pair]
    passes: list[Pass] = []
    with watched(demo_engine, passes.append):
        batch = run(demo_engine, GREEDY, as_asked(asked))
    assert [each.rows for each in passes if each.is_prefix] == [len(images), len(images)]
    assert batch.said == said(streamed(demo_engine, asked, GREEDY))


def test_what_cannot_be_asked_is_a_fault_of_its_own(few: list[Job], demo_engine: Engine) -> None:
    empty, long, broken = (few[0][0], " "), (few[0][0], "why " * 3000), (few[0][0], "Broken?")
    asked = [few[0], empty, few[1], long, broken, *few[2:8]]
    fault = AnswerResult(key=broken, fault=MediaError("It is broken."))
    given = [fault if job is broken else query(job) for job in asked]
    batch = run(demo_engine, GREEDY, given_at_once(given), most_rows=3)
    assert batch.said == said(streamed(demo_engine, few[:8], GREEDY))
    assert {job: type(error) for job, error in batch.faults.items()} == {
        empty: UsageError,
        long: ContextError,
        broken: MediaError,
    }
    assert batch.found[broken] is fault


def test_faults_are_told_before_a_source_that_has_nothing_else_is_at_its_end(demo_engine: Engine) -> None:
    calls: list[int] = []

    def source(_most: int, *, is_waiting: bool) -> list[AnswerRequest[int] | AnswerResult[int]] | None:  # noqa: ARG001
        calls.append(len(calls))
        return [AnswerResult(key=calls[-1], fault=MediaError("It is broken."))] if calls[-1] < 100 else None

    batching = BatchScheduler[int](engine=demo_engine, sampling=GREEDY, fit="crop", most_rows=4)
    told = [(each.key, len(calls)) for each in batching.answers(source)]
    assert [key for key, _ in told] == list(range(100))
    assert all(asked <= key + 4 for key, asked in told[:96])


@pytest.mark.parametrize("is_calibrated", [False, True])
@pytest.mark.parametrize("most_rows", [3, 16])
def test_choices_are_as_likely_as_in_the_stream(
    most_rows: int, is_calibrated: bool, few: list[Job], demo_engine: Engine
) -> None:
    """The options have 2, 2, 6, 3, 1 and 7 tokens."""
    sampling = Sampling(choices=PHRASES, is_calibrated=is_calibrated)
    answers = streamed(demo_engine, few[:20], sampling)
    batch = run(demo_engine, sampling, as_asked(few[:20]), most_rows=most_rows)
    assert batch.said == said(answers)
    for job, found in batch.found.items():
        assert found.answer
        assert found.answer.probabilities == pytest.approx(answers[job].probabilities, abs=1e-5)
        assert found.answer.stats.new_tokens == answers[job].stats.new_tokens
    assert len({answer.text for answer in answers.values()}) > 1


@pytest.mark.parametrize("is_calibrated", [False, True])
def test_rows_with_choices_of_their_own_and_without_are_read_in_one_pass(
    is_calibrated: bool, media: tuple[Frames, ...], demo_engine: Engine
) -> None:
    jobs = crossed([medium for medium in media if medium.kind == "video"][:3], QUESTIONS[:5])
    sampling = replace(FREE, is_calibrated=is_calibrated)
    answers = streamed(demo_engine, jobs, sampling, OWN_CHOICES)
    with row_counts(demo_engine) as rows:
        batch = run(demo_engine, sampling, as_asked(jobs, None, OWN_CHOICES), most_rows=16)
    assert batch.said == said(answers)
    for job, found in batch.found.items():
        assert found.answer
        assert found.answer.probabilities == pytest.approx(answers[job].probabilities, abs=1e-5)
        assert len(found.answer.probabilities) == len(OWN_CHOICES[job[1]])
    if not is_calibrated:
        assert rows[:3] == [3, 15, 6], "the clips, all prompts, and two questions whose choices have several tokens"


def test_rows_that_were_begun_are_finished_and_no_other_is_begun(few: list[Job], random_engine: Engine) -> None:
    wanted = said(streamed(random_engine, few[:4], FREE))
    asked: list[int] = []
    batch = run(random_engine, FREE, as_asked(few, asked), most_rows=4, is_stopping=after(10))
    assert (batch.found.keys(), batch.said) == (wanted.keys(), wanted)
    assert asked == [4]


@pytest.mark.parametrize("passes", [0, 1, 5], ids=["in a prefix", "in a prompt", "in decoding"])
def test_ctrl_c_in_the_middle_of_a_pass_gets_through(passes: int, few: list[Job], random_engine: Engine) -> None:
    is_due = after(passes)

    def break_off(_: Pass) -> None:
        if is_due():
            raise KeyboardInterrupt

    with watched(random_engine, break_off), pytest.raises(KeyboardInterrupt):
        run(random_engine, FREE, as_asked([job for job in few if job[0].kind == "video"]))


def test_as_many_are_asked_for_as_are_free_once_half_are(few: list[Job], random_engine: Engine) -> None:
    """All rows end at once here, so that it is always the same number."""
    asked: list[int] = []
    run(random_engine, replace(FREE, max_new_tokens=2), as_asked(few[:20], asked), most_rows=8)
    assert asked == [8, 8, 8, 4]


def test_seconds_do_not_count_the_wait_for_a_free_row(few: list[Job], random_engine: Engine) -> None:
    started_s = time.perf_counter()
    batch = run(random_engine, FREE, portions([few[:6]]), most_rows=1)
    whole_s = time.perf_counter() - started_s
    assert 0 < sum(found.seconds for found in batch.found.values()) <= whole_s
    for found in batch.found.values():
        assert found.answer
        stats = found.answer.stats
        assert found.seconds == pytest.approx(stats.first_token_s + stats.decode_s)


@pytest.mark.parametrize("sampling", [FREE, Sampling(choices=("yes", "no"))], ids=["decoded", "chosen"])
def test_nothing_is_held_of_what_was_answered(sampling: Sampling, few: list[Job], random_engine: Engine) -> None:
    alive: WeakSet[Frames] = WeakSet()
    questions = itertools.chain.from_iterable(itertools.repeat(QUESTIONS, 2))

    def source(most: int, *, is_waiting: bool) -> list[AnswerRequest[str] | AnswerResult[str]] | None:  # noqa: ARG001
        given: list[AnswerRequest[str] | AnswerResult[str]] = []
        for question in itertools.islice(questions, most):
            medium = replace(few[0][0])
            alive.add(medium)
            given.append(AnswerRequest(key=question, medium=medium, question=question))
        return given or None

    batching = BatchScheduler[str](
        engine=random_engine, sampling=replace(sampling, max_new_tokens=3), fit="crop", most_rows=4
    )
    most_alive = [len(alive) for _ in batching.answers(source)]
    assert len(most_alive) == 40
    assert max(most_alive) <= 8
    assert len(alive) == 0
