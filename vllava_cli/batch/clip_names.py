"""What the names in a jobs file stand for: the file itself, one with an ending added, one of a benchmark's forms."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vllava_cli.media.files import VIDEO_SUFFIXES
from vllava_cli.media.remote.policy import scheme_of

_RANKS = {suffix: rank for rank, suffix in enumerate((*VIDEO_SUFFIXES, ".gif"))}


class _Listing(NamedTuple):
    names: frozenset[str]
    by_stem: dict[str, str]
    """The clip that a name without an ending stands for: "vid1305" → "vid1305.avi"."""


class ClipNames:
    """Looks names up in a folder, "" being the current one; each folder is listed once for all names."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._listings: dict[str, _Listing] = {}
        self._known: tuple[dict[str, str], dict[str, str]] = ({}, {})
        """Paths by names, those of a benchmark apart: there are many questions about each clip."""

    def path(self, name: str, *, is_of_benchmark: bool = False) -> str:
        """The path of a clip; where none is found, the name in the folder, as if it were there."""
        known = self._known[is_of_benchmark]
        if name not in known:
            known[name] = self._path(forms(name) if is_of_benchmark else (name,)) or _joined(self._folder, name)
        return known[name]

    def _path(self, names: Iterable[str]) -> str | None:
        """Of the first that is there."""
        return next(filter(None, map(self._found, names)), None)

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
