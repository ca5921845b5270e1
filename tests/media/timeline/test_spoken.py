"""Which lines belong to a part of a clip, where a text may be cut, and what is said in it."""

from __future__ import annotations

import math

import pytest

from vllava_cli.media.timeline.spoken import matches, sentence_ends, span_of, text_of, unrolled, within, word_ends
from vllava_cli.nouns import Framing, SpokenLine


def said(*lines: tuple[float, float, str]) -> list[SpokenLine]:
    return [SpokenLine(start_s=start_s, end_s=end_s, text=text) for start_s, end_s, text in lines]


LINES = said((1, 2, "a"), (2, 4, "b"), (3, 3, "c"), (5, 6, "d"))


@pytest.mark.parametrize(
    ("start_s", "end_s", "texts"),
    [
        (0, math.inf, "a b c d"),
        (0, 1, ""),
        (0, 1.001, "a"),
        (2, 3, "b"),
        (1.999, 2, "a"),
        (3, 4, "b c"),
        (3.5, 5, "b"),
        (4, 5, ""),
        (5.9, 5.95, "d"),
    ],
)
def test_a_line_belongs_to_each_part_that_it_overlaps_and_is_whole_there(
    start_s: float, end_s: float, texts: str
) -> None:
    assert text_of(within(LINES, start_s, end_s)) == texts


@pytest.mark.parametrize(
    ("framing", "texts"),
    [
        (Framing(), "a b c d"),
        (Framing(start_s=2), "b c d"),
        (Framing(end_s=2), "a"),
        (Framing(start_s=2, end_s=3), "b"),
        (Framing(at_s=(2.5,)), "b"),
        (Framing(at_s=(5, 1)), "a b c d"),
    ],
)
def test_what_a_framing_shows_decides_which_lines_are_heard(framing: Framing, texts: str) -> None:
    assert text_of(within(LINES, *span_of(framing))) == texts


ROLLED = {
    "two rows roll": (
        ["one two", "one two\nthree four", "three four\nfive", "five"],
        ["one two", "three four", "five"],
    ),
    "a row grows": (["so", "so it", "so it is"], ["so", "it", "is"]),
    "several words end one and begin the next": (["x a b c", "a b c y"], ["x a b c", "y"]),
    "two words may be said twice": (["x a b", "a b y"], ["x a b", "a b y"]),
    "nothing repeats": (["No!", "No way."], ["No!", "No way."]),
}


@pytest.mark.parametrize("name", ROLLED)
def test_words_that_stay_on_the_screen_are_said_once(name: str) -> None:
    given, told = ROLLED[name]
    assert [line.text for line in unrolled(said(*((i, i + 1, text) for i, text in enumerate(given))))] == told


def test_words_that_are_shown_again_after_a_pause_are_said_again() -> None:
    lines = said((0, 1, "so it is"), (1.2, 2, "so it is"), (2.05, 3, "so it is"))
    assert unrolled(lines) == lines[:2]


def test_sentences_end_at_their_marks_and_words_at_blanks() -> None:
    text = 'It is 3.5 m. "No?" Well… \u3053\u3093\u306b\u3061\u306f\u3002\u306f\u3044'
    assert [text[:end].split()[-1] for end in sentence_ends(text)][:3] == ["m.", '"No?"', "Well…"]
    assert text[sentence_ends(text)[3] :] == "\u306f\u3044"
    assert word_ends("a bc  d.") == [1, 4, 8]


@pytest.mark.parametrize(
    ("query", "is_said"),
    [
        ("cafe RED", True),
        ("Café", True),
        ("the café isn't", True),
        ("ca fe", False),
        ("red green", False),
        ("isn", False),
        ("?!", False),
        ("\u72ac", True),
        ("\u732b", False),
        ("STRASSE", True),
    ],
)
def test_a_query_is_said_if_each_of_its_words_is(query: str, is_said: bool) -> None:
    lines = said((0, 1, "The Café"), (1, 2, "isn't red. \u72ac\u304c\u8d70\u308b Straße"))
    assert matches(query, lines) is is_said
