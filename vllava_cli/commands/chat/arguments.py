"""The options and words after a slash command's name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.commands.chat.manual import BY_NAME, Command
from vllava_cli.commands.chat.quoting import Word, expanded, split
from vllava_cli.errors import UsageError

_OLD_NAMES = {"--force": "--overwrite"}
"""What options were called earlier; that is taken, and no help shows it."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What stands after a command: options as (name, value) in their order, the other words, and these as typed."""

    command: Command
    options: tuple[tuple[str, str], ...]
    words: tuple[Word, ...]
    text: str

    def value(self, name: str) -> str | None:
        """Of an option; the last one counts."""
        return dict(self.options).get(name)

    def has(self, name: str) -> bool:
        return self.value(name) is not None

    def words_of(self, *, most: int) -> tuple[str, ...]:
        """The words, at most so many. Errors: UsageError."""
        if len(self.words) > most:
            raise refuse(self.command.name, f"{self.words[most].raw} is too much here")
        self._check_quotes()
        return tuple(word.text for word in self.words)

    def paths(self, *, least: int = 0, most: int | None = None) -> tuple[Path, ...]:
        """The files that the words name; one, where all of them together are the name of a file. Errors: UsageError."""
        if len(self.words) < least or not all(word.text for word in self.words):
            raise refuse(self.command.name, "No file was named")
        if self._is_one_file():
            return (_path(expanded(self.text)),)
        self._check_quotes()
        if most is not None and len(self.words) > most:
            raise refuse(self.command.name, f'Name one file, in "quotes" if it has spaces, not {len(self.words)}')
        return tuple(_path(word.text) for word in self.words)

    def _is_one_file(self) -> bool:
        are_files = all(os.path.exists(word.text) and not word.is_open for word in self.words)
        return not are_files and os.path.exists(expanded(self.text))

    def _check_quotes(self) -> None:
        for word in self.words:
            if word.is_open:
                raise refuse(self.command.name, f"The quote in {word.raw} isn't closed")


def arguments_of(name: str, rest: str) -> Arguments:
    """Parts the options of the command from the words. Errors: UsageError."""
    command = BY_NAME[name]
    if "\n" in rest or "\0" in rest:
        raise refuse(name, "A command is one line of text")
    options: list[tuple[str, str]] = []
    words: list[Word] = []
    left = list(split(rest))
    while left:
        word = left.pop(0)
        if word.raw == "--":
            words += left
            break
        if word.raw.startswith("--"):
            options.append(_option(command, word, left))
        else:
            words.append(word)
    text = rest[words[0].start : words[-1].end] if words else ""
    return Arguments(command=command, options=tuple(options), words=tuple(words), text=text)


def refuse(name: str, fault: str) -> UsageError:
    """The error that says what is wrong with a command and how it is used."""
    sentence = f"{fault}: {BY_NAME[name].usage}"
    return UsageError(sentence if sentence.endswith(".") else f"{sentence}.")


def _option(command: Command, word: Word, left: list[Word]) -> tuple[str, str]:
    """--start 1:20 or --start=1:20 → ("--start", "1:20"); takes the value off the words that are left."""
    typed, has_value, value = word.text.partition("=")
    name = typed.replace("_", "-")
    name = _OLD_NAMES.get(name, name)
    option = command.option(name)
    if not option or (has_value and not option.value):
        raise refuse(command.name, f"There is no {word.raw} here")
    if not option.value or has_value:
        return name, value
    if not left:
        raise refuse(command.name, f"{name} wants a value")
    return name, left.pop(0).text


def _path(name: str) -> Path:
    """ "-" is a file of that name here, because stdin is where the questions come from."""
    path = Path(name)
    return path.absolute() if name == "-" else path
