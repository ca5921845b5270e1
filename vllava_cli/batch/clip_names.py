"""Finds the clips that the rows of a jobs file name: which field has the name, and which file it is.

A row names a clip by its file's name, by that name without the ending, by the id that a benchmark gives the clip, or by
a path on another machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vllava_cli.batch.clip_tree import ClipTree, Place, stems
from vllava_cli.errors import UsageError, quoted
from vllava_cli.media.remote.policy import scheme_of

if TYPE_CHECKING:
    from vllava_cli.batch.job_readers import JobRow

NAME_KEYS = (
    *("video", "path", "clip", "video_path", "video_name", "gif_name", "videoID", "q_uid", "video_id", "video_file"),
    *("video_filename", "vid_name", "clip_name", "youtube_id", "vid", "video_idx"),
)
"""Fields that may name a clip: in each file it is the first under which at least half of its clips are found."""
_PLAIN_KEYS = ("video", "path", "clip", "video_path", "gif_name", "video_file", "video_filename")
"""The keys whose values are names of files; a benchmark's ids are under the others."""
_ROWS_TRIED = 200
"""So many rows decide which field names the clips of a file."""
_MOST_SHOWN = 200
_REMEDY = "give --videos the one folder that is meant, or write the path into the row"
_KINDS = (ClipTree.files, ClipTree.without_ending, ClipTree.other_endings, ClipTree.picture_folders)
"""How the file of a clip may differ from its name, the likeliest first."""
_joined = os.path.join  # a Path for each of a million jobs costs seconds


class NamedClip(NamedTuple):
    """A row, the key of the field that names its clip, and the clip's path."""

    row: JobRow
    key: str
    path: str


class Match(NamedTuple):
    """The path that a name stands for; if no such file is there, the one that it would have."""

    path: str
    is_found: bool = True
    rival: str = ""
    """What else it may as well be, in the words of a message; then it can't be used."""

    @property
    def is_sure(self) -> bool:
        return self.is_found and not self.rival


@dataclass(frozen=True, kw_only=True)
class FoundClips:
    """Tells which of the clips that a jobs file names were found; clips at URLs aren't counted."""

    folders: tuple[str, ...]
    total: int
    missing: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    """The folders that can't be read, with the reasons."""
    there: tuple[str, ...]
    """The names of the clips in the folders, if none of the wanted ones was found."""


