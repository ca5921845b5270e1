"""Makes job requests of the rows of a jobs file: their questions, their fields, and the paths of the clips they name.

A row names a clip by its file's name, by that name without the ending, or by the id that a benchmark gives the clip;
in a JSON object of rows, the name under which a row stands may be that of its clip.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import BinaryIO

from vllava_cli.batch.job_fields import Known, choices_of, known_keys, window_of
from vllava_cli.batch.job_readers import JobRow, rows
from vllava_cli.batch.job_shapes import ANSWERS
from vllava_cli.batch.jobs import CHOICES, ROW_KEYS, WINDOW_KEYS, JobRequest
from vllava_cli.errors import UsageError, quoted
from vllava_cli.media.file_check import VIDEO_SUFFIXES
from vllava_cli.media.remote.policy import scheme_of
from vllava_cli.storage.jsonl import BYTES, exact

NAME_KEYS = ("video", "path", "clip", "video_path", "video_name", "gif_name", "video_id")
"""The first of these that a row has names its clip."""
_BENCHMARK_KEYS = ("video_name", "video_id")
_QUESTION = "question"
_KEY = "key"
"""The field with the name under which a JSON object has a row that names its clip itself."""
MOST_SHOWN = 200
_joined = os.path.join  # a Path for each of a million jobs costs seconds
_RANKS = {suffix: rank for rank, suffix in enumerate((*VIDEO_SUFFIXES, ".gif"))}


def requests_in(
    file: Path,
    *,
    stdin: BinaryIO | None,
    videos: Path | None,
    questions: tuple[str, ...],
    has_letters: bool = False,
    notice: Callable[[str], object] = lambda _: None,
) -> Iterator[JobRequest]:
    """Yields the requests of each row, in order; a row without a question gets each of `questions`.

    Clips are looked up in `videos`, or else in the folder of the jobs file; a clip that isn't found still gets a path
    in that folder. With `has_letters` two options of a row may be equal. `notice` is called with a sentence for each
    field that can't be copied into the rows. Errors: UsageError for a file that can't be read and for the first damaged
    row.
    """
    names, reported = ClipNames(_folder(file, videos)), set[str]()
    seen: dict[tuple[str, ...], tuple[str, ...]] = {}
    """The choices of all rows: where many rows have the same ones, they are in memory once."""
    for row in map(_exact, rows(file, stdin=stdin, notice=notice)):
        key, name = _name(row)
        known = known_keys(tuple(row.values))
        asked, text_key = _question(row, known)
        if asked is None and not questions:
            lack = f'its "{text_key}" is empty' if text_key else f'it has {_shown(row)}, but no "question"'
            raise row.where.fault(f"{lack}, and none was given with -Q")
        path = names.path(name, is_of_benchmark=key in _BENCHMARK_KEYS)
        choices, option_keys = choices_of(row, known, has_letters=has_letters)
        window, time_keys = window_of(row, known)
        fields, gone = _fields(
            _answered(row, key, text_key),
            {key, _QUESTION, text_key, *option_keys, *time_keys},
            (*((CHOICES,) if choices else ()), *(WINDOW_KEYS if window else ())),
        )
        for each in sorted(gone - reported):
            reported.add(each)
            notice(f'vllava: "{each}" in the jobs is left out, because they have "job_{each}" as well.')
        choices = seen.setdefault(choices, choices)
        for question in (asked,) if asked is not None else questions:
            yield JobRequest(path=path, question=question, fields=fields, choices=choices, window=window)


def _exact(row: JobRow) -> JobRow:
    """Restores names that aren't UTF-8 if vllava wrote the row: path_bytes beside path holds their bytes."""
    if not any(key.endswith(BYTES) for key in row.values):
        return row
    try:
        return row._replace(values=exact(row.values))
    except RecursionError as exc:
        raise row.where.fault("it is nested too deeply") from exc


def _folder(file: Path, videos: Path | None) -> str:
    """Returns the folder of the clips, "" for the current one. Errors: UsageError if `videos` isn't a folder."""
    if videos is not None and not os.path.isdir(videos):
        raise UsageError(f"{quoted(videos)} is not a folder: give --videos the folder that the clips are in.")
    folder = videos or file.parent
    return "" if folder == Path() else str(folder)


