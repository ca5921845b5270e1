"""Completions for Tab: commands, their options and values, turns, topics and files. None inside a question.

Pure but for the listing of one folder, of which only the first names are looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from vllava_cli.commands.chat.commands import COMMANDS
from vllava_cli.commands.chat.parser import SlashCommand, Word, quoted, split
from vllava_cli.commands.chat.settings import SETTINGS
from vllava_cli.media.file_check import MEDIA_SUFFIXES
from vllava_cli.screen import clean

MOST_LISTED = 5_000
MOST_OFFERED = 500
META_COLUMNS = 40


class ChatCompleter(Completer):
    """Completes at a terminal; `questions` are those of the turns so far, relative paths begin at `folder`."""

    def __init__(self, questions: Callable[[], Sequence[str]], folder: Path) -> None:
        self._questions = questions
        self._folder = folder

    def get_completions(self, document: Document, _event: CompleteEvent) -> Iterable[Completion]:
        return completions(document.text_before_cursor, questions=self._questions(), folder=self._folder)


def completions(line: str, *, questions: Sequence[str], folder: Path) -> list[Completion]:
    """All that can be meant at the end of the line, which is the cursor."""
    if not line.startswith("/") or "\n" in line:
        return []
    name, space, rest = line.partition(" ")
    if not space:
        return list(_names(line))
    command = COMMANDS.get(name[1:])
    return _of_arguments(command, rest, questions=questions, folder=folder) if command else []


def _names(typed: str) -> Iterator[Completion]:
    for command in COMMANDS.values():
        space = " " if command.arguments or command.options else ""
        for name in (command.name, *command.others):
            if f"/{name}".startswith(typed):
                yield Completion(f"/{name}{space}", -len(typed), f"/{name}", command.help)


def _of_arguments(command: SlashCommand, rest: str, *, questions: Sequence[str], folder: Path) -> list[Completion]:
    before, word = _at_cursor(rest)
    asked = command.option(before[-1].plain) if before else None
    if asked and asked.value:
        return _matching(word, _values(asked.name.removeprefix("--")))
    if word.raw.startswith("-") or not (command.arguments or word.raw):
        return _matching(word, _options(command, before))
    match command.arguments:
        case "PATH..." | "FILE" | "[FILE]":
            return _files(word, rest, folder=folder, is_media_first=command.arguments == "PATH...")
        case "N [QUESTION]" if not before:
            turns = reversed(list(enumerate(questions, start=1)))
            return _matching(word, [(f"{number} ", text) for number, text in turns])
        case "[NAME VALUE]" if not before:
            return _matching(word, [(f"{name} ", setting.help) for name, setting in SETTINGS.items()])
        case "[NAME VALUE]" if len(before) == 1:
            return _matching(word, _values(before[0].text.replace("_", "-")))
        case "[COMMAND]" if not before:
            return _matching(word, [(name, each.help) for name, each in COMMANDS.items()])
    return []


def _at_cursor(rest: str) -> tuple[tuple[Word, ...], Word]:
    """The whole words before the cursor, and the one that it is in, perhaps an empty one."""
    words = split(rest)
    if words and words[-1].end == len(rest):
        return words[:-1], words[-1]
    return words, Word(plain="", raw="", start=len(rest))


def _values(name: str) -> list[tuple[str, str]]:
    return [(value, "") for value in SETTINGS[name].likely] if name in SETTINGS else []


def _options(command: SlashCommand, before: Sequence[Word]) -> list[tuple[str, str]]:
    """The options that weren't given yet; a space follows where a value must."""
    given = {word.plain for word in before}
    options = [option for option in command.options if option.name not in given]
    return [(f"{option.name} " if option.value else option.name, option.help) for option in options]


def _matching(word: Word, rows: Sequence[tuple[str, str]]) -> list[Completion]:
    """The (text, explanation) rows that begin with the word."""
    return [
        Completion(text, -len(word.raw), text.strip(), _shortened(meta))
        for text, meta in rows
        if text.startswith(word.text)
    ]


def _shortened(text: str) -> str:
    plain = clean(" ".join(text.split()))
    return plain if len(plain) <= META_COLUMNS else f"{plain[: META_COLUMNS - 1]}…"


def _files(word: Word, rest: str, *, folder: Path, is_media_first: bool) -> list[Completion]:
    """Files that begin with all that was typed, as one name with spaces, and with the word at the cursor."""
    if word.raw == "~":
        return [Completion("~/", -1)]
    whole = Word(plain=rest.lstrip(), raw=rest.lstrip(), start=0)
    meant = [word] if word.plain == whole.plain else [whole, word]
    return [found for each in meant for found in _entries(each, folder=folder, is_media_first=is_media_first)]


def _entries(word: Word, *, folder: Path, is_media_first: bool) -> Iterator[Completion]:
    above, slash, beginning = word.text.rpartition("/")
    names = _listed(folder / (above + slash), beginning)
    if is_media_first:
        names.sort(key=lambda name: 1 if name.endswith("/") else 0 if name.lower().endswith(MEDIA_SUFFIXES) else 2)
    typed = word.plain.removesuffix(beginning)
    for name in names[:MOST_OFFERED]:
        path = typed + name
        yield Completion(f"~{quoted(path[1:])}" if word.is_home else quoted(path), -len(word.raw), name)


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
