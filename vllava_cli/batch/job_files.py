"""Clips and questions from a jobs file: which fields name them, which come back in the row, under which name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from vllava_cli.batch.clip_names import ClipNames
from vllava_cli.batch.job_lines import JobRow, Where
from vllava_cli.batch.job_rows import rows
from vllava_cli.batch.jobs import ROW_KEYS, Wanted
from vllava_cli.errors import UsageError, quoted
from vllava_cli.storage.jsonl import BYTES, exact

NAME_KEYS = ("video", "path", "clip", "video_path", "video_name", "gif_name", "video_id")
"""The first of these that a row has names its clip."""
_BENCHMARK_KEYS = ("video_name", "video_id")
_QUESTION = "question"
MOST_SHOWN = 200


def wanted(
    file: Path,
    *,
    stdin: BinaryIO | None,
    videos: Path | None,
    questions: tuple[str, ...],
    notice: Callable[[str], object] = lambda _: None,
) -> Iterator[Wanted]:
    """What each row wants, in order; a row without a question gets each of `questions`.

    Names are looked up in `videos`, else in the file's own folder; what isn't there becomes a path in it all the same.
    `notice` gets a sentence for each field that can't come back. Errors: UsageError for a file that can't be read and
    at the first damaged row.
    """
    names, told = ClipNames(_folder(file, videos)), set[str]()
    for row in map(_exact, rows(file, stdin=stdin)):
        key, name = _name(row)
        asked = _question(row)
        if asked is None and not questions:
            lack = 'its "question" is empty' if _QUESTION in row.values else f'it has {_shown(row)}, but no "question"'
            raise row.where.fault(f"{lack}, and none was given with -Q")
        path = names.path(name, is_of_benchmark=key in _BENCHMARK_KEYS)
        fields, gone = _fields(row.values, {key, _QUESTION})
        for each in sorted(gone - told):
            told.add(each)
            notice(f'vllava: "{each}" in the jobs is left out, because they have "job_{each}" as well.')
        for question in (asked,) if asked is not None else questions:
            yield Wanted(path=path, question=question, fields=fields)


def _exact(row: JobRow) -> JobRow:
    """With names in their own bytes, where the row is one of ours: path_bytes beside path."""
    if not any(key.endswith(BYTES) for key in row.values):
        return row
    try:
        return row._replace(values=exact(row.values))
    except RecursionError as exc:
        raise row.where.fault("it is nested too deeply") from exc


def _folder(file: Path, videos: Path | None) -> str:
    """ "" for the current one."""
    if videos is not None and not os.path.isdir(videos):
        raise UsageError(f"{quoted(videos)} is no folder: name the one that the clips are in with --videos.")
    folder = videos or file.parent
    return "" if folder == Path() else str(folder)


def _name(row: JobRow) -> tuple[str, str]:
    """Which field names the clip, and the name."""
    for key in NAME_KEYS:
        value = row.values.get(key)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise row.where.fault(f'"{key}" is neither a name nor a number')
        return key, _checked_name(str(value), key, row.where)
    raise row.where.fault(f"it names no clip: it has {_shown(row)}, and needs one of {', '.join(NAME_KEYS)}")


def _shown(row: JobRow) -> str:
    """The names of its fields, of very many the first ones: "name, q"."""
    text = ", ".join(row.values)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _checked_name(name: str, key: str, where: Where) -> str:
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError as exc:
        raise where.fault(f'"{key}" has half of a character (a lone surrogate)') from exc
    if b"\0" in encoded:
        raise where.fault(f'"{key}" has a NUL, which no file name can have')
    return name


def _question(row: JobRow) -> str | None:
    """None where the row has none, or an empty one."""
    value = row.values.get(_QUESTION)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise row.where.fault('"question" is not text')
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise row.where.fault('"question" has half of a character (a lone surrogate)') from exc
    return value


def _fields(values: Mapping[str, object], used: set[str]) -> tuple[dict[str, object], set[str]]:
    """All but the used ones, and those that can't come back: their name in the row is another field's.

    What a row says of itself it keeps for itself: "answer" → "job_answer".
    """
    fields, gone = {}, set()
    for key, value in values.items():
        name = f"job_{key}" if key in ROW_KEYS else key
        if key in used:
            continue
        if name != key and name in values:
            gone.add(key)
        else:
            # A million rows have the same few names.
            fields[sys.intern(name)] = value
    return fields, gone
