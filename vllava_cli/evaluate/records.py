"""Reads rows of a batch as records: each an answer, the right answer if it is known, and the fields to group by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

from vllava_cli.batch.jobs import CHOICES
from vllava_cli.batch.rows import PROBABILITIES
from vllava_cli.commands.sheets import check_unread
from vllava_cli.errors import OutputError
from vllava_cli.evaluate.gold import GoldForm, choice_place, golds_of, is_past_the_end
from vllava_cli.evaluate.gold_file import MOST_TRIED, GoldAnswers
from vllava_cli.evaluate.row_files import RowPlace, placed_rows
from vllava_cli.nouns import counted
from vllava_cli.prompt import letters

_LETTERS = tuple(letters(count) for count in range(27))
_TEXTS, _NUMBERS = {str}, {float, int}
_LEAST_SUM, _MOST_SUM = 0.98, 1.02
"""The sums that rounded probabilities may have."""


@dataclass(kw_only=True, slots=True)
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
    golds: tuple[str, ...] = ()
    """All answers that count as right, as the row or the gold file has them; `gold` is the first of them."""
    right: int | None = None
    """The place of the right answer among the choices, from 0; of several the chosen one, if it is among them."""
    error: str | None = None
    """The kind of the error, such as "unreadable"."""
    values: Mapping[str, Any]
    """The whole row."""

    @property
    def is_gold_unclear(self) -> bool:
        """True if the row has a right answer that names none of its choices."""
        return bool(self.choices) and self.gold is not None and self.right is None


def read_records(
    rows: Sequence[Path],
    gold: Path | None = None,
    form: GoldForm = "auto",
    *,
    further: Sequence[str] = (),
    notice: Callable[[str], object] = lambda _: None,
) -> Iterator[Record]:
    """Yields a record for each row of some files, in order; with `gold`, right answers come from that file alone.

    Fields with the names `further` that a row lacks come from the gold file, too.
    `notice` is called with a sentence for each file whose end is torn, and with one about the gold file at the end.
    Errors: OutputError for a row that can't be used; UsageError for a gold file that can't be used.
    """
    placed = placed_rows(rows, notice)
    first = list(islice(placed, MOST_TRIED))
    answers = GoldAnswers(gold, [row for _, row in first], further) if gold and first else None
    for place, row in chain(first, placed):
        yield record_of(row, place, answers, form)
    if answers:
        answers.check(first[0][1])
        notice(
            f"vllava: --gold: by {' and '.join(answers.way.row)}, {counted(answers.matched_rows, 'row')} with a right "
            f"answer, {answers.other_rows:,} without; {counted(answers.unmatched, 'answer')} without a row."
        )


def beside_clips(records: Iterator[Record], output: Path | None) -> Iterator[Record]:
    """Passes records on. Errors: OutputError if the clip of one is the file that is to be written."""
    return _checked(records, output) if output and output.exists() else records


def _checked(records: Iterator[Record], output: Path) -> Iterator[Record]:
    seen: set[str] = set()
    for record in records:
        if record.path not in seen:
            seen.add(record.path)
            check_unread(output, [Path(record.path)])
        yield record


def record_of(
    row: Mapping[str, Any], place: RowPlace, answers: GoldAnswers | None = None, form: GoldForm = "auto"
) -> Record:
    """Makes the record of a row: ({"answer": "B", "choices": ["no", "yes"], …}) → answer "yes", chosen 1.

    Errors: OutputError for a field that can't be used.
    """
    choices, scored, chances = _choices(row, place)
    answer, error = _text(row, "answer", place), _error(row, place)
    path, question = _needed(row, "path", place), _needed(row, "question", place)
    chosen = None
    if choices and answer is not None:
        if answer not in scored:
            _refuse(place, "answer", f"is {answer!r}, which is none of its choices, {', '.join(scored)}")
        chosen = scored.index(answer) % len(choices)
        answer = choices[chosen]
    if answers is None:
        field, values = golds_of(row)
    else:
        answer_of_file, further = answers.of(row)
        field, values = golds_of({"answer": answer_of_file}, ("answer",))
        row = {**further, **row} if further else row
    right = _right(values, field or "", choices, chosen, place, form) if choices and values else None
    golds = tuple(map(str, values))
    return Record(
        file=place.file,
        number=place.number,
        id=row["id"],
        path=path,
        question=question,
        answer=answer,
        choices=choices,
        chosen=chosen,
        probabilities=chances,
        gold=choices[right] if right is not None else golds[0] if golds else None,
        golds=golds,
        right=right,
        error=error or (None if answer is not None else "unknown"),
        values=row,
    )


def _choices(row: Mapping[str, Any], place: RowPlace) -> tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...]]:
    """Returns the texts of the choices, the texts or letters that were compared, and their probabilities."""
    given, chances = row.get(CHOICES), row.get(PROBABILITIES)
    if given is None and chances is None:
        return (), (), ()
    if chances is not None and not isinstance(chances, dict):
        _refuse(place, PROBABILITIES, "is no object of a number for each choice")
    if given is not None and not (isinstance(given, list) and set(map(type, given)) <= _TEXTS):
        _refuse(place, CHOICES, "is no list of texts")
    choices = tuple(chances or ()) if given is None else tuple(given)
    if len(choices) < 2:
        _refuse(place, CHOICES if given else PROBABILITIES, "needs at least two choices")
    if chances is None:
        return choices, (*choices, *_LETTERS[min(len(choices), 26)]), ()
    scored, numbers = tuple(chances), tuple(chances.values())
    if scored not in (choices, _LETTERS[min(len(choices), 26)]):
        _refuse(place, PROBABILITIES, f"has other names than its choices, {', '.join(choices)}")
    if not set(map(type, numbers)) <= _NUMBERS or min(numbers) < 0 or max(numbers) > 1:
        _refuse(place, PROBABILITIES, "has a value that is no number from 0 to 1")
    if not _LEAST_SUM < sum(numbers) < _MOST_SUM:
        _refuse(place, PROBABILITIES, f"sums to {sum(numbers):.3f}, not to 1")
    return choices, scored, numbers


def _text(row: Mapping[str, Any], field: str, place: RowPlace) -> str | None:
    value = row[field]
    if value is not None and not isinstance(value, str):
        _refuse(place, field, "is not text")
    return value


def _needed(row: Mapping[str, Any], field: str, place: RowPlace) -> str:
    text = _text(row, field, place)
    return text if text is not None else _refuse(place, field, "is not text")


def _error(row: Mapping[str, Any], place: RowPlace) -> str | None:
    error = row.get("error")
    if error is None:
        return None
    kind = error.get("kind") if isinstance(error, dict) else None
    if not isinstance(kind, str):
        _refuse(place, "error", "has no kind")
    return kind


def _right(
    values: Sequence[object],
    field: str,
    choices: Sequence[str],
    chosen: int | None,
    place: RowPlace,
    form: GoldForm,
) -> int | None:
    """Returns the place of the right answer, of several the chosen one. Errors: OutputError for a place too large."""
    if form == "auto" and len(values) == 1 and isinstance(values[0], str) and choices.count(values[0]) == 1:
        return choices.index(values[0])  # the same as below, which takes a million rows a second longer
    places = [choice_place(value, choices, form) for value in values]
    for value, found in zip(values, places, strict=True):
        if found is None and is_past_the_end(value, choices, form):
            remedy = "" if form == "place-from-1" else " If they count from 1, give --gold-as place-from-1."
            first = 1 if form == "place-from-1" else 0
            last = len(choices) - 1 + first
            raise OutputError(
                f"{place}: the right answer in {field!r} is {value}, but the places of its choices are {first} to "
                f"{last}.{remedy}"
            )
    known = [found for found in places if found is not None]
    # Two choices with letters may have one text.
    is_right = chosen is not None and choices[chosen] in [choices[found] for found in known]
    return chosen if is_right else known[0] if known else None


def _refuse(place: RowPlace, field: str, fault: str) -> NoReturn:
    raise OutputError(f"{place}: {field!r} {fault}. Correct it in an editor, or leave the row out.")
