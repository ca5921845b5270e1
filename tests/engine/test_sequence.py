"""One answer being made, alone or beside others: how it begins, how it ends, and what it says."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllava_cli import demo
from vllava_cli.answers import (
    Answer,
    Conversation,
    Sampling,
    StopReason,
)
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.sequence import Detokenizer, Sampler, Sequence, is_looping, nucleus
from vllava_cli.engine.tokens import Tokenizer, read_tokenizer
from vllava_cli.errors import OverflowedError
from vllava_cli.nouns import Frames, MediaKind

WHY = "Why?"
CHOICES = Sampling(choices=("left", "a dog", "red"))
LOOPS = {
    "one word ten times": [1, 2, 3] + [7] * 10,
    "two words twelve times": [1] + [7, 8] * 12,
    "a sentence of nine tokens three times": list(range(20, 30)) + list(range(9)) * 3,
    "a long sentence three times": list(range(96)) * 3,
}
HONEST = {
    "nothing": [],
    "one word nine times": [1, 2, 3] + [7] * 9,
    "two words eleven times": [1] + [7, 8] * 11,
    "a sentence twice": list(range(9)) * 2,
    "a loop that ended": [7] * 20 + [8],
    "counting": list(range(100)),
    "the same beginning of each line": [token for n in range(30) for token in (1, 2, 100 + n, 3)],
}


def sequence_of(engine: Engine, medium: Frames, sampling: Sampling, question: str = WHY) -> Sequence[str]:
    return Sequence.of("key", engine.tokens, Conversation(attached=(medium,)), question, sampling)


def pushed(sequence: Sequence[str], ids: Ids[int]) -> list[StopReason | None]:
    """Why the answer ends with each of these ids, which are pushed until it does."""
    found: list[StopReason | None] = []
    for token in ids:
        found.append(sequence.push(token))
        if found[-1]:
            break
    return found


def ended(sequence: Sequence[str]) -> Answer:
    sequence.text.rest()
    return sequence.answer()


@pytest.fixture
def video(media: tuple[Frames, ...]) -> Frames:
    return media[0]


@pytest.mark.parametrize("kind", ["video", "image"])
def test_it_has_the_prompt_of_its_conversation_and_shares_it_up_to_the_last_placeholder(
    kind: MediaKind, demo_engine: Engine, media: tuple[Frames, ...]
) -> None:
    medium = next(each for each in media if each.kind == kind)
    tokens, conversation = demo_engine.tokens, Conversation(attached=(medium,))
    sequence = sequence_of(demo_engine, medium, CHOICES)
    assert list(sequence.prompt.ids) == tokens.prompt_ids(conversation, WHY)
    assert list(sequence.prompt.ids[: sequence.shared]) == tokens.known_ids(conversation)
    assert sequence.options == tokens.option_ids(CHOICES.choices)
    assert sequence_of(demo_engine, medium, Sampling()).options == ()


def test_the_end_token_ends_it_and_is_no_part_of_it(demo_engine: Engine, video: Frames) -> None:
    sequence, ids = sequence_of(demo_engine, video, Sampling(max_new_tokens=9)), demo_engine.tokens.answer_ids("A red")
    assert pushed(sequence, (*ids, min(demo_engine.tokens.stop_ids))) == [*[None] * len(ids), "end"]
    answer = ended(sequence)
    assert (answer.text, answer.stop_reason, answer.stats.new_tokens) == ("A red", "end", len(ids))


@pytest.mark.parametrize(
    ("said", "more", "left", "has_guard", "wanted"),
    [
        ([40, 41, 42], 1, 1, True, None),
        ([40, 41, 42], 0, 1, True, "length"),
        ([40, 41, 42], 1, 0, True, "context"),
        ([40, 41, 42], 0, 0, True, "length"),
        ([40] * 10, 9, 9, True, "repetition"),
        ([40] * 10, 0, 0, True, "repetition"),
        ([40] * 10, 9, 9, False, None),
        ([40] * 10, 0, 9, False, "length"),
        ([40] * 9, 9, 9, True, None),
        ("A dog.ЪЪЪ", 9, 9, True, "repetition"),
        ("A dog.ЪЪЪ", 0, 0, True, "repetition"),
        ("A dog.ЪЪЪ", 9, 9, False, None),
        ("A dog.ЪЪ no", 0, 9, True, "length"),
        ("A dog.ЪЪ no", 9, 0, True, "context"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_it_ends_where_the_model_would_go_on(
    said: list[int] | str,
    more: int,
    left: int,
    has_guard: bool,
    wanted: StopReason | None,
    is_streamed: bool,
    demo_engine: Engine,
    video: Frames,
) -> None:
    """So many more tokens are allowed, so many left in the context; stray ones count for both."""
    ids = demo_engine.tokens.answer_ids(said) if isinstance(said, str) else said
    sequence = sequence_of(demo_engine, video, Sampling(max_new_tokens=len(ids) + more, has_guard=has_guard))
    sequence.tokens = replace(sequence.tokens, context_tokens=len(sequence.prompt.ids) + len(ids) + left)
    if is_streamed:
        assert sequence.new_text() == ""
    assert pushed(sequence, ids) == [*[None] * (len(ids) - 1), wanted]


def test_its_text_comes_in_pieces_that_make_the_whole(demo_engine: Engine, video: Frames) -> None:
    ids = demo_engine.tokens.answer_ids("日本 and Ъ a dog.Ъ")
    sequence = sequence_of(demo_engine, video, Sampling())
    pieces = []
    for token in ids:
        sequence.push(token)
        pieces.append(sequence.new_text())
    answer = ended(sequence)
    assert "".join([*pieces, sequence.new_text()]) == answer.text == "日本 and  a dog."


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_logits_that_are_no_numbers_are_an_error(
    temperature: float, bad: str, demo_engine: Engine, video: Frames
) -> None:
    sequence = sequence_of(demo_engine, video, Sampling(temperature=temperature))
    logits = torch.zeros(demo_engine.model.lm_head.out_features)
    logits[7] = float(bad)
    with pytest.raises(OverflowedError, match="overflowed"):
        sequence.push(int(sequence.pick(logits)))
    with pytest.raises(OverflowedError, match="overflowed"):
        sequence_of(demo_engine, video, CHOICES).choose((0.5, float(bad), 0.5))


def test_the_likeliest_choice_is_taken_and_the_first_of_equals(demo_engine: Engine, video: Frames) -> None:
    for probabilities, wanted, tokens in (((0.2, 0.5, 0.3), "a dog", 3), ((0.4, 0.2, 0.4), "left", 1)):
        sequence = sequence_of(demo_engine, video, CHOICES)
        sequence.choose(probabilities)
        answer = sequence.answer()
        assert (answer.text, answer.stop_reason, answer.probabilities) == (wanted, "choice", probabilities)
        assert (answer.stats.new_tokens, answer.stats.decode_s) == (tokens, 0.0)


def test_a_sequence_that_begins_anew_has_said_nothing_and_draws_the_same(demo_engine: Engine, video: Frames) -> None:
    sequence = sequence_of(demo_engine, video, Sampling(temperature=1.0, seed=1))
    logits = torch.zeros(demo_engine.model.lm_head.out_features)
    drawn = [int(sequence.pick(logits)) for _ in range(5)]
    sequence.push(40)
    again = sequence.again()
    assert [int(again.pick(logits)) for _ in range(5)] == drawn
    assert [int(sequence.pick(logits)) for _ in range(5)] != drawn
    assert (again.ids, again.first_s, again.was_begun, sequence.was_begun) == ([], None, True, False)
    assert (again.key, again.prompt, sequence.ids) == ("key", sequence.prompt, [40])


@pytest.mark.parametrize("name", [*LOOPS, *HONEST])
def test_a_loop_is_seen_and_other_answers_go_on(name: str) -> None:
    assert is_looping((LOOPS | HONEST)[name]) == (name in LOOPS)


LOGITS = torch.tensor([0.1, 2.0, 1.9, -1.0, 5.0])
CPU = torch.device("cpu")


def draws(sampling: Sampling, banned: tuple[int, ...] = ()) -> list[int]:
    chooser = Sampler(sampling, banned, CPU)
    return [int(chooser.pick(LOGITS)) for _ in range(1000)]


@pytest.mark.parametrize(
    ("sampling", "banned", "drawn"),
    [
        (Sampling(), (), {4}),
        (Sampling(), (4,), {1}),
        (Sampling(temperature=1e-3), (0,), {4}),
        (Sampling(temperature=1e-30), (0,), {4}),
        (Sampling(temperature=5e-324), (0,), {4}),
        (Sampling(temperature=5.0, seed=0), (), {0, 1, 2, 3, 4}),
        (Sampling(temperature=5.0, seed=0), (4,), {0, 1, 2, 3}),
    ],
)
def test_what_is_likely_at_a_temperature_is_drawn_and_a_banned_token_never(
    sampling: Sampling, banned: tuple[int, ...], drawn: set[int]
) -> None:
    assert set(draws(sampling, banned)) == drawn


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1.0, {0, 1, 2}), (0.6, {0, 1}), (0.5, {0}), (0.0, set()), (0.81, {0, 1, 2})]
)
def test_the_nucleus_holds_the_likeliest_that_reach_top_p(top_p: float, kept: set[int]) -> None:
    made = nucleus(torch.tensor([0.5, 0.3, 0.2]), top_p)
    assert set(made.nonzero().flatten().tolist()) == (kept or {0})


@pytest.fixture(scope="module", params=["bytes", "a token of its own"])
def tokenizer(request: pytest.FixtureRequest, published: Path) -> Tokenizer:
    """The demo spells "Ъ" in bytes; the published checkpoint has a token for it."""
    return read_tokenizer(demo.CHECKPOINT if request.param == "bytes" else published)


def streamed(tokenizer: Tokenizer, text: str, *, drops_strays: bool = True) -> Detokenizer:
    """Pushes a text's ids one by one; the text only grows, and `of` says the same of each part."""
    ids = tokenizer.encode(text, has_start=False)
    growing = Detokenizer(tokenizer=tokenizer, drops_strays=drops_strays)
    for count, token in enumerate(ids, 1):
        before = growing.text
        growing.push(token)
        assert growing.text.startswith(before)
        assert facts(Detokenizer.of(tokenizer, ids[:count], drops_strays=drops_strays)) == facts(growing)
    before = growing.text
    growing.rest()
    assert growing.text.startswith(before)
    assert "\N{REPLACEMENT CHARACTER}" not in growing.text
    assert growing.text == tokenizer.decode(growing.ids)
    assert growing.produced == len(ids)
    return growing


