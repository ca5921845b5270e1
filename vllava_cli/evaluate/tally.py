"""Keeps of each record the numbers that figures need, in compact columns: a million rows take some ten megabytes."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import lru_cache
from operator import mul
from typing import TYPE_CHECKING, Any

from vllava_cli.batch.rows import value_in
from vllava_cli.evaluate.answer_metrics import Match, match, words_of, yes_or_no
from vllava_cli.evaluate.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_NOTHING = Match(0.0, 0.0, 0.0)
NONE = "(none)"
_PARTS = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)|(\D+)", re.ASCII)


class Kind(IntEnum):
    """The kind of a question; an error of a run whose choices stand nowhere in its row has none."""

    UNKNOWN, CHOICE, OPEN = range(3)


class Said(IntEnum):
    """Tells whether an answer to a question of yes or no says yes, no, or neither."""

    NEITHER, NO, YES = range(3)


_SAID = {None: Said.NEITHER, "no": Said.NO, "yes": Said.YES}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Some rows, as arrays of one length."""

    clips: NDArray[Any]
    """The number of each row's clip, from 0, in the order of their first rows."""
    kind: NDArray[Any]
    is_answered: NDArray[Any]
    has_gold: NDArray[Any]
    """Whether the right answer is known and, with choices, names one of them."""
    exact: NDArray[Any]
    """Whether the answer is right: with choices the right choice, else the same text; from 0 to 1, as the next two."""
    normalised: NDArray[Any]
    word_f1: NDArray[Any]
    chance: NDArray[Any]
    """How often a guess is right."""
    said: NDArray[Any]
    gold_said: NDArray[Any]
    confidence: NDArray[Any]
    """The probability of the answer; NaN where there is none."""
    brier: NDArray[Any]

    def taken(self, places: NDArray[Any]) -> Columns:
        """Returns some of the rows."""
        return Columns(**{each.name: getattr(self, each.name)[places] for each in fields(self)})

    def __len__(self) -> int:
        return len(self.kind)


_MADE_WITH = ("adapter", "fit", "choice_style")
_SETTINGS = ("model", "revision", "precision", *(f"made_with.{name}" for name in _MADE_WITH))
_MOST_SETTINGS = 100


def _settings_of(record: Record) -> tuple[Any, ...]:
    """Returns the values of _SETTINGS as the row has them, None for the style of a question without choices."""
    row, made = record.values, record.values.get("made_with")
    model, revision, precision = row.get("model"), row.get("revision"), row.get("precision")
    if not isinstance(made, dict):
        return model, revision, precision, None, None, None
    adapter, style = made.get("adapter"), made.get("choice_style", "text") if record.choices else None
    return model, revision, precision, str(adapter) if adapter else "", made.get("fit"), style


