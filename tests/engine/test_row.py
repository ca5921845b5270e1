"""One of the questions that are answered side by side: what it is made of, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from tests.engine.batches import Job, query
from vllava_cli.engine.row import STRAY_EVERY, Row
from vllava_cli.engine.stream import Engine
from vllava_cli.errors import ContextError, MemoryShortError, UsageError
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


@pytest.mark.parametrize("place", [0, 3, STRAY_EVERY - 2, STRAY_EVERY - 1])
def test_a_stray_letter_ends_a_row_soon_and_its_text_at_once(place: int, demo_engine: Engine, video: Frames) -> None:
    """It is looked for every so often, and again at the end."""
    words = [*demo_engine.tokens.answer_ids("red left " * STRAY_EVERY)]
    ids = [*words[:place], *demo_engine.tokens.answer_ids("Ъ"), *words[place:]]
    row = row_of(demo_engine, video, Sampling())
    stops = []
    for token in ids:
        stops.append(row.push(token))
        if stops[-1]:
            break
    assert stops[-1] == "repetition"
    assert len(stops) % STRAY_EVERY == 0
    answer = row.finished("repetition").answer
    assert answer
    assert answer.text == demo_engine.tokens.text_of(ids[:place]) + " " * bool(place)


def test_a_stray_letter_that_was_not_looked_for_yet_is_found_at_the_end(demo_engine: Engine, video: Frames) -> None:
    for has_guard, wanted in ((True, ("A dog. ", "repetition")), (False, ("A dog. Ъ and", "end"))):
        row = row_of(demo_engine, video, Sampling(has_guard=has_guard))
        for token in demo_engine.tokens.answer_ids("A dog. Ъ and"):
            assert row.push(token) is None
        answer = row.finished("end").answer
        assert answer
        assert (answer.text, answer.stop_reason) == wanted


def test_the_likeliest_choice_is_taken_and_the_first_of_equals(demo_engine: Engine, video: Frames) -> None:
    sampling = Sampling(choices=("left", "a dog", "red"))
    for probabilities, wanted, tokens in (((0.2, 0.5, 0.3), "a dog", 3), ((0.4, 0.2, 0.4), "left", 1)):
        answer = row_of(demo_engine, video, sampling).chosen(probabilities).answer
        assert answer
        assert (answer.text, answer.stop_reason, answer.probabilities) == (wanted, "choice", probabilities)
        assert (answer.stats.new_tokens, answer.stats.decode_s) == (tokens, 0.0)


def test_a_row_that_begins_anew_has_said_nothing_and_draws_the_same(demo_engine: Engine, video: Frames) -> None:
    row = row_of(demo_engine, video, Sampling(temperature=1.0, seed=1))
    logits = torch.zeros(len(demo_engine.tokens.tokenizer))
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