class ClipNames:
    """Finds clips by their names in folders, "" for the current one, and with `is_deep` in the folders within these.

    Each folder is listed only once. Folders within folders are listed when a name isn't found without.
    """

    def __init__(self, *folders: str, is_deep: bool = False) -> None:
        self._folders = folders
        self._trees = [ClipTree(folder, is_deep=is_deep) for folder in folders]
        self._listed = cache(_listed)
        self._known: dict[tuple[str, bool], Match] = {}
        """What was found, by name and `is_of_benchmark`; there are many questions about each clip."""
        self._key: str | None = None
        """The key of the field that names the clips of the file."""
        self._is_last_enough = True
        """Whether the last part of a name tells clips apart: not in 1/video.mp4, 2/video.mp4."""
        self._by_last: dict[str, tuple[str, ...]] = {}
        """The parts of the names that led to a file by their last part alone, by the file's path."""
        self._paths: dict[object, str] = {}
        """The paths of the clips that were found, by the value of that field."""
        self._clips: dict[str, bool] = {}
        """Whether each clip that was named was found."""

    def named(self, rows: Iterable[JobRow]) -> Iterator[NamedClip]:
        """Yields each row with its clip. Errors: UsageError for a row that names no clip, or two."""
        rest = iter(rows)
        first: list[JobRow] = []
        fault: UsageError | None = None
        try:
            for row in islice(rest, _ROWS_TRIED):
                first.append(row)
        except UsageError as exc:  # a later row: those before it may have faults of their own
            fault = exc
        self._decide(first)
        yield from map(self._clip_of, first)
        if fault:
            raise fault
        yield from map(self._clip_of, rest)

    def path(self, name: str, *, is_of_benchmark: bool = False) -> str:
        """Returns the path of the clip with this name; if none is found, the path that it would have in the folder."""
        return self.match(name, is_of_benchmark=is_of_benchmark).path

    def match(self, name: str, *, is_of_benchmark: bool = False) -> Match:
        """Finds the clip with this name: as the name says, then below the folders, then in other spellings."""
        found = self._known.get((name, is_of_benchmark))
        if found is None:
            names = tuple(forms(name)) if is_of_benchmark else (name,)
            found = self._direct(names) or self._below(names) or Match(_joined(self._folders[0], name), is_found=False)
            self._known[name, is_of_benchmark] = found
        return found

    def found(self) -> FoundClips:
        """Returns what was found so far."""
        missing = tuple(name for name, is_found in self._clips.items() if not is_found)
        has_none = missing and len(missing) == len(self._clips)
        there = (name for tree in self._trees for name in tree.clips()) if has_none else ()
        return FoundClips(
            folders=self._folders,
            total=len(self._clips),
            missing=missing,
            there=tuple(there),
            unreadable=tuple(each for tree in self._trees for each in tree.unreadable),
        )

    def _decide(self, rows: Sequence[JobRow]) -> None:
        """Chooses the field that names the clips of a file, by its first rows, and whether names need their folders."""
        given = [dict(_given(row)) for row in rows]
        named = {key: _usable(each.get(key) for each in given) for key in NAME_KEYS}
        self._is_last_enough = not any(map(_are_told_apart_by_folders, named.values()))
        most = 0
        for key, names in named.items():
            found = sum(self._of_key(key, name).is_sure for name in names)
            if found > most:
                self._key, most = key, found
            if found and found * 2 >= len(names):
                return

    def _of_key(self, key: str, name: str) -> Match:
        return self.match(name, is_of_benchmark=key not in _PLAIN_KEYS)

    def _clip_of(self, row: JobRow) -> NamedClip:
        """Finds the clip of a row: by the field that names those of the file or, where it isn't there, by another."""
        value = row.values.get(self._key or "")
        path = self._paths.get(value) if type(value) is str or type(value) is int else None
        if path is not None:
            return NamedClip(row, self._key or "", path)
        key, name = _first(row, self._key)
        match = self._of_key(key, name)
        if not match.is_sure:
            others = ((other, text, self._of_key(other, text)) for other, text in _others(row, key))
            key, name, match = next((each for each in others if each[-1].is_sure), (key, name, match))
        if match.rival:
            raise UsageError(f'{row.where}: "{key}" is {name!r}, {match.rival}.')
        if not ("://" in name and scheme_of(name)):
            self._clips[name] = match.is_found
        if match.is_found and key == self._key:
            self._paths[row.values[key]] = match.path
        return NamedClip(row, key, match.path)

    def _direct(self, names: Sequence[str]) -> Match | None:
        """Finds a name, or a form of it, as it is written, or without its ending."""
        name = names[0]
        if scheme_of(name):
            return Match(name)
        if os.path.isabs(name):  # noqa: PTH117
            return Match(name) if os.path.exists(name) else None
        for form in names:
            inner, last = os.path.split(form)
            for folder in self._folders:
                listed = self._listed(_joined(folder, inner)).get(last)
                if listed:
                    return Match(_joined(folder, inner, listed))
        paths = (_joined(folder, name) for folder in self._folders)  # a folder that can't be listed may have it
        return next((Match(path) for path in paths if os.path.exists(path)), None)

    def _below(self, names: Sequence[str]) -> Match | None:
        """Finds a name by its last parts: as it is written, with another ending, or else in another case."""
        parts = _parts(names[0])
        for kind, lasts in self._tries([_parts(name)[-1] for name in names] if parts else []):
            found = ((tree, place) for tree in self._trees for last in lasts for place in kind(tree, last))
            places = list(dict.fromkeys(found))
            if places and (match := self._nearest(places, parts)):
                return match
        return None

    def _tries(self, lasts: Sequence[str]) -> Iterator[tuple[Callable[[ClipTree, str], list[Place]], Sequence[str]]]:
        """Yields the searches for names of files, each with names that are equally likely; the likeliest first."""
        yield from ((kind, (last,)) for kind, last in product(_KINDS, lasts))
        spelled = dict.fromkeys(each for last in lasts for tree in self._trees for each in tree.spellings(last))
        yield from ((kind, tuple(spelled)) for kind in _KINDS if spelled)

    def _nearest(self, places: Sequence[tuple[ClipTree, Place]], parts: tuple[str, ...]) -> Match | None:
        """Chooses the place that has the most folders of a name, in the first tree that has such a place."""
        inner = parts[:-1]
        shared = [place.shared(inner) if inner else 0 for _, place in places]
        most = max(shared)
        best = [pair for pair, count in zip(places, shared, strict=True) if count == most]
        tree = best[0][0]
        near = [place for its, place in best if its is tree]
        near = [place for place in near if place.folder == tree.root] or near
        path, *others = sorted(place.path for place in near)
        other = next((each for each in others if not _is_same(path, each)), None)
        if not inner or most:
            rival = f"which is {quoted(Path(path))} as well as {quoted(Path(other))}: {_REMEDY}" if other else ""
            return Match(path, rival=rival)
        if other or not self._is_last_enough:
            return None
        before = self._by_last.setdefault(path, parts)
        rival = f"and {'/'.join(before)!r} is another: of both there is only {quoted(Path(path))}: {_REMEDY}"
        return Match(path, rival=rival if _differ(before, parts) else "")


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


