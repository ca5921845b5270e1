"""Reads rows of a batch as records: each an answer, the right answer if it is known, and the fields to group by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllava_cli.batch.jobs import CHOICES
from vllava_cli.batch.rows import PROBABILITIES
from vllava_cli.evaluate.gold import choice_place
from vllava_cli.prompt import letters
from vllava_cli.storage.jsonl import read_rows

GOLD_KEYS = ("job_answer", "gold", "correct_answer", "correct_choice", "answer_id", "label", "truth")
"""The first of these that a row has is its right answer; `answer` of a jobs file is "job_answer" in the row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row: an answer or an error, beside the right answer."""

    file: str
    number: int
    """The line of the row in its file, from 1."""
    id: str
    path: str
    question: str
    answer: str | None
    """The text that was answered; with choices the text of the chosen one, not its letter. None for an error."""
    choices: tuple[str, ...] = ()
    """The texts of the choices, without letters; empty for an open question."""
    chosen: int | None = None
    """The place of the answer among the choices, from 0."""
    probabilities: tuple[float, ...] = ()
    gold: str | None = None
    """The right answer as text; None where it isn't known."""
    right: int | None = None
    """The place of the right answer among the choices, from 0."""
    error: str | None = None
    """The kind of the error, such as "unreadable"."""
    values: Mapping[str, Any]
    """The whole row."""


def read_records(rows: Sequence[Path], gold: Path | None = None) -> Iterator[Record]:  # noqa: ARG001
    """Yields a record for each row of some files, in order. Errors: OutputError, UsageError."""
    for file in rows:
        for number, row in enumerate(read_rows(file), 1):
            yield record_of(row, str(file), number)


def record_of(row: Mapping[str, Any], file: str, number: int) -> Record:
    """Makes the record of a row: ({"answer": "B", "choices": ["no", "yes"], …}) → answer "yes", chosen 1."""
    chances: Mapping[str, float] = row.get(PROBABILITIES) or {}
    choices = tuple(row.get(CHOICES) or chances)
    answer, error = row.get("answer"), row.get("error")
    scored = tuple(chances) or choices or letters(len(choices))
    chosen = scored.index(answer) if choices and answer in scored else None
    value = next((row[key] for key in GOLD_KEYS if row.get(key) is not None), None)
    right = choice_place(value, choices) if choices and value is not None else None
    return Record(
        file=file,
        number=number,
        id=row["id"],
        path=row["path"],
        question=row["question"],
        answer=answer if chosen is None else choices[chosen],
        choices=choices,
        chosen=chosen,
        probabilities=tuple(chances.values()),
        gold=choices[right] if right is not None else None if value is None else str(value),
        right=right,
        error=error["kind"] if error else None,
        values=row,
    )
