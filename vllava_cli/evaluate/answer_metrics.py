"""Compares an open answer with right ones: exactly, normalised, and by their words; finds yes and no. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_APOSTROPHES = re.compile("['\u2019`]")
_WORD = re.compile(r"\w+")
_ARTICLES = ("a", "an", "the")
_COUNTS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_DIGITS = {word: str(number) for number, word in enumerate(_COUNTS)}


class Match(NamedTuple):
    """How well an answer agrees with the best of some right ones, each from 0 to 1."""

    exact: float
    normalised: float
    word_f1: float


@lru_cache(maxsize=1 << 16)
def words_of(text: str) -> tuple[str, ...]:
    """Returns the words of a text in lower case, without punctuation and articles, and numbers up to 20 as digits.

    "The man's two dogs." → ("mans", "2", "dogs"); a text of articles alone keeps them.
    """
    words = [_DIGITS.get(word, word) for word in _WORD.findall(_APOSTROPHES.sub("", text.casefold()))]
    return tuple(word for word in words if word not in _ARTICLES) or tuple(words)


@lru_cache(maxsize=1 << 16)
def match(answer: str, golds: tuple[str, ...]) -> Match:
    """Compares an answer with the right ones: each figure is that of the right answer that fits best."""
    found = words_of(answer)
    return Match(
        exact=float(answer.strip() in [gold.strip() for gold in golds]),
        normalised=float(found in [words_of(gold) for gold in golds]),
        word_f1=max(word_f1(found, words_of(gold)) for gold in golds),
    )


def word_f1(found: Sequence[str], gold: Sequence[str]) -> float:
    """Returns the harmonic mean of the shares of words in common: (["red", "ball"], ["ball"]) → 0.667.

    A word counts as often as both have it; two texts without words agree.
    """
    if not found or not gold:
        return float(not found and not gold)
    common = sum((Counter(found) & Counter(gold)).values())
    return 2 * common / (len(found) + len(gold))


def yes_or_no(text: str) -> str | None:
    """Returns the first word of an answer if it is yes or no: "Yes, it does." → "yes", "I see no dog." → None."""
    first = words_of(text)[:1]
    return first[0] if first in (("yes",), ("no",)) else None
