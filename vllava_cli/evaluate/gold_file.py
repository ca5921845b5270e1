"""Reads a file of right answers, and finds that of a row: by an id that both have, or by the clip and the question."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vllava_cli.batch.clip_names import NAME_KEYS
from vllava_cli.batch.job_files import answered
from vllava_cli.batch.job_readers import ENDINGS, MAX_LIST_BYTES, JobRow, rows
from vllava_cli.batch.job_shapes import QUESTION_KEYS
from vllava_cli.errors import UsageError, quoted
from vllava_cli.evaluate.gold import GOLD_KEYS
from vllava_cli.evaluate.row_files import can_read_again
from vllava_cli.media.file_check import MEDIA_SUFFIXES
from vllava_cli.storage.files import as_output_error

ID_KEYS = ("id", "question_id", "qid", "q_uid", "uid", "key")
ANSWER_KEYS = ("answer", *GOLD_KEYS)
_CLIP_KEYS = ("videoID", *NAME_KEYS, "vid")
_CLIP, _QUESTION, _KEY = "the clip's name", "question", "key"
MOST_TRIED = 1000
"""How many rows decide by which fields answers are found."""


class _Way(NamedTuple):
    """The fields whose values are equal in an answer of the file and in its row."""

    gold: tuple[str, ...]
    row: tuple[str, ...]


class GoldAnswers:
    """The right answers of a file, by the fields that they have in common with the rows."""

    def __init__(self, file: Path, first_rows: Sequence[Mapping[str, Any]], further: Sequence[str] = ()) -> None:
        """Chooses the common fields by some first rows; those of the names `further` are kept beside the answers.

        Errors: UsageError for a file that can't be read or fits no row.
        """
        self.file = file
        self._further = further
        self._values: list[Any] = []
        self._others: list[Mapping[str, Any]] = []
        """The further fields of each of `_values`; empty if there are none to keep."""
        self._places: dict[object, int] = {}
        """The place of an answer in `_values`, by the values of the common fields."""
        if not can_read_again(file):
            raise UsageError(f"--gold is read more than once, and {quoted(file)} can't be. Save it to a file first.")
        if file.suffix.lower() not in ENDINGS:
            raise UsageError(f"--gold {quoted(file)} has an unknown ending: give one of {', '.join(ENDINGS)}.")
        example = next(_answers(file), None)
        if example is None:
            raise UsageError(f"--gold {quoted(file)} has no answers. Name the file that has them.")
        self._key = next((key for key in ANSWER_KEYS if key in example), "")
        if not self._key:
            raise UsageError(
                f"--gold {quoted(file)} has no field with the right answer: it has {', '.join(example)}. "
                f"Call the field answer."
            )
        self.way = self._chosen(example, first_rows)
        self._was_matched = bytearray(len(self._values))
        self.matched_rows = self.other_rows = 0
        """How many rows have an answer here, and how many have none."""

    @property
    def unmatched(self) -> int:
        """How many answers of the file belong to no row."""
        return self._was_matched.count(0)

    def of(self, row: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """Returns the right answer of a row as the file has it, and its further fields; None if the file has none."""
        place = self._places.get(_value_of(row, self.way.row))
        if place is None:
            self.other_rows += 1
            return None, {}
        self.matched_rows += 1
        self._was_matched[place] = 1
        return self._values[place], self._others[place] if self._others else {}

    def check(self, row: Mapping[str, Any]) -> None:
        """Raises a UsageError if no row has an answer in the file; `row` is one of the rows."""
        if not self.matched_rows:
            raise self._misfit(next(_answers(self.file), {}), row)

    def _chosen(self, example: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> _Way:
        """Returns the fields by which most of the rows have an answer; of equal ones the first."""
        best, most, usable, doubt = None, -1, 0, ""
        for way in _ways(example, rows[0] if rows else {}):
            places, values, others, twice = self._read(way)
            if twice:
                doubt = f" Two of its answers have the same {' and '.join(way.gold)}, {twice}."
                continue
            usable += 1
            found = sum(_value_of(row, way.row) in places for row in rows)
            if found > most:
                best, most = way, found
                self._places, self._values, self._others = places, values, others
            if found == len(rows):
                break
        if best is None:
            raise self._misfit(example, rows[0] if rows else {}, doubt)
        return best

    def _read(self, way: _Way) -> tuple[dict[object, int], list[Any], list[Mapping[str, Any]], str]:
        """Returns the places, the answers and their further fields.

        Instead of an error, the last is the value that two unequal answers have in common.
        """
        places: dict[object, int] = {}
        values: list[Any] = []
        others: list[Mapping[str, Any]] = []
        for each in _answers(self.file):
            value, answer = _value_of(each, way.gold), each.get(self._key)
            if value is None or answer is None or answer == "":
                continue
            place = places.setdefault(value, len(values))
            if place == len(values):
                values.append(answer)
                if self._further:
                    others.append({key: each[key] for key in self._further if key in each})
            elif values[place] != answer:
                return {}, [], [], value if isinstance(value, str) else " and ".join(value)
        return places, values, others, ""

    def _misfit(self, gold: Mapping[str, Any], row: Mapping[str, Any], doubt: str = "") -> UsageError:
        return UsageError(
            f"--gold {quoted(self.file)} fits no row: its answers have {', '.join(gold)}; the rows have "
            f"{', '.join(row)}.{doubt} Answers are found by one of {', '.join(ID_KEYS)}, or by the clip's name and the "
            f"question."
        )


def _ways(gold: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[_Way]:
    """Yields the fields that an answer and a row have in common, the surest first."""
    own = {"id": ("job_id", "id")}
    ids = [(key, name) for key in ID_KEYS if key in gold for name in own.get(key, (key,)) if name in row]
    if _KEY in gold:
        ids += [(_KEY, name) for key in ID_KEYS for name in own.get(key, (key,)) if name in row]
    yield from (_Way((key,), (name,)) for key, name in ids)
    if _KEY in gold:
        yield _Way((_KEY,), (_CLIP,))
    if any(key in gold for key in (*_CLIP_KEYS, _KEY)):
        yield from (_Way((_CLIP, key), (_CLIP, name)) for key, name in ids if name != "id")
        if _QUESTION in gold:
            yield _Way((_CLIP, _QUESTION), (_CLIP, _QUESTION))


def _value_of(row: Mapping[str, Any], fields: tuple[str, ...]) -> str | tuple[str, ...] | None:
    """Returns the values of some fields as text; None if the row lacks one."""
    found = [clip_key(row) if field == _CLIP else row.get(field) for field in fields]
    if any(value is None for value in found):
        return None
    texts = tuple(" ".join(str(value).split()) for value in found)
    return texts[0] if len(texts) == 1 else texts


def clip_key(row: Mapping[str, Any]) -> str | None:
    """Returns a clip's name without folder, ending and the letters that benchmarks' files have before a number.

    {"path": "clips/video7010.mp4"} → "7010" · {"video_id": 7010} → "7010" · {"video_name": "v_1QIU"} → "1QIU"
    """
    keys = (*_CLIP_KEYS, _KEY)
    name = row.get("path") or next((row[key] for key in keys if row.get(key) not in (None, "")), None)
    if name is None:
        return None
    last = str(name).rstrip("/").rpartition("/")[2]
    stem, suffix = os.path.splitext(last)  # noqa: PTH122
    stem = (stem if suffix.lower() in MEDIA_SUFFIXES else last).removeprefix("v_")
    number = stem.removeprefix("video").removeprefix("vid")
    return number if number.isdecimal() else stem


def _answers(file: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the objects of the file; of one object that maps ids to answers, {"key": …, "answer": …} for each."""
    pairs = _pairs(file) if file.suffix.lower() == ".json" else None
    if pairs is not None:
        yield from ({_KEY: key, "answer": value} for key, value in pairs.items())
    else:
        yield from map(_plain, rows(file, stdin=None))


def _plain(row: JobRow) -> Mapping[str, Any]:
    """Returns the fields of an answer; those of the question and the answer have these names, as rows of a batch have.

    The name under which an object has it is the field "key".
    """
    values: dict[str, Any] = {_KEY: row.where.key, **row.values} if row.where.key else row.values
    asked = next((key for key in QUESTION_KEYS if isinstance(values.get(key), str)), _QUESTION)
    return answered(values if asked == _QUESTION else {**values, _QUESTION: values[asked]}, asked)


def _pairs(file: Path) -> dict[str, Any] | None:
    """Reads a JSON object whose values are texts or numbers; None for any other file."""
    with as_output_error(file, "read", error=UsageError), file.open("rb") as source:
        if not source.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return None
        source.seek(0)
        data = source.read(MAX_LIST_BYTES + 1)
    try:
        found = json.loads(data.decode("utf-8-sig")) if len(data) <= MAX_LIST_BYTES else None
    except (ValueError, RecursionError):
        return None
    is_plain = isinstance(found, dict) and all(isinstance(value, str | int) for value in found.values())
    return found if is_plain else None
