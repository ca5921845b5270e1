"""Understands right answers as benchmarks write them: a choice's text, its letter, or its place. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence


def choice_place(value: object, choices: Sequence[str]) -> int | None:
    """Returns the place of a right answer among choices, from 0; None if it names none of them.

    A text that is a choice comes first, then a letter, then a place: ("2", ["1", "2"]) → 1, ("B", ["red", "blue"]) → 1,
    ("(B) blue", …) → 1, (1, …) → 1.
    """
    text = str(value).strip()
    if text in choices:
        return choices.index(text)
    if found := re.fullmatch(r"\(?([A-Za-z])\)?[.:)]?(?:\s.*)?", text, re.DOTALL):
        place = ord(found[1].upper()) - ord("A")
        return place if place < len(choices) else None
    return int(text) if text.isdecimal() and int(text) < len(choices) else None
