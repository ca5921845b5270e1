"""The text of an answer while its ids arrive: whole characters, and no stray letters."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllava_cli import demo
from vllava_cli.engine.sequence import Detokenizer
from vllava_cli.engine.tokens import Tokenizer, read_tokenizer


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
    before = growing.text
    growing.rest()
    assert growing.text.startswith(before)
    at_once = Detokenizer.of(tokenizer, ids, drops_strays=drops_strays)
    assert facts(at_once) == facts(growing)
    at_once.rest()
    assert growing.text == at_once.text == tokenizer.decode(growing.ids)
