"""Finds the subtitle files beside clips; each folder is listed once, and no file is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from vllava_cli.errors import UsageError, quoted
from vllava_cli.nouns import Subs

SUFFIXES = (".srt", ".vtt", ".ass")
"""The endings of subtitle files; where a clip has several, the first ending here wins."""
_LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$")

_Rank = tuple[bool, int, str]


class Sidecars:
    """Finds the file of a clip's subtitles by its name: that of the clip with another ending, or a language before it.

    Of several, the one without a language comes first, then the order of `SUFFIXES`, then that of the names.
    """

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, _Rank]] = {}

    def beside(self, clip: str) -> str | None:
        """Returns the path of the file, beside "a/talk.mp4" for example "a/talk.srt" or "a/talk.en.vtt", else None."""
        folder, name = os.path.split(clip)
        if "://" in clip:
            return None
        if folder not in self._folders:
            self._folders[folder] = _listed(folder)
        found = self._folders[folder].get(name.rpartition(".")[0])
        return clip.removesuffix(name) + found[2] if found else None


def check_apart(file: Path, clips: Iterable[str]) -> None:
    """Raises a UsageError if an output would be taken for the subtitles of a clip: "a/talk.srt" for "a/talk.mp4"."""
    stem = str(file.resolve().with_suffix(""))
    if file.suffix.lower() in SUFFIXES and any(
        str(Path(clip).resolve().with_suffix("")) in (stem, _LANGUAGE.sub("", stem)) for clip in clips
    ):
        raise UsageError(f"--subs auto would read {quoted(file)} as what is spoken. Name another file.")


def finder(subs: Subs | None) -> Callable[[str], str | None] | None:
    """Returns the function that names the subtitle file of a clip; None if no subtitles are read."""
    if isinstance(subs, Path):
        return lambda _: str(subs)
    return Sidecars().beside if subs else None


def _listed(folder: str) -> dict[str, _Rank]:
    """Maps the stem of a clip to the best of its subtitle files in a folder; a folder that can't be listed has none."""
    best: dict[str, _Rank] = {}
    with suppress(OSError), os.scandir(folder or ".") as entries:
        for entry in entries:
            stem, dot, ending = entry.name.rpartition(".")
            if (ending := dot + ending.lower()) not in SUFFIXES:
                continue
            for clip in {stem, _LANGUAGE.sub("", stem)}:
                rank = (clip != stem, SUFFIXES.index(ending), entry.name)
                best[clip] = min(rank, best.get(clip, rank))
    return best
