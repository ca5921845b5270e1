"""One of the questions that are answered side by side: what it is made of, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from tests.engine.batches import Job, query
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.row import Row
from vllava_cli.errors import ContextError, MemoryShortError, OverflowedError, UsageError
from vllava_cli.nouns import Conversation, Frames, Sampling

WHY = "Why?"


def row_of(engine: Engine, medium: Frames, sampling: Sampling, question: str = WHY) -> Row[Job]:
    return Row.of(query((medium, question)), engine.tokens, sampling, "crop")


@pytest.fixture
def video(media: tuple[Frames, ...]) -> Frames:
    return media[0]


@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_row_has_the_prompt_of_a_new_conversation_and_shares_it_up_to_the_last_placeholder(
    kind: Literal["video", "image"], demo_engine: Engine, media: tuple[Frames, ...]
) -> None:
    medium = next(each for each in media if each.kind == kind)
    tokens = demo_engine.tokens
    row = row_of(demo_engine, medium, Sampling(choices=("left", "a dog")))
    conversation = Conversation(attached=(medium,))
    assert list(row.prompt) == tokens.prompt_ids(conversation, WHY)
    assert list(row.prompt[: row.shared]) == tokens.known_ids(conversation)
    assert row.options == tokens.option_ids(("left", "a dog"))
    assert row_of(demo_engine, medium, Sampling()).options == ()


@pytest.mark.parametrize(
    ("question", "sampling", "error"),
    [
        (" ", Sampling(), UsageError),
        ("why " * 3000, Sampling(), ContextError),
        (WHY, Sampling(choices=("yes", "no " * 3000)), ContextError),
    ],
)
def test_what_cannot_be_asked_is_refused(
    question: str, sampling: Sampling, error: type[Exception], demo_engine: Engine, video: Frames
) -> None:
    with pytest.raises(error):
        row_of(demo_engine, video, sampling, question)


def test_a_row_ends_at_the_end_token_which_is_no_part_of_it(demo_engine: Engine, video: Frames) -> None:
    row = row_of(demo_engine, video, Sampling(max_new_tokens=9))
    ids = demo_engine.tokens.answer_ids("A red circle")
    assert [row.push(token) for token in (*ids, min(demo_engine.tokens.stop_ids))] == [None] * len(ids) + ["end"]
    answer = row.finished("end").answer
    assert answer
    assert (answer.text, answer.stop_reason, answer.stats.new_tokens) == ("A red circle", "end", len(ids))


def test_a_row_ends_where_its_length_or_the_context_does(demo_engine: Engine, video: Frames) -> None:
    ids = demo_engine.tokens.answer_ids("A red circle moves")
    row = row_of(demo_engine, video, Sampling(max_new_tokens=3))
    assert [row.push(token) for token in ids[:3]] == [None, None, "length"]
    tokens = replace(demo_engine.tokens, context_tokens=len(row.prompt) + 2)
    tight = replace(row, tokens=tokens, ids=[])
    assert [tight.push(token) for token in ids[:2]] == [None, "context"]


def test_a_stray_letter_is_left_out_and_the_row_goes_on(demo_engine: Engine, video: Frames) -> None:
    ids = demo_engine.tokens.answer_ids("A dog. Ъ and")
    for has_guard, text, strays in ((True, "A dog.  and", 1), (False, "A dog. Ъ and", 0)):
        row = row_of(demo_engine, video, Sampling(has_guard=has_guard))
        assert [row.take(token) for token in ids] == [None] * len(ids)
        answer = row.finished("end").answer
        assert answer
        assert (answer.text, answer.stop_reason, answer.stats.stray_tokens) == (text, "end", strays)
        assert (answer.stats.new_tokens, demo_engine.tokens.text_of(list(answer.ids))) == (len(ids), text)


def test_three_stray_letters_within_a_few_tokens_end_a_row(demo_engine: Engine, video: Frames) -> None:
    ids = demo_engine.tokens.answer_ids("A dog.ЪЪЪ and")
    row = row_of(demo_engine, video, Sampling())
    finished = next(found for token in ids if (found := row.take(token)))
    assert finished.answer
    assert (finished.answer.text, finished.answer.stop_reason) == ("A dog.", "repetition")
    assert finished.answer.stats.stray_tokens == 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_logits_that_are_no_numbers_fail_a_row(
    temperature: float, bad: str, demo_engine: Engine, video: Frames
) -> None:
    row = row_of(demo_engine, video, Sampling(temperature=temperature))
    logits = torch.zeros(demo_engine.model.lm_head.out_features)
    logits[7] = float(bad)
    finished = row.take(row.choose(logits))
    assert finished
    assert (finished.answer, type(finished.fault)) == (None, OverflowedError)
    assert "overflowed" in str(finished.fault)


def test_the_likeliest_choice_is_taken_and_the_first_of_equals(demo_engine: Engine, video: Frames) -> None:
    sampling = Sampling(choices=("left", "a dog", "red"))
    for probabilities, wanted, tokens in (((0.2, 0.5, 0.3), "a dog", 3), ((0.4, 0.2, 0.4), "left", 1)):
        answer = row_of(demo_engine, video, sampling).chosen(probabilities).answer
        assert answer
        assert (answer.text, answer.stop_reason, answer.probabilities) == (wanted, "choice", probabilities)
        assert (answer.stats.new_tokens, answer.stats.decode_s) == (tokens, 0.0)


def test_a_row_that_begins_anew_has_said_nothing_and_draws_the_same(demo_engine: Engine, video: Frames) -> None:
    row = row_of(demo_engine, video, Sampling(temperature=1.0, seed=1))
    logits = torch.zeros(demo_engine.model.lm_head.out_features)
    drawn = [row.choose(logits) for _ in range(5)]
    row.push(40)
    again = row.again()
    assert [again.choose(logits) for _ in range(5)] == drawn
    assert [row.choose(logits) for _ in range(5)] != drawn
    assert (again.ids, again.first_s, again.was_begun, row.was_begun) == ([], None, True, False)
    assert (again.query, again.prompt, row.ids) == (row.query, row.prompt, [40])


def test_a_row_that_failed_says_why(demo_engine: Engine, video: Frames) -> None:
    fault = MemoryShortError("No room.")
    finished = row_of(demo_engine, video, Sampling()).failed(fault)
    assert (finished.key, finished.answer, finished.fault) == ((video, WHY), None, fault)