def facts(growing: Detokenizer) -> tuple[object, ...]:
    return growing.likely_ids, growing.produced, growing.stray_tokens, growing.is_straying


def test_characters_of_several_tokens_come_whole(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, "Café 日本 🎬 ok").text == "Café 日本 🎬 ok"


@pytest.mark.parametrize(
    ("said", "text", "strays"),
    [
        ("A dog.Ъ", "A dog.", 1),
        ("A dog.Ъ The cat", "A dog. The cat", 1),
        ("Ъ", "", 1),
        ("ЪЪ is", "is", 2),
        ("AЪ dogЪ is here", "A dog is here", 2),
        ("подЪезд", "подЪезд", 0),
        ("подЪ", "подЪ", 0),
        ("подЪЪ is", "подЪЪ is", 0),
        ("Ъгъл", "Ъгъл", 0),
        ("A dog.Ъгъл", "A dog.Ъгъл", 0),
        ("Ъ日", "日", 1),
        ("A dog.", "A dog.", 0),
        ("", "", 0),
    ],
)
def test_a_hard_sign_of_no_word_is_left_out(said: str, text: str, strays: int, tokenizer: Tokenizer) -> None:
    growing = streamed(tokenizer, said)
    assert (growing.text.strip(), growing.stray_tokens) == (text, strays)
    free = streamed(tokenizer, said, drops_strays=False)
    assert (free.text, free.stray_tokens) == (said, 0)


