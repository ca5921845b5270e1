"""What Tab offers: commands, their options and values, turns, topics and files. Nothing inside a question.

Pure but for the listing of one folder, of which only the first names are looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vllava_cli.commands.chat.manual import BY_NAME, COMMANDS, Command
from vllava_cli.commands.chat.quoting import Word, quoted, split
from vllava_cli.commands.chat.settings import HELP, VALUES
from vllava_cli.media.files import MEDIA_SUFFIXES
from vllava_cli.screen import clean

MOST_LISTED = 5_000
MOST_OFFERED = 500
META_COLUMNS = 40


@dataclass(frozen=True, kw_only=True)
class Completion:
    """`text` replaces the last `start` characters before the cursor; `shown` and `meta` are what the menu has."""

    text: str
    start: int
    shown: str
    meta: str = ""


def completions(text_before_cursor: str, *, questions: Sequence[str], folder: Path) -> list[Completion]:
    """What can be meant at the cursor; relative paths begin at `folder`."""
    line = text_before_cursor
    if not line.startswith("/") or "\n" in line:
        return []
    name, space, rest = line.partition(" ")
    if not space:
        names = [(name, command) for command in COMMANDS for name in (command.name, *command.others)]
        return [_named(name, command, line) for name, command in names if f"/{name}".startswith(line)]
    command = BY_NAME.get(name[1:])
    return _of_arguments(command, rest, questions=questions, folder=folder) if command else []


def _named(name: str, command: Command, typed: str) -> Completion:
    space = " " if command.arguments or command.options else ""
    return Completion(text=f"/{name}{space}", start=len(typed), shown=f"/{name}", meta=command.help)


def _of_arguments(command: Command, rest: str, *, questions: Sequence[str], folder: Path) -> list[Completion]:
    before, word = _at_cursor(rest)
    asked = command.option(before[-1].plain) if before else None
    if asked and asked.value:
        return _matching(word, [(value, "") for value in VALUES.get(asked.name.removeprefix("--"), ())])
    if word.raw.startswith("-") or (command.takes == "nothing" and not word.raw):
        return _matching(word, _options(command, before))
    match command.takes:
        case "media" | "file":
            return _files(word, rest, folder=folder, is_media_first=command.takes == "media")
        case "turn" if not before:
            return _matching(word, [(f"{number} ", text) for number, text in _newest_first(questions)])
        case "setting":
            return _matching(word, _setting_words(before))
        case "topic" if not before:
            return _matching(word, [(each.name, each.help) for each in COMMANDS])
    return []


def _options(command: Command, before: Sequence[Word]) -> list[tuple[str, str]]:
    """Those that weren't given yet; a space follows where a value must."""
    given = {word.plain for word in before}
    options = [option for option in command.options if option.name not in given]
    return [(f"{option.name} " if option.value else option.name, option.help) for option in options]


def _at_cursor(rest: str) -> tuple[tuple[Word, ...], Word]:
    """The whole words before the cursor, and the one that it is in, perhaps an empty one."""
    words = split(rest)
    if words and (words[-1].end == len(rest)):
        return words[:-1], words[-1]
    return words, Word(plain="", raw="", start=len(rest))


def _setting_words(before: Sequence[Word]) -> list[tuple[str, str]]:
    if not before:
        return [(f"{name} ", text) for name, text in HELP.items()]
    return [(value, "") for value in VALUES.get(before[0].text.replace("_", "-"), ())] if len(before) == 1 else []


def _newest_first(questions: Sequence[str]) -> list[tuple[int, str]]:
    return list(reversed(list(enumerate(questions, start=1))))


def _matching(word: Word, rows: Iterable[tuple[str, str]]) -> list[Completion]:
    return [
        Completion(text=text, start=len(word.raw), shown=text.strip(), meta=_meta(meta))
        for text, meta in rows
        if text.startswith(word.text)
    ]


def _meta(text: str) -> str:
    plain = clean(" ".join(text.split()))
    return plain if len(plain) <= META_COLUMNS else f"{plain[: META_COLUMNS - 1]}…"


def _files(word: Word, rest: str, *, folder: Path, is_media_first: bool) -> list[Completion]:
    """Of all that was typed, as one name with spaces, and of the word at the cursor."""
    if word.raw == "~":
        return [Completion(text="~/", start=1, shown="~/")]
    whole = Word(plain=rest.lstrip(), raw=rest.lstrip(), start=0)
    meant = [word] if word.plain == whole.plain else [whole, word]
    return [found for each in meant for found in _entries(each, folder=folder, is_media_first=is_media_first)]


def _entries(word: Word, *, folder: Path, is_media_first: bool) -> list[Completion]:
    above, slash, beginning = word.text.rpartition("/")
    rows = _listed(folder / (above + slash), beginning)
    if is_media_first:
        rows.sort(key=lambda row: 1 if row.endswith("/") else 0 if row.lower().endswith(MEDIA_SUFFIXES) else 2)
    typed = word.plain.removesuffix(beginning)
    return [Completion(text=_written(word, typed + row), start=len(word.raw), shown=row) for row in rows[:MOST_OFFERED]]


def _written(word: Word, path: str) -> str:
    return f"~{quoted(path[1:])}" if word.is_home else quoted(path)


def _listed(folder: Path, beginning: str) -> list[str]:
    """The names in a folder that begin so, sorted, folders with a slash; none with control characters."""
    try:
        with os.scandir(folder) as entries:
            found = [
                f"{entry.name}/" if _is_folder(entry) else entry.name
                for entry in islice(entries, MOST_LISTED)
                if _is_wanted(entry.name, beginning)
            ]
    except (OSError, ValueError):
        return []
    return sorted(found, key=lambda name: (name.casefold(), name))


def _is_wanted(name: str, beginning: str) -> bool:
    is_hidden = name.startswith(".") and not beginning.startswith(".")
    return name.startswith(beginning) and not is_hidden and clean(name) == name and not set("\t\n") & set(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
