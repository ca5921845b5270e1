"""Clips and questions from a jobs file: the fields that name them, those that come back in the row, and clips' paths.

A name stands for the file itself, for one with an ending added, or for one of a benchmark's forms.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vllava_cli.batch.job_rows import JobRow, Location, rows
from vllava_cli.batch.jobs import ROW_KEYS, JobRequest
from vllava_cli.errors import UsageError, quoted
from vllava_cli.media.file_check import VIDEO_SUFFIXES
from vllava_cli.media.remote.policy import scheme_of
from vllava_cli.storage.jsonl import BYTES, exact

NAME_KEYS = ("video", "path", "clip", "video_path", "video_name", "gif_name", "video_id")
"""The first of these that a row has names its clip."""
_BENCHMARK_KEYS = ("video_name", "video_id")
_QUESTION = "question"
MOST_SHOWN = 200
_RANKS = {suffix: rank for rank, suffix in enumerate((*VIDEO_SUFFIXES, ".gif"))}


def requests_in(
    file: Path,
    *,
    stdin: BinaryIO | None,
    videos: Path | None,
    questions: tuple[str, ...],
    notice: Callable[[str], object] = lambda _: None,
) -> Iterator[JobRequest]:
    """Yields the requests of each row, in order; a row without a question gets each of `questions`.

    Names are looked up in `videos`, else in the file's own folder; what isn't there becomes a path in it all the same.
    `notice` gets a sentence for each field that can't come back. Errors: UsageError for a file that can't be read and
    at the first damaged row.
    """
    names, reported = ClipNames(_folder(file, videos)), set[str]()
    for row in map(_exact, rows(file, stdin=stdin)):
        key, name = _name(row)
        asked = _question(row)
        if asked is None and not questions:
            lack = 'its "question" is empty' if _QUESTION in row.values else f'it has {_shown(row)}, but no "question"'
            raise row.where.fault(f"{lack}, and none was given with -Q")
        path = names.path(name, is_of_benchmark=key in _BENCHMARK_KEYS)
        fields, gone = _fields(row.values, {key, _QUESTION})
        for each in sorted(gone - reported):
            reported.add(each)
            notice(f'vllava: "{each}" in the jobs is left out, because they have "job_{each}" as well.')
        for question in (asked,) if asked is not None else questions:
            yield JobRequest(path=path, question=question, fields=fields)


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
    """Finds the field that names the clip, and returns it with the name."""
    for key in NAME_KEYS:
        value = row.values.get(key)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise row.where.fault(f'"{key}" is neither a name nor a number')
        if b"\0" in _encoded(str(value), key, row.where):
            raise row.where.fault(f'"{key}" has a NUL, which no file name can have')
        return key, str(value)
    raise row.where.fault(f"it names no clip: it has {_shown(row)}, and needs one of {', '.join(NAME_KEYS)}")


def _shown(row: JobRow) -> str:
    """The names of its fields, of very many the first ones: "name, q"."""
    text = ", ".join(row.values)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _encoded(text: str, key: str, where: Location) -> bytes:
    try:
        return os.fsencode(text) if key != _QUESTION else text.encode()
    except UnicodeEncodeError as exc:
        raise where.fault(f'"{key}" has half of a character (a lone surrogate)') from exc


def _question(row: JobRow) -> str | None:
    """None where the row has none, or an empty one."""
    value = row.values.get(_QUESTION)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise row.where.fault('"question" is not text')
    _encoded(value, _QUESTION, row.where)
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


class _Listing(NamedTuple):
    names: frozenset[str]
    by_stem: dict[str, str]
    """The clip that a name without an ending stands for: "vid1305" → "vid1305.avi"."""


class ClipNames:
    """Looks names up in a folder, "" being the current one; each folder is listed once for all names."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._listings: dict[str, _Listing] = {}
        self._known: dict[tuple[str, bool], str] = {}
        """Paths by names, those of a benchmark apart: there are many questions about each clip."""

    def path(self, name: str, *, is_of_benchmark: bool = False) -> str:
        """The path of a clip; where none is found, the name in the folder, as if it were there."""
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
        listing = self._listings.get(folder)
        if listing is None:
            listing = self._listings[folder] = _listed(folder)
        found = last if last in listing.names else listing.by_stem.get(last)
        return _joined(folder, found) if found else None


def forms(name: str) -> Iterator[str]:
    """The names that a benchmark's files have for a clip, the likeliest first.

    "1QIUV7WYKXg" → itself, "v_1QIUV7WYKXg" (ActivityNet-QA) · "7010" → itself, "v_7010", "video7010" (MSRVTT-QA),
    "vid7010" (MSVD-QA)
    """
    inner, last = os.path.split(name)
    yield name
    yield _joined(inner, f"v_{last}")
    if last.isascii() and last.isdecimal():
        yield _joined(inner, f"video{last}")
        yield _joined(inner, f"vid{last}")


def _listed(folder: str) -> _Listing:
    """Empty where the folder can't be read: its clips are missing then, one by one."""
    try:
        names = frozenset(os.listdir(folder or os.curdir))  # noqa: PTH208
    except OSError:
        names = frozenset()
    by_stem: dict[str, str] = {}
    for name in sorted(names, key=_rank, reverse=True):
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() in _RANKS:
            by_stem[stem] = name
    return _Listing(names, by_stem)


def _rank(name: str) -> tuple[int, str]:
    """The likelier ending comes first; of two that differ in nothing but case, always the same one."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return _RANKS.get(suffix, len(_RANKS)), name


def _joined(folder: str, name: str) -> str:
    return os.path.join(folder, name) if folder else name  # noqa: PTH118
