"""Finds the clips that the user named: files, folders and the paths on stdin, in the order in which they were given."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from vllava_cli.errors import MediaError, UsageError, os_reason, quoted
from vllava_cli.media.file_check import MEDIA_SUFFIXES, opened_file
from vllava_cli.media.unopened import TEXT_BYTES, is_text
from vllava_cli.nouns import STDIN, counted

MAX_BYTES = 256 << 20
"""The most bytes of paths that are read from stdin: some millions of paths."""
Tell = Callable[[str], None]
_MOST_ENDINGS, _LONGEST_ENDING = 4, 10
"""So many endings of files that were left out are named, none of them longer."""


def paths(
    words: Sequence[str],
    *,
    stdin: BinaryIO | None,
    is_recursive: bool,
    is_null: bool,
    tell: Tell,
    notice: Tell = lambda _: None,
    aside: Sequence[str] = (),
) -> list[str]:
    """Returns the paths of the clips that `words` name; - stands for the paths on stdin.

    A folder becomes the media files in it, sorted; any other path stays as given, whether such a file exists or not.
    `tell` gets a sentence for each folder that has no media files or can't be read, `notice` one for all other files in
    folders, which are left out; not for those with an ending in `aside`, which have another use. Errors: UsageError.
    """
    if words.count(STDIN) > 1:
        raise UsageError("stdin, -, was named more than once: it can be read only once. Name it once.")
    if "" in words:
        raise UsageError("'' is not a path: is a shell variable empty? Name a file or a folder.")
    found: list[str] = []
    left_out: dict[str, Counter[str]] = {}
    for word in words:
        for name in _piped_names(stdin, is_null=is_null) if word == STDIN else (word,):
            if os.path.isdir(name):
                clips, left_out[name] = _clips_in(name, is_recursive, tell)
                for ending in aside:
                    del left_out[name][ending]
                found += clips
            else:
                found.append(name)
    if any(left_out.values()):
        notice(_left_out({folder: endings for folder, endings in left_out.items() if endings}))
    return found


def piped(stdin: BinaryIO | None, example: str) -> BinaryIO:
    """Returns stdin if something is piped into it. Errors: UsageError if not, which shows `example` as the remedy."""
    if stdin is None or stdin.isatty():
        raise UsageError(f"- reads stdin, which is not a pipe here: {example}.")
    return stdin


def _piped_names(stdin: BinaryIO | None, *, is_null: bool) -> list[str]:
    """Reads the paths on stdin, each on a line of its own, or with NUL between them. Errors: UsageError."""
    source = piped(stdin, "find … | vllava batch QUESTION -, or name the files")
    try:
        data = source.read(MAX_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"stdin can't be read: {os_reason(exc)}. Pipe paths into it, one a line.") from exc
    if len(data) > MAX_BYTES:
        most = f"more than {MAX_BYTES >> 20} MiB of paths, the most that is read"
        raise UsageError(f"stdin has {most}. Name the folders that they are in.")
    if is_null:
        return [os.fsdecode(part) for part in data.split(b"\0") if part]
    if b"\0" in data:
        raise UsageError("The paths on stdin have NUL bytes between them: add -0 (--null).")
    lines = (line.removesuffix(b"\r") for line in data.split(b"\n"))
    return [os.fsdecode(line) for line in lines if line]


def _clips_in(folder: str, is_recursive: bool, tell: Tell) -> tuple[list[str], Counter[str]]:
    """Returns the media files in a folder, sorted, and counts the endings of all others; hidden files aren't counted.

    With `is_recursive` the files in the folders below it are among them.

    Each folder is read once, so that a loop of links ends. Its own path is used rather than that of a link to it.
    """
    found: list[str] = []
    others = Counter[str]()
    faults: list[OSError] = []
    waiting, links = [folder], deque[str]()
    seen: set[tuple[int, int]] = set()
    has_inner = False

    def note(exc: OSError) -> None:
        faults.append(exc)
        tell(f"{quoted(Path(here))} can't be read: {os_reason(exc)}. Check the folder, or leave it out.")

    while waiting or links:
        here = waiting.pop() if waiting else links.popleft()
        for _, folders, files in islice(os.walk(here, onerror=note), 1):
            facts = os.stat(here)  # noqa: PTH116
            if (facts.st_dev, facts.st_ino) in seen:
                break
            seen.add((facts.st_dev, facts.st_ino))
            start = os.path.join(here, "")  # noqa: PTH118
            for name in files:
                if not name.startswith("."):
                    found.append(start + name) if _is_clip(start + name) else others.update([_ending(name)])
            inner = sorted(start + name for name in folders if not name.startswith("."))
            has_inner = has_inner or bool(inner)
            for path in inner if is_recursive else ():
                (links if os.path.islink(path) else waiting).append(path)  # noqa: PTH114
    if not found and not faults:
        is_shallow = has_inner and not is_recursive
        remedy = "Add --recursive for the folders in it" if is_shallow else "Name a folder that has some"
        tell(f"{quoted(Path(folder))} has no videos or images in it. {remedy}.")
    # Paths are compared part by part, as if each folder had been sorted: no letter of a name sorts before NUL.
    return sorted(found, key=lambda path: path.replace(os.sep, "\0")), others


def _is_clip(path: str) -> bool:
    """Checks a name's ending, and the first bytes where it may be that of a program in TypeScript.

    A file that can't be read passes; it gets its own sentence later.
    """
    ending = path.lower()
    if not ending.endswith((".ts", ".mts")):
        return ending.endswith(MEDIA_SUFFIXES)
    try:
        with opened_file(Path(path)) as file:
            return not is_text(file.read(TEXT_BYTES))
    except (MediaError, OSError):
        return True


def _ending(name: str) -> str:
    """Returns the ending of a file's name: "a.TXT" → ".txt"; "" if it has none that would tell anybody anything."""
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return ending if ending.isascii() and ending.isprintable() and len(ending) <= _LONGEST_ENDING else ""


def _left_out(endings_of: dict[str, Counter[str]]) -> str:
    """Says how many files of some folders were left out: "3 files of 'clips' were left out: 2 .txt and 1 other."."""
    endings = sum(endings_of.values(), Counter[str]())
    total = endings.total()
    named = sorted((-count, ending) for ending, count in endings.items() if ending)[:_MOST_ENDINGS]
    rest = total + sum(count for count, _ in named)
    parts = ", ".join(f"{-count:,} {ending}" for count, ending in named)
    others = f" and {counted(rest, 'other')}" if rest and named else ""
    where = quoted(Path(*endings_of)) if len(endings_of) == 1 else counted(len(endings_of), "folder")
    were = "was" if total == 1 else "were"
    return f"{counted(total, 'file')} of {where} {were} left out{': ' * bool(named)}{parts}{others}."