@pytest.mark.parametrize(
    ("said", "is_straying"),
    [
        ("ЪЪЪ", True),
        ("aЪ bЪ cЪ", True),
        ("aЪ bЪ", False),
        ("подЪЪЪЪ", False),
        ("ЪЪ" + "a b c d e f g h" * 3 + "Ъ", False),
    ],
)
def test_three_strays_within_a_few_tokens_are_a_loop(said: str, is_straying: bool, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(said, has_start=False)
    assert Detokenizer.of(tokenizer, ids).is_straying == is_straying


def test_what_may_begin_a_word_waits_for_what_comes_behind_it(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("A dog.Ъ and", has_start=False)
    growing = Detokenizer(tokenizer=tokenizer)
    for token in ids[:-1]:
        growing.push(token)
        assert "Ъ" not in growing.text
    growing.push(ids[-1])
    assert growing.text == "A dog. and"
    assert growing.likely_ids == growing.ids


BYTES = [f"<0x{value:02X}>" for value in (0x0A, 0x20, 0xF0, 0x9F, 0x8E, 0xAC, 0xD0, 0xAA)]
"""Those of a line's end, of an emoji and of "Ъ"."""


@given(data=st.data(), drops_strays=st.booleans())
def test_what_was_streamed_begins_what_is_kept_whatever_the_ids(
    data: st.DataObject, drops_strays: bool, tokenizer: Tokenizer
) -> None:
    """Bytes that make no text take the bytes beside them along: a line's end may become a replacement character."""
    some = st.sampled_from([tokenizer.id_of(byte) or 0 for byte in BYTES])
    ids = data.draw(st.lists(some | st.integers(0, len(tokenizer) + 1), max_size=12))
    growing = Detokenizer(tokenizer=tokenizer, drops_strays=drops_strays)
    for token in ids:
        before = growing.text
        growing.push(token)
        assert growing.text.startswith(before)
        assert tokenizer.decode(growing.ids).startswith(growing.text)
    at_once = Detokenizer.of(tokenizer, ids, drops_strays=drops_strays)
    assert facts(at_once) == facts(growing)
    before = growing.text
    growing.rest()
    assert growing.text.startswith(before)
    at_once.rest()
    assert growing.text == at_once.text == tokenizer.decode(growing.ids)
