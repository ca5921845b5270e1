"""Reads what a row says about its question: the text, the options to choose from, and the part of the clip.

A field that has one of the known names but a value of another kind isn't used, or it is refused where the row would
become a question without its options. Which of a row's fields may have a meaning is found once for all rows that have
the same fields.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import count, takewhile
from string import ascii_uppercase
from typing import Any, NamedTuple

from vllava_cli.batch.job_readers import JobRow
from vllava_cli.batch.job_shapes import QUESTION_KEYS
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Window
from vllava_cli.times import time_of

OPTION_LISTS = ("choices", "candidates", "options", "option")
TIME_PAIRS = (
    *(("start", "end"), ("start_s", "end_s"), ("start_time", "end_time"), ("start_sec", "end_sec")),
    *(("start_timestamp", "end_timestamp"), ("question_start", "question_end"), ("begin", "end")),
)
TIME_SPANS = ("ts", "segment", "span", "time", "timestamps", "timestamp")
MOST_CHOICES = 8
_ONE_OF_MANY = (
    re.compile("(option|choice|candidate|answer_choice|opt)[ _-]?([0-9A-H])", re.IGNORECASE),
    re.compile("(a)_?([0-9])"),
    re.compile("()([A-H])"),
)
"""The names of fields with an option each: option 0, answer_choice_0, optionA, a0, A."""
_OPTION_TEXTS = ("choice", "option", "text", "content", "value", "answer")
"""The name of an option's text, where an option is an object; the first that it has counts."""
_NOT_THERE = ("", "N/A")
"""What an option says that a question doesn't have; N/A stands in LongVideoBench."""
_LETTERED = re.compile(r"(?:\(([A-H])\)|([A-H])[.):])\s*(.+)", re.DOTALL)
_ITEMS = re.compile(r"""\[(?:\s*+(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|[0-9.+-]++)\s*+,?+)*+\s*+\]""", re.DOTALL)
"""A list of texts and numbers. Nothing is tried twice (`*+`), so that a long text that isn't one takes no longer."""
_ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[0-9.+-]+""", re.DOTALL)
_TO = re.compile(r"\s*(?:-|\u2013|\bto\b)\s*")
_LONGEST_SPAN, _LARGEST_S = 200, 1e300
_COMMA = re.compile(r"\s*,\s*|\s+")


class Known(NamedTuple):
    """Holds the keys of a row that may have a meaning, each kind in the order in which they are tried."""

    questions: tuple[str, ...]
    lists: tuple[str, ...]
    families: tuple[tuple[str, ...], ...]
    """Keys that have an option each."""
    times: tuple[tuple[str, str], ...]
    spans: tuple[str, ...]


@lru_cache(maxsize=4096)
def known_keys(keys: tuple[str, ...]) -> Known:
    """Returns the known ones of a row's keys."""
    families: dict[str, dict[str, str]] = {}
    for key in keys:
        for form in _ONE_OF_MANY:
            if found := form.fullmatch(key):
                families.setdefault(found[1].lower(), {})[found[2].upper()] = key
                break
    times = [(pair, sum(key in keys for key in pair)) for pair in TIME_PAIRS]
    return Known(
        questions=tuple(key for key in QUESTION_KEYS if key in keys),
        lists=tuple(key for key in OPTION_LISTS if key in keys),
        families=tuple(family for family in map(_in_order, families.values()) if len(family) > 1),
        times=tuple(pair for pair, found in sorted(times, key=lambda each: -each[1]) if found),
        spans=tuple(key for key in TIME_SPANS if key in keys),
    )