def _given(row: JobRow) -> Iterator[tuple[str, object]]:
    """Yields the fields of a row that may name its clip and aren't empty, in the order of `NAME_KEYS`."""
    for key in NAME_KEYS:
        value = row.values.get(key)
        if value is not None and value != "":
            yield key, value


def _first(row: JobRow, wished: str | None) -> tuple[str, str]:
    """Returns the field that names the clip of a row: the wished one if the row has it. Errors: UsageError."""
    value = row.values.get(wished) if wished else None
    key, value = (wished, value) if wished and value not in (None, "") else next(_given(row), ("", None))
    if not key:
        raise row.where.fault(f"it names no clip: it has {shown(row)}, and needs one of {', '.join(NAME_KEYS)}")
    if fault := _fault(value):
        raise row.where.fault(f'"{key}" {fault}')
    return key, str(value)


def _others(row: JobRow, used: str) -> Iterator[tuple[str, str]]:
    """Yields the further names in a row. A number isn't among them: it is rather the place of a row in its file."""
    for key, value in _given(row):
        if key != used and isinstance(value, str) and not value.isdecimal() and not _fault(value):
            yield key, value


def shown(row: JobRow) -> str:
    """Returns the names of a row's fields, "name, q", cut off where they are too long for a message."""
    text = ", ".join(row.values)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _fault(value: object) -> str:
    """Returns what is wrong with a name; "" if nothing is."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return "is neither a name nor a number"
    try:
        os.fsencode(str(value))
    except UnicodeEncodeError:
        return "has half of a character (a lone surrogate)"
    return "has a NUL, which no file name can have" if "\0" in str(value) else ""


def _usable(values: Iterable[object]) -> list[str]:
    """Returns the values that can be names, each once; None is left out."""
    return list(dict.fromkeys(str(value) for value in values if not _fault(value)))


def _parts(name: str) -> tuple[str, ...]:
    """Splits a path of any system into its folders and its file: "C:\\data\\a.mp4" → ("C:", "data", "a.mp4")."""
    return tuple(part for part in re.split(r"[\\/]+", name) if part not in ("", ".", ".."))


def _differ(one: Sequence[str], other: Sequence[str]) -> bool:
    """True if neither of two paths, given by their parts, is the end of the other."""
    return any(first != second for first, second in zip(reversed(one), reversed(other), strict=False))


def _are_told_apart_by_folders(names: Iterable[str]) -> bool:
    """True if two of these paths have the same last part in folders that differ: "1/video.mp4", "2/video.mp4"."""
    seen: dict[str, tuple[str, ...]] = {}
    return any(_differ(seen.setdefault(parts[-1], parts), parts) for name in names if (parts := _parts(name)))


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)  # noqa: PTH121
    except OSError:
        return False


def _listed(folder: str) -> dict[str, str]:
    """Maps each name in a folder to itself, and each clip's name without its ending to the clip: "a" → "a.avi".

    A folder that can't be read counts as empty: each of its clips becomes a row about a missing file.
    """
    try:
        names = os.listdir(folder or os.curdir)  # noqa: PTH208
    except OSError:
        names = []
    return {stem: its[0] for stem, its in stems(names).items()} | {name: name for name in names}