def _name(row: JobRow) -> tuple[str, str]:
    """Returns the key of the field that names the clip, and the name. Errors: UsageError."""
    for key in NAME_KEYS:
        value = row.values.get(key)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise row.where.fault(f'"{key}" is neither a name nor a number')
        row.where.check_text(str(value), key, os.fsencode)
        if "\0" in str(value):
            raise row.where.fault(f'"{key}" has a NUL, which no file name can have')
        return key, str(value)
    if row.where.key:
        return "", row.where.key
    raise row.where.fault(f"it names no clip: it has {_shown(row)}, and needs one of {', '.join(NAME_KEYS)}")


def _shown(row: JobRow) -> str:
    """Returns the names of a row's fields, "name, q", cut off where they are too long for a message."""
    text = ", ".join(row.values)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


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


def _answered(row: JobRow, name_key: str, text_key: str) -> Mapping[str, object]:
    """Returns the fields of a row: the right answer "A" of a question "Q" is "answer", as in most files.

    If the row names its clip itself, the name under which it stands becomes a field.
    """
    answer = ANSWERS.get(text_key, "")
    if answer in row.values and "answer" not in row.values:
        values = {"answer" if key == answer else key: value for key, value in row.values.items()}
    else:
        values = row.values
    return {_KEY: row.where.key, **values} if name_key and row.where.key and _KEY not in values else values


def _fields(
    values: Mapping[str, object], used: Collection[str], own: Collection[str]
) -> tuple[dict[str, object], set[str]]:
    """Returns the fields to copy into the row of the result, without the `used` ones, and the keys of those left out.

    The keys of a result's own fields are renamed: "answer" → "job_answer". Those in `own` are its own in this row
    alone. If there is a "job_answer" already, "answer" is left out.
    """
    fields, gone = {}, set()
    for key, value in values.items():
        name = f"job_{key}" if key in ROW_KEYS or key in own else key
        if key in used:
            continue
        if name != key and name in values:
            gone.add(key)
        else:
            # Interned, because a million rows have the same few names.
            fields[sys.intern(name)] = value
    return fields, gone


class ClipNames:
    """Finds clips by their names in a folder, "" for the current one; each folder is listed only once."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._listed = cache(_listed)
        self._known: dict[tuple[str, bool], str] = {}
        """The paths that were found, by name and `is_of_benchmark`; there are many questions about each clip."""

    def path(self, name: str, *, is_of_benchmark: bool = False) -> str:
        """Returns the path of the clip with this name; if none is found, the path that it would have in the folder."""
        path = self._known.get((name, is_of_benchmark))
        if path is None:
            found = filter(None, map(self._found, forms(name) if is_of_benchmark else (name,)))
            path = self._known[name, is_of_benchmark] = next(found, None) or _joined(self._folder, name)
        return path

    def _found(self, name: str) -> str | None:
        if os.path.isabs(name) or scheme_of(name):  # noqa: PTH117
            return name
        inner, last = os.path.split(name)
        folder = _joined(self._folder, inner)
        found = self._listed(folder).get(last)
        return _joined(folder, found) if found else None


def forms(name: str) -> Iterator[str]:
    """Yields the names that a clip's file may have in a benchmark, the likeliest first.

    "1QIUV7WYKXg" → itself, "v_1QIUV7WYKXg" (ActivityNet-QA) · "7010" → itself, "v_7010", "video7010" (MSRVTT-QA),
    "vid7010" (MSVD-QA)
    """
    inner, last = os.path.split(name)
    yield name
    yield _joined(inner, f"v_{last}")
    if last.isascii() and last.isdecimal():
        yield _joined(inner, f"video{last}")
        yield _joined(inner, f"vid{last}")


def _listed(folder: str) -> dict[str, str]:
    """Maps each name in a folder to itself, and each clip's name without its ending to the clip: "a" → "a.avi".

    A folder that can't be read counts as empty: each of its clips becomes a row about a missing file.
    """
    try:
        names = os.listdir(folder or os.curdir)  # noqa: PTH208
    except OSError:
        names = []
    by_stem: dict[str, str] = {}
    for name in sorted(names, key=_rank, reverse=True):
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() in _RANKS:
            by_stem[stem] = name
    return by_stem | {name: name for name in names}


def _rank(name: str) -> tuple[int, str]:
    """Returns the sort key of a file name: the likelier ending first, then the name, so that the order is fixed."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return _RANKS.get(suffix, len(_RANKS)), name