def _in_order(members: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns values by their keys, from 0, 1 or A on without a gap: {"B": "y", "A": "x"} → ("x", "y")."""
    for ends in (map(str, count()), map(str, count(1)), ascii_uppercase):
        if found := tuple(members[end] for end in takewhile(members.__contains__, ends)):
            return found
    return ()


def choices_of(row: JobRow, known: Known, *, has_letters: bool) -> tuple[tuple[str, ...], Sequence[str]]:
    """Returns the options of a row, without letters in front, and the keys that have them; () twice if it has none.

    With `has_letters` two options may be equal. Errors: UsageError, also for a list in the place of options that isn't
    options, if the row has no others.
    """
    strange = ""
    for key in known.lists:
        value = _literal(row.values[key])
        if texts := _texts(value):
            return _checked(texts, row, key, has_letters=has_letters), (key,)
        if isinstance(value, list) and texts is None:
            strange = strange or key
    for family in known.families:
        texts = _texts([row.values[key] for key in family]) or []
        while texts and texts[-1] in _NOT_THERE:
            texts.pop()
        if texts:
            return _checked(texts, row, family[0], has_letters=has_letters), family
    if strange:
        raise row.where.fault(f'"{strange}" is a list, but not of texts or numbers to choose from')
    return (), ()


def _texts(value: Any) -> list[str] | None:
    """Returns the texts of options, without empty ones at the end; None for a value that isn't options.

    Options are a list of texts or numbers, a list of objects that have them, or an object that has them by letter or
    number.
    """
    if isinstance(value, dict):
        members = {str(key).upper(): each for key, each in value.items()}
        value = list(_in_order(members))
        if len(value) < len(members):
            return None
    if not isinstance(value, list):
        return None
    if value and all(isinstance(each, dict) for each in value):
        value = [next((each[key] for key in _OPTION_TEXTS if key in each), []) for each in value]
    if any(isinstance(each, dict | list | bool) for each in value):
        return None
    texts = ["" if each is None else str(each).strip() for each in value]
    while texts and not texts[-1]:
        texts.pop()
    return texts


def _literal(value: Any) -> Any:
    """Reads a list or an object that stands in a text, as tables have it; any other value stays.

    As JSON: '["a", "b"]', as Python writes it: "['a', 'b']", or as numpy does: "['a' 'b']".
    """
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        if _ITEMS.fullmatch(value.strip()):  # ast would join 'a' 'b' to one text
            return [ast.literal_eval(item) for item in _ITEM.findall(value)]
        return ast.literal_eval(value.strip())
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return value


def _checked(texts: Sequence[str], row: JobRow, key: str, *, has_letters: bool) -> tuple[str, ...]:
    """Takes letters off that stand in front of all options in order. Errors: UsageError for options that can't be."""
    found = tuple(texts)
    if not 2 <= len(found) <= MOST_CHOICES:
        have = "one option" if len(found) == 1 else f"{len(found)} options"
        raise row.where.fault(f'"{key}" has {have}, and a choice has 2 to {MOST_CHOICES}')
    if found[0].startswith(("(", "A")):
        parts = [_LETTERED.fullmatch(text) for text in found]
        if [part and (part[1] or part[2]) for part in parts] == list(ascii_uppercase[: len(found)]):
            found = tuple(part[3].strip() for part in parts if part)
    for place, text in enumerate(found):
        if not text:
            raise row.where.fault(f'option {place + 1} of "{key}" is empty')
        if text in found[:place] and not has_letters:
            raise row.where.fault(
                f'"{key}" has the option {text!r} twice, which only --choice-style letter tells apart'
            )
        row.where.check_text(text, key)
    return found


def window_of(row: JobRow, known: Known) -> tuple[Window | None, Sequence[str]]:
    """Returns the part of the clip that a row asks about, and the keys that say it; None for the whole clip.

    A part without a start begins with the clip, and one without an end ends with it. Errors: UsageError.
    """
    missing: list[str] = []
    for pair in known.times:
        values = [row.values.get(key) for key in pair]
        if any(isinstance(value, dict | list) for value in values):
            continue
        found = _part(values, pair, row)
        if found:
            return found, (*missing, *(key for key in pair if key in row.values))
        missing += [key for key in pair if key in row.values]
    for key in known.spans:
        ends = _ends(row.values[key])
        if ends and (found := _part(ends, (key, key), row)):
            return found, (*missing, key)
    return None, missing


def _part(values: Sequence[Any], keys: tuple[str, str], row: JobRow) -> Window | None:
    """Makes the part between two times; None where both are missing or NaN. Errors: UsageError."""
    if all(value is None or str(value).strip().lower() in ("", "nan") for value in values):
        return None
    start_s, end_s = (_seconds(value, key, row) for value, key in zip(values, keys, strict=True))
    if end_s is not None and end_s <= (start_s or 0.0):
        raise row.where.fault(f'"{keys[1]}" ends at {end_s:g} s, which is not after its start at {start_s or 0.0:g} s')
    return Window(start_s=start_s or 0.0, end_s=math.inf if end_s is None else end_s)


def _seconds(value: Any, key: str, row: JobRow) -> float | None:
    """Reads a time: 62.5, "62.5", "1:02.5", "00:01:02,500"; None for a missing one. Errors: UsageError."""
    if value is None or value == "":
        return None
    if type(value) in (int, float) and 0 <= value < _LARGEST_S:
        return float(value)
    try:
        return time_of(str(value).strip().replace(",", "."))
    except UsageError as exc:
        raise row.where.fault(f'"{key}" has {value!r}, which is no time in seconds or as h:m:s') from exc


def _ends(value: Any) -> Sequence[Any]:
    """Returns the two times in a value, [12.3, 45.6], "12.3-45.6" or "[12.3, 45.6]"; () for any other value."""
    if isinstance(value, str) and len(value) <= _LONGEST_SPAN:
        text = value.strip().strip("[]()")
        value = next((parts for form in (_TO, _COMMA) if len(parts := form.split(text)) == 2), ())
    is_pair = isinstance(value, list) and len(value) == 2
    return value if is_pair and all(map(_is_like_a_time, value)) else ()


def _is_like_a_time(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch("[0-9:.,]+|nan|", value, re.IGNORECASE) is not None
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
