"""Makes job requests of the rows of a jobs file: their questions, their fields, and the paths of the clips they name.

A row names a clip by its file's name, by that name without the ending, or by the id that a benchmark gives the clip;
in a JSON object of rows, the name under which a row stands may be that of its clip.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from vllava_cli.batch.clip_names import NAME_KEYS, ClipNames, FoundClips, shown
from vllava_cli.batch.job_fields import Known, choices_of, known_keys, window_of
from vllava_cli.batch.job_readers import JobRow, Location, rows
from vllava_cli.batch.job_shapes import ANSWERS
from vllava_cli.batch.jobs import ROW_KEYS, JobRequest
from vllava_cli.errors import UsageError, quoted
from vllava_cli.nouns import counted
from vllava_cli.storage.jsonl import BYTES, exact

_QUESTION = "question"
_KEY = "key"
"""The field with the name under which a JSON object has a row that names its clip itself."""
_NAME = "video_name"


def requests_in(
    file: Path,
    *,
    stdin: BinaryIO | None,
    videos: Sequence[Path],
    questions: tuple[str, ...],
    has_letters: bool = False,
    unused: dict[str, str] | None = None,
    notice: Callable[[str], object] = lambda _: None,
    on_found: Callable[[FoundClips], object] = lambda _: None,
) -> Iterator[JobRequest]:
    """Yields the requests of each row, in order; a row without a question gets each of `questions`.

    Clips are looked up in `videos`, or else in the folder of the jobs file; a clip that isn't found still gets a path
    in the first folder. With `has_letters` two options of a row may be equal. `unused` gets the names that fields have
    in the rows of the output, with those that they have in the file. `notice` is called with a sentence for each field
    that can't be copied and one about equal rows, and `on_found` in the end with what was found. Errors: UsageError for
    a file that can't be read and for the first damaged row.
    """
    names, reported, unused = _clip_names(file, videos), set[str](), {} if unused is None else unused
    seen: dict[tuple[str, ...], tuple[str, ...]] = {}
    """The choices of all rows: where many rows have the same ones, they are in memory once."""
    equals = _Equals()
    found = map(_keyed, map(_exact, rows(file, stdin=stdin, notice=notice)))
    for row, key, path in names.named(found):
        known = known_keys(tuple(row.values))
        asked, text_key = _question(row, known)
        if asked is None and not questions:
            lack = f'its "{text_key}" is empty' if text_key else f'it has {shown(row)}, but no "question"'
            raise row.where.fault(f"{lack}, and none was given with -Q")
        choices, option_keys = choices_of(row, known, has_letters=has_letters)
        window, time_keys = window_of(row, known)
        fields, gone = _fields(
            answered(row.values, text_key),
            {key, _QUESTION, text_key, *option_keys, *time_keys},
        )
        for each in sorted(gone - reported):
            reported.add(each)
            notice(f'vllava: "{each}" in the jobs is left out, because they have "job_{each}" as well.')
        if not unused.keys() >= fields.keys():
            unused.update((name, name if name in row.values else name.removeprefix("job_")) for name in fields)
        choices = seen.setdefault(choices, choices)
        equals.add(row, (path, asked, choices, window), fields)
        for question in (asked,) if asked is not None else questions:
            yield JobRequest(path=path, question=question, fields=fields, choices=choices, window=window)
    if equals.count:
        again = counted(equals.count, "row")
        notice(f"vllava: {again} equal to an earlier one, the first at {equals.first}. Each is answered.")
    on_found(names.found())


class _Equals:
    """Counts the rows that are equal to earlier ones, so that a file that was joined with itself is noticed."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Location | None = None
        self._seen: set[int] = set()

    def add(self, row: JobRow, about: tuple[object, ...], fields: Mapping[str, object]) -> None:
        """Compares a row by what it is about and its other fields."""
        try:
            mark = hash((about, repr(fields)))
        except RecursionError:  # deeper than Python can write, so it is left out of the count
            return
        if mark in self._seen:
            self.count, self.first = self.count + 1, self.first or row.where
        self._seen.add(mark)


def _exact(row: JobRow) -> JobRow:
    """Restores names that aren't UTF-8 if vllava wrote the row: path_bytes beside path holds their bytes."""
    if not any(key.endswith(BYTES) for key in row.values):
        return row
    try:
        return row._replace(values=exact(row.values))
    except RecursionError as exc:
        raise row.where.fault("it is nested too deeply") from exc


def _keyed(row: JobRow) -> JobRow:
    """Makes a field of the name under which a row stands: that of its clip if no other field names one, or "key"."""
    if not row.where.key:
        return row
    names_itself = any(row.values.get(key) not in (None, "") for key in NAME_KEYS)
    return row._replace(values={_KEY if names_itself else _NAME: row.where.key, **row.values})


def _clip_names(file: Path, videos: Sequence[Path]) -> ClipNames:
    """Returns what finds the clips: in `videos`, or beside the jobs file. Errors: UsageError for what is no folder."""
    for folder in videos:
        if not os.path.isdir(folder):
            raise UsageError(f"{quoted(folder)} is not a folder: give --videos the folder that the clips are in.")
    folders = ["" if folder == Path() else str(folder) for folder in videos or (file.parent,)]
    return ClipNames(*folders, is_deep=bool(videos))


def _question(row: JobRow, known: Known) -> tuple[str | None, str]:
    """Returns the question of a row, None if it is missing or empty, and its key, "" if there is none.

    Errors: UsageError.
    """
    empty = ""
    for key in known.questions:
        value = row.values[key]
        if isinstance(value, str) and value.strip():
            row.where.check_text(value, key)
            return value, key
        if key == _QUESTION and value is not None and not isinstance(value, str):
            raise row.where.fault(f'"{key}" is not text')
        empty = empty or key
    return None, empty


def answered(values: Mapping[str, object], text_key: str) -> Mapping[str, object]:
    """Returns the fields of a row: the right answer "A" of a question "Q" is "answer", as in most files."""
    answer = ANSWERS.get(text_key, "")
    if answer not in values or "answer" in values:
        return values
    return {"answer" if key == answer else key: value for key, value in values.items()}


def _fields(values: Mapping[str, object], used: Collection[str]) -> tuple[dict[str, object], set[str]]:
    """Returns the fields to copy into the row of the result, without the `used` ones, and the keys of those left out.

    The keys of a result's own fields are renamed: "answer" → "job_answer". If there is a "job_answer" already, "answer"
    is left out.
    """
    fields, gone = {}, set()
    for key, value in values.items():
        name = f"job_{key}" if key in ROW_KEYS else key
        if key in used:
            continue
        if name != key and name in values:
            gone.add(key)
        else:
            # Interned, because a million rows have the same few names.
            fields[sys.intern(name)] = value
    return fields, gone
