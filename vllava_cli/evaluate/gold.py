"""Understands right answers as benchmarks write them: a choice's text, its letter, or its place. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

GoldForm = Literal["auto", "text", "letter", "place", "place-from-1"]
GOLD_FORMS: tuple[GoldForm, ...] = get_args(GoldForm)
GOLD_KEYS = (
    *("job_answer", "gold", "gt", "ground_truth", "correct_answer", "correct_choice", "answer_id", "answer_idx"),
    *("label", "truth"),
)
"""The first of these that a row has is its right answer; `answer` of a jobs file is "job_answer" in the row."""
_PLACE = re.compile(r"([0-9]{1,9})(?:\.0)?")
"""A place; pandas writes whole numbers as 1.0 where others in their column are missing."""
_LETTER = re.compile(r"\(([A-Za-z])\)\s*(.*)|([A-Za-z])(?:[.:)]\s*(.*))?", re.DOTALL)


def choice_place(value: object, choices: Sequence[str], form: GoldForm = "auto") -> int | None:
    """Returns the place of a right answer among choices, from 0; None if it names none of them.

    With "auto" a number is a place, and a text is a choice, else a letter, else a place: (1, ["1", "2"]) → 1,
    ("2", ["1", "2"]) → 1, ("B", ["red", "blue"]) → 1, ("(B) blue", …) → 1, ("A blue", …) → None.
    """
    text = str(value).strip()
    if form in ("place", "place-from-1") or (form == "auto" and type(value) in (int, float)):
        return _place(text, len(choices), first=1 if form == "place-from-1" else 0)
    if form in ("auto", "text"):
        found = _text_place(text, choices)
        if found is not None or form == "text":
            return found
    found = _letter_place(text, choices)
    return _place(text, len(choices), first=0) if found is None and form == "auto" else found


def is_past_the_end(value: object, choices: Sequence[str], form: GoldForm = "auto") -> bool:
    """True for a number that is no place among the choices, as where places were counted from 1: (2, ["a", "b"])."""
    text = str(value).strip()
    return form != "text" and _PLACE.fullmatch(text) is not None and choice_place(value, choices, form) is None


def golds_of(row: Mapping[str, Any], keys: Sequence[str] = GOLD_KEYS) -> tuple[str | None, tuple[object, ...]]:
    """Returns the field of a row that has its right answer, and all answers that count as right.

    ({"job_answer": ["yes", "yeah"]}) → ("job_answer", ("yes", "yeah")) · ({"answer": "yes"}) → (None, ())
    """
    for key in keys:
        if (value := row.get(key)) is not None and value != "":
            return key, tuple(value) if isinstance(value, list) else (value,)
    return None, ()


def _text_place(text: str, choices: Sequence[str]) -> int | None:
    if text in choices:
        return choices.index(text)
    alike = [place for place, choice in enumerate(choices) if choice.strip().casefold() == text.casefold()]
    return alike[0] if len(alike) == 1 else None


def _letter_place(text: str, choices: Sequence[str]) -> int | None:
    """Reads "B", "(B)", "B." and "B) blue"; a text behind the letter must be that choice."""
    found = _LETTER.fullmatch(text)
    if not found:
        return None
    place = ord((found[1] or found[3]).upper()) - ord("A")
    rest = (found[2] or found[4] or "").strip()
    is_sound = place < len(choices) and (not rest or _text_place(rest, choices) == place)
    return place if is_sound else None


def _place(text: str, count: int, *, first: int) -> int | None:
    found = _PLACE.fullmatch(text)
    place = int(found[1]) - first if found else -1
    return place if 0 <= place < count else None
