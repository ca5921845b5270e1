"""Words are parted as a shell does it, a written name comes back as one word, and a mistyped one is understood."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllava_cli.commands.chat.parser import quoted, split

WORDS = [
    ("", []),
    ("  a.mp4   b.mp4 ", ["a.mp4", "b.mp4"]),
    (r"my\ clip.mp4", ["my clip.mp4"]),
    ("'my clip.mp4' \"it's.mp4\"", ["my clip.mp4", "it's.mp4"]),
    (r"""'it'\''s.mp4'""", ["it's.mp4"]),
    (r'"a \"b\" \d"', [r'a "b" \d']),
    (r"'a \ b'", [r"a \ b"]),
    (r"\(1\)\'\~", ["(1)'~"]),
    ("''", [""]),
    ("'open quote", ["open quote"]),
    ('"open \\"', ['open "']),
    ("open\\", ["open"]),
    ("~/a '~/b' \\~c", [os.path.expanduser("~/a"), "~/b", "~c"]),  # noqa: PTH111
    ("~no-such-user/a", ["~no-such-user/a"]),
]


@pytest.mark.parametrize(("line", "words"), WORDS)
def test_words_are_parted(line: str, words: list[str]) -> None:
    assert [word.text for word in split(line)] == words


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1))
def test_every_name_comes_back(name: str) -> None:
    (word,) = split(quoted(name))
    assert word.text.removeprefix("./") == name.removeprefix("./")
    assert not word.is_open
    assert not word.raw.startswith("--")