class Tally:
    """Takes records one after the other."""

    def __init__(self, by: Sequence[str] = ()) -> None:
        self.errors: Counter[str] = Counter()
        self.by = {field: Grouping(field) for field in by}
        self.unclear = 0
        """How many right answers name no choice."""
        self.first_unclear: Record | None = None
        self._clips = array("q")
        self._codes = array("B")
        self._numbers = array("d")
        self._settings: set[tuple[Any, ...]] = set()

    def add(self, record: Record) -> None:
        row, choices, gold = record.values, record.choices, record.gold
        if record.error:
            self.errors[record.error] += 1
        elif len(self._settings) < _MOST_SETTINGS:
            with suppress(TypeError):  # a value that is a list or an object says nothing
                self._settings.add(_settings_of(record))
        if record.is_gold_unclear:
            self.unclear += 1
            self.first_unclear = self.first_unclear or record
        for grouping in self.by.values():
            grouping.add(row)
        kind = Kind.CHOICE if choices else Kind.UNKNOWN if record.error else Kind.OPEN
        has_gold = gold is not None and (record.right is not None or not choices)
        found, gold_said, said, confidence, brier = _NOTHING, Said.NEITHER, Said.NEITHER, float("nan"), 0.0
        if has_gold and gold is not None:
            gold_said = _SAID[_yes_or_no_alone(gold)]
        if record.answer is not None and not record.error:
            if has_gold:
                is_right = float(record.chosen == record.right)
                found = Match(is_right, is_right, is_right) if choices else match(record.answer, record.golds)
            if gold_said:
                said = _SAID[yes_or_no(record.answer)]
            if record.probabilities and record.chosen is not None:
                confidence = record.probabilities[record.chosen]
                if record.right is not None:
                    squares = sum(map(mul, record.probabilities, record.probabilities))
                    brier = squares + 1 - 2 * record.probabilities[record.right]
        self._clips.append(hash(record.path))
        self._codes.extend((kind, not record.error, has_gold, said, gold_said))
        self._numbers.extend((*found, 1 / len(choices) if choices else 0.0, confidence, brier))

    def differing_settings(self) -> list[str]:
        """Returns the fields by which the answers are those of several runs: ["made_with.choice_style"]."""
        columns = zip(*self._settings, strict=True)
        return [name for name, values in zip(_SETTINGS, columns, strict=False) if len({*values} - {None}) > 1]

    def columns(self) -> Columns:
        """Returns all rows so far; errors of unknown kind are of the only kind that the other rows have, else open."""
        import numpy as np

        codes = np.frombuffer(self._codes, np.uint8).reshape(-1, 5).T
        numbers = np.frombuffer(self._numbers, np.float64).reshape(-1, 6).T
        kind = codes[0].copy()
        has_open, has_choice = (kind == Kind.OPEN).any(), (kind == Kind.CHOICE).any()
        kind[kind == Kind.UNKNOWN] = Kind.CHOICE if has_choice and not has_open else Kind.OPEN
        return Columns(
            clips=ranked(np.frombuffer(self._clips, np.int64)),
            kind=kind,
            is_answered=codes[1].astype(bool),
            has_gold=codes[2].astype(bool),
            said=codes[3],
            gold_said=codes[4],
            exact=numbers[0],
            normalised=numbers[1],
            word_f1=numbers[2],
            chance=numbers[3],
            confidence=numbers[4],
            brier=numbers[5],
        )


class Grouping:
    """The groups of rows whose values of a field are equal."""

    def __init__(self, field: str) -> None:
        self.field = field
        self._numbers: dict[str, int] = {}
        self._rows = array("i")

    def add(self, row: Any) -> None:
        self._rows.append(self._numbers.setdefault(_shown(value_in(row, self.field)), len(self._numbers)))

    @property
    def is_missing(self) -> bool:
        """True if no row has the field."""
        return set(self._numbers) <= {NONE}

    def groups(self) -> list[tuple[str, NDArray[Any]]]:
        """Returns the value and the rows of each group, sorted by value as a person would: 2 before 10."""
        import numpy as np

        rows = np.frombuffer(self._rows, np.int32)
        order = np.argsort(rows, kind="stable")
        ends = np.cumsum(np.bincount(rows, minlength=len(self._numbers)))
        parts = np.split(order, ends[:-1])
        return sorted(zip(self._numbers, parts, strict=True), key=lambda group: _natural(group[0]))


def ranked(keys: NDArray[Any]) -> NDArray[Any]:
    """Numbers keys in the order in which they first appear: [9, 4, 9] → [0, 1, 0]."""
    import numpy as np

    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    ranks = np.empty(len(first), np.int64)
    ranks[np.argsort(first)] = np.arange(len(first))
    return ranks[inverse]


@lru_cache(maxsize=4096)
def _yes_or_no_alone(gold: str) -> str | None:
    """Returns yes or no if the right answer is that and nothing more."""
    return yes_or_no(gold) if len(words_of(gold)) == 1 else None


def _shown(value: object) -> str:
    if value is None or value == "":
        return NONE
    return value if isinstance(value, str) else json.dumps(value)


def _natural(text: str) -> tuple[bool, list[tuple[float, str]]]:
    """Returns the sort key of a value: "task 2" before "task 10", 0.5 before 2, and rows without a value at the end."""
    return text == NONE, [(float(number or "inf"), rest) for number, rest in _PARTS.findall(text)]
