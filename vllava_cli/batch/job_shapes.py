"""Finds the rows in a JSON document, and the questions in a row that has several. Pure.

a list of rows                       [{…}, {…}]
rows beside other facts              {"annotations": [{…}], "info": {…}}
columns                              {"video": ["a", "b"], "question": ["Who?", "Why?"]}
rows by a name                       {"q1": {…}, "q2": {…}} · {"clip": [{…}, {…}]} · {"clip": {"type": [{…}]}}
questions in a row                   {"video": "a", "qa": [{"q": "Who?", "a": "Ann"}]}, a conversation, Q1 and Q2
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

QUESTION_KEYS = ("question", "Question", "q", "Q", "query")
"""The first of these that a row has with a text is its question."""
ANSWERS = {"q": "a", "Q": "A"}
"""The name of the right answer beside a question of this name; rows have it as "answer"."""
GROUP = "group"
"""The field of a row that stands under two names: the second of them."""
_CONTAINERS = ("annotations", "data", "rows", "samples", "items", "examples")
"""The names of lists of rows; they name no clip."""
_QUESTIONS = ("mc_question", "qa", "QA", "qas", "QAs", "qa_pairs", "question_answers", "questions")
_CONVERSATIONS = ("conversations", "conversation")
_NUMBERED = re.compile(r"[Qq][1-9]")
_TAGS = re.compile("<(?:video|image)>")


def entries(document: Any) -> Iterator[tuple[str, Any]]:
    """Yields the rows of a document, each with the name under which it stands, or "". Errors: ValueError.

    A row may be anything but an object, too, which is a fault that the caller can locate.
    """
    if isinstance(document, list):
        yield from (("", row) for row in document)
        return
    held = [document[name] for name in _CONTAINERS if _is_rows(document.get(name)) or document.get(name) == []]
    if held or not document:
        yield from (("", row) for rows in held[:1] for row in rows)
    elif columns := _columns(document):
        yield from (("", row) for row in columns)
    elif _is_row(document):
        yield "", document
    else:
        lists = [name for name, value in document.items() if _is_rows(value)]
        is_one = len(lists) == 1 < len(document) and not any(map(_has_question, document.values()))
        for name in lists if is_one else document:
            yield from (("" if is_one else name, row) for row in _under(document[name]))


def _under(value: Any) -> Iterator[Any]:
    """Yields the rows that stand under one name."""
    if _is_rows(value):
        yield from value
    elif isinstance(value, dict) and not _is_row(value) and value and all(map(_is_rows, value.values())):
        for group, rows in value.items():
            yield from ({GROUP: group, **row} for row in rows)
    else:
        yield value


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _is_row(value: Mapping[str, Any]) -> bool:
    """True for an object that has a question, several, or nothing but texts and numbers."""
    return _has_question(value) or (
        any(key in value for key in (*_QUESTIONS, *_CONVERSATIONS))
        or not any(isinstance(each, dict | list) for each in value.values())
    )


def _has_question(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(value.get(key), str) for key in QUESTION_KEYS)


def _columns(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of an object of columns, which are lists or, from pandas, objects by row; [] for others.

    Errors: ValueError for columns of different lengths.
    """
    named = next((document[key] for key in QUESTION_KEYS if isinstance(document.get(key), dict | list)), None)
    are_lists = all(isinstance(each, list) for each in document.values())
    is_table = are_lists and not any(isinstance(each, dict) for column in document.values() for each in column[:1])
    if named is None and not is_table:
        return []
    columns = {key: list(each.values()) if isinstance(each, dict) else each for key, each in document.items()}
    length = len(next(iter(columns.values()), []) if named is None else named)
    for key, column in columns.items():
        if not isinstance(column, list) or len(column) != length:
            number = len(column) if isinstance(column, list) else "no"
            raise ValueError(f'the column "{key}" has {number} values instead of {length:,}')
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def with_one_question(values: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Returns a row as rows that have one question each; nearly all have only one, and are returned as they are.

    Of the other fields, those that are texts and numbers are in each of them.
    """
    inner = _inner_keys(tuple(values))
    if not inner or any(values.get(key) for key in QUESTION_KEYS):
        return (values,)
    for key in inner:
        found = _pairs(key, values[key])
        if found:
            around = {name: each for name, each in values.items() if name != key and not isinstance(each, dict | list)}
            return [_joined(around, pair) for pair in found]
    numbered = [key for key in inner if _NUMBERED.fullmatch(key) and isinstance(values[key], str)]
    others = {
        "answer" if name in ANSWERS.values() else name: each for name, each in values.items() if name not in numbered
    }
    return [{**others, key[0]: values[key]} for key in numbered] or (values,)


@lru_cache(maxsize=4096)
def _inner_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Returns those of a row's keys under which it may have questions."""
    known = (*_QUESTIONS, *_CONVERSATIONS)
    return tuple(key for key in keys if key in known or _NUMBERED.fullmatch(key))


def _pairs(key: str, value: Any) -> list[dict[str, Any]]:
    """Returns the questions under a key with their fields; [] if there are none."""
    if not isinstance(value, list):
        return []
    if key in _CONVERSATIONS:
        return _turns(value)
    if all(isinstance(each, dict) and any(name in each for name in QUESTION_KEYS) for each in value):
        return value
    if all(isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) for each in value):
        return [{"question": question, "answer": answer} for question, answer in value]
    return [{"question": each} for each in value] if all(isinstance(each, str) for each in value) else []


def _turns(turns: list[Any]) -> list[dict[str, Any]]:
    """Returns the questions of a conversation as LLaVA's files have them, each with the answer that follows it."""
    spoken = [(each.get("from"), each.get("value")) for each in turns if isinstance(each, dict)]
    return [
        {"question": _TAGS.sub("", text).strip(), **({"answer": answer} if who == "gpt" else {})}
        for (speaker, text), (who, answer) in pairwise((*spoken, ("", None)))
        if speaker == "human" and isinstance(text, str)
    ]


def _joined(around: Mapping[str, Any], pair: Mapping[str, Any]) -> dict[str, Any]:
    """Joins the fields of a row and those of one of its questions; where both have a name, the row's is outer_NAME."""
    return {f"outer_{name}" if name in pair else name: each for name, each in around.items()} | dict(pair)
