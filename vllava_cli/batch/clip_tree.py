"""Lists what is below a folder of clips, once, and finds clips there by name, by another ending and in any case.

Hidden files and folders are left out. A folder is listed once, whatever links lead to it, so that a loop of links ends.
"""

from __future__ import annotations

import os
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

from vllava_cli.errors import os_reason
from vllava_cli.media.file_check import IMAGE_SUFFIXES, RARE_IMAGE_SUFFIXES, RARE_VIDEO_SUFFIXES, VIDEO_SUFFIXES

_RANKS = {suffix: rank for rank, suffix in enumerate((*VIDEO_SUFFIXES, ".gif"))}
_MOVING = (*VIDEO_SUFFIXES, *RARE_VIDEO_SUFFIXES, ".gif", ".webp")
_PICTURES = (*IMAGE_SUFFIXES, *RARE_IMAGE_SUFFIXES)


class Place(NamedTuple):
    """A file or a folder, by the folder that it is in and its name there."""

    folder: str
    name: str

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.name)  # noqa: PTH118

    def shared(self, folders: Sequence[str]) -> int:
        """Counts the folders next above it that are the last of `folders`: x/test/a.mp4, ["data", "test"] → 1."""
        own = self.folder.split(os.sep)  # noqa: PTH206  (a Path for each of a million clips costs seconds)
        pairs = zip(reversed(own), reversed(folders), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class ClipTree:
    """Searches the files below a folder, "" for the current one; without `is_deep` only those directly in it.

    Nothing is read before the first search.
    """

    def __init__(self, root: str, *, is_deep: bool) -> None:
        self.root, self._is_deep = root, is_deep
        self.unreadable: list[tuple[str, str]] = []
        """The folders that can't be read, which count as empty, with the reasons."""

    def files(self, name: str) -> list[Place]:
        """Finds the files with this name."""
        return [Place(folder, name) for folder in self._listed[0].get(name, ())]

    def without_ending(self, stem: str) -> list[Place]:
        """Finds the clips whose name without its ending is this one; in each folder the one with the likeliest."""
        found: dict[str, Place] = {}
        for name in self._by_stem.get(stem, ()):
            for folder in self._listed[0][name]:
                found.setdefault(folder, Place(folder, name))
        return list(found.values())

    def other_endings(self, name: str) -> list[Place]:
        """Finds the clips that have another ending than the video of this name: "a.mp4" → a.mkv."""
        stem = _stem(name)
        return [] if stem == name else self.without_ending(stem)

    def picture_folders(self, name: str) -> list[Place]:
        """Finds the folders of pictures with the name of a video, be it with its ending or without."""
        places = [Place(folder, each) for each in (name, _stem(name)) for folder in self._listed[1].get(each, ())]
        return [place for place in dict.fromkeys(places) if _has_pictures(place.path)]

    def spellings(self, name: str) -> list[str]:
        """Returns the names here, with and without endings, that are this one if case and accents' forms are equal."""
        return sorted({each for key in (name, _stem(name)) for each in self._by_folded.get(_folded(key), ())})

    def clips(self) -> list[str]:
        """Returns the names of all videos and pictures, sorted."""
        return sorted(name for name in self._listed[0] if name.lower().endswith((*_MOVING, *_PICTURES)))

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return stems(self._listed[0])

    @cached_property
    def _by_folded(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for names in (*self._listed, self._by_stem):
            for name in names:
                found.setdefault(_folded(name), set()).add(name)
        return found

    @cached_property
    def _listed(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Maps each name of a file, and each of a folder, to the folders that it is in."""
        files: dict[str, list[str]] = {}
        folders: dict[str, list[str]] = {}
        waiting, links = [self.root], deque[str]()
        seen: set[tuple[int, int]] = set()
        while waiting or links:
            # A folder's own path is used rather than that of a link to it, so links wait until the rest is listed.
            here = waiting.pop() if waiting else links.popleft()
            inner: list[str] = []
            try:
                facts = os.stat(here or os.curdir)  # noqa: PTH116
                if (facts.st_dev, facts.st_ino) in seen:
                    continue
                seen.add((facts.st_dev, facts.st_ino))
                for entry in _visible(here):
                    if _is_folder(entry):
                        folders.setdefault(entry.name, []).append(here)
                        inner.append(entry.name)
                    else:
                        files.setdefault(entry.name, []).append(here)
            except OSError as exc:
                self.unreadable.append((here, os_reason(exc)))
            for name in sorted(inner) if self._is_deep else ():
                path = Place(here, name).path
                (links if os.path.islink(path) else waiting).append(path)  # noqa: PTH114
        return files, folders


def stems(names: Iterator[str] | Sequence[str] | dict[str, list[str]]) -> dict[str, list[str]]:
    """Maps the names of clips without their endings to them, the likeliest ending first: "a" → ["a.mp4", "a.avi"]."""
    found: dict[str, list[str]] = {}
    for name in sorted((name for name in names if _suffix(name) in _RANKS), key=_rank):
        found.setdefault(name[: -len(_suffix(name))], []).append(name)
    return found


def _rank(name: str) -> tuple[int, str]:
    """Returns the sort key of a clip's name: the likelier ending first, then the name, so that the order is fixed."""
    return _RANKS[_suffix(name)], name


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def _stem(name: str) -> str:
    """Returns a name without its ending if it is that of a video; else the name itself."""
    suffix = _suffix(name)
    return name[: -len(suffix)] if suffix in _MOVING else name


def _folded(name: str) -> str:
    """Returns a name in lower case, with each accent joined to its letter: macOS stores the two one after the other."""
    return unicodedata.normalize("NFC", name).casefold()


def _visible(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder or os.curdir) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _has_pictures(folder: str) -> bool:
    try:
        return any(entry.name.lower().endswith(_PICTURES) for entry in _visible(folder))
    except OSError:
        return False
