"""Splits the text after a slash command's name into words and options, as a shell would.

Pure, except that it checks whether files exist.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.commands.sheets import check_free
from vllava_cli.errors import UsageError

if TYPE_CHECKING:
    from vllava_cli.commands.chat.controller import ChatController

MOST_SHOWN = 3
"""The most entries that a usage line has for options; the last entry is "..." if there are more options."""
_OLD_NAMES = {"--force": "--overwrite"}
"""Earlier names of options and their names now; earlier names are accepted, but no help shows them."""
_NO_SPACE = re.compile(r"[^ \t\r\n]")
_SPECIAL = re.compile(r"""([\s'"\\])""")


Run = Callable[["ChatController", "Arguments"], None]


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a slash command: --NAME, and the name of the option's value, "" if it takes none."""

    name: str
    value: str = ""
    help: str

    @property
    def typed(self) -> str:
        return f"{self.name} {self.value}".rstrip()


@dataclass(frozen=True, kw_only=True)
class SlashCommand:
    """A slash command: its names, the words and options that it takes, its help, and the function that runs it."""

    name: str
    others: tuple[str, ...] = ()
    arguments: str = ""
    help: str
    options: tuple[Option, ...] = ()
    run: Run
    """Carries the command out. Errors: any VllavaError."""

    @property
    def usage(self) -> str:
        """The usage line, with the options or the first ones of many: "/save [--overwrite] FILE"."""
        shown = [f"[{option.typed}]" for option in self.options]
        if len(shown) > MOST_SHOWN:
            shown[MOST_SHOWN - 1 :] = ["..."]
        return " ".join(filter(None, [f"/{self.name}", *shown, self.arguments]))

    @property
    def listed(self) -> str:
        """The command with all its names and without options: "/save FILE", "/bye, /quit, /exit"."""
        names = ", ".join(f"/{name}" for name in (self.name, *self.others))
        return f"{names} {self.arguments}".rstrip()

    def option(self, name: str) -> Option | None:
        return next((option for option in self.options if option.name == name), None)

    def refuse(self, fault: str) -> UsageError:
        """Returns the error for a line: the fault, and the command's usage line."""
        sentence = f"{fault}: {self.usage}"
        return UsageError(sentence if sentence.endswith(".") else f"{sentence}.")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word of a line: `raw` is the word as typed, from index `start` on; `plain` is the word without its quotes."""

    plain: str
    raw: str
    start: int
    is_open: bool = False
    """True if a quote in the word isn't closed, or nothing follows a backslash at its end."""

    @property
    def is_home(self) -> bool:
        """True if the word begins with a ~ that isn't quoted and so means a home folder."""
        return self.raw.startswith("~")

    @property
    def text(self) -> str:
        """The word without quotes, with ~ replaced by the home folder."""
        return _expanded(self.plain) if self.is_home else self.plain

    @property
    def end(self) -> int:
        return self.start + len(self.raw)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The text after a command's name, split into options and other words."""

    command: SlashCommand
    rest: str
    """All text after the command's name, as typed."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The options that were given, by name, each with its last value."""
    words: tuple[Word, ...] = ()

    def texts(self, *, most: int) -> tuple[str, ...]:
        """Returns the words. Errors: UsageError for more than `most` words, or an open quote."""
        if len(self.words) > most:
            raise self.command.refuse(f"{self.words[most].raw} is one word too many")
        self._check_quotes()
        return tuple(word.text for word in self.words)

    def path(self) -> Path:
        """Returns the one file that must be named. Errors: UsageError."""
        return self.paths(least=1, most=1)[0]

    def target(self) -> Path:
        """Returns the file to write. Errors: UsageError; OutputError if it exists and --overwrite isn't given."""
        path = self.path()
        if "--overwrite" not in self.options:
            check_free(path, f"/{self.command.name} --overwrite FILE replaces it.")
        return path

    def paths(self, *, least: int = 0, most: int | None = None) -> tuple[Path, ...]:
        """Returns the files that the words name; one file, if all words together are the name of a file.

        Errors: UsageError for fewer than `least` or more than `most` files, or an open quote.
        """
        if len(self.words) < least or not all(word.text for word in self.words):
            raise self.command.refuse("No file was named")
        together = _expanded(self.rest[self.words[0].start : self.words[-1].end]) if self.words else ""
        are_files = all(os.path.exists(word.text) and not word.is_open for word in self.words)
        if not are_files and os.path.exists(together):
            return (_path(together),)
        self._check_quotes()
        if most is not None and len(self.words) > most:
            raise self.command.refuse(f'Name one file, in "quotes" if it has spaces, not {len(self.words)}')
        return tuple(_path(word.text) for word in self.words)

    def _check_quotes(self) -> None:
        for word in self.words:
            if word.is_open:
                raise self.command.refuse(f"The quote in {word.raw} isn't closed")


def arguments_of(command: SlashCommand, rest: str) -> Arguments:
    """Splits the text after a command's name into options and other words. Errors: UsageError."""
    if "\n" in rest or "\0" in rest:
        raise command.refuse("A command is one line of text")
    options: dict[str, str] = {}
    words: list[Word] = []
    left = iter(split(rest))
    for word in left:
        if word.raw == "--":
            words += left
        elif not word.raw.startswith("--"):
            words.append(word)
        else:
            typed, has_value, value = word.text.partition("=")
            name = typed.replace("_", "-")
            option = command.option(_OLD_NAMES.get(name, name))
            if not option or (has_value and not option.value):
                raise command.refuse(f"There is no option {word.raw} here")
            if option.value and not has_value:
                if (following := next(left, None)) is None:
                    raise command.refuse(f"{option.name} needs a value")
                value = following.text
            options[option.name] = value
    return Arguments(command=command, rest=rest, options=options, words=tuple(words))


def split(line: str) -> tuple[Word, ...]:
    r"""Splits a line into words and never fails: "a 'b c' d\ e" → a, b c, d e."""
    source = io.StringIO(line)
    lexer = shlex.shlex(source, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[Word] = []
    end = 0
    while found := _NO_SPACE.search(line, end):
        try:
            plain, is_open = lexer.get_token() or "", False
        except ValueError:  # the line ended within quotes, or behind a backslash
            plain, is_open = lexer.token, True
        is_last = is_open or lexer.state is None  # type: ignore[attr-defined]
        end = len(line) if is_last else source.tell() - 1  # the lexer also read the space behind the word
        start = found.start()
        words.append(Word(plain=plain, raw=line[start:end], start=start, is_open=is_open))
    return tuple(words)


def quoted(name: str) -> str:
    r"""Quotes a file name for `split`: "my clip.mp4" → "my\ clip.mp4", "~a" → "\~a", "--a" → "./--a"."""
    escaped = _SPECIAL.sub(r"\\\1", name)
    if escaped.startswith("--"):
        return f"./{escaped}"
    return f"\\{escaped}" if escaped.startswith("~") else escaped


def nearest(name: str, names: Sequence[str]) -> str:
    """Suggests names: "/frmaes" → " Did you mean /frames?"; "" if no name is near.

    All names that begin with the typed name are suggested; if there are none, the one that looks most like it.
    """
    typed = name.lower()
    found = [each for each in names if typed and each.startswith(typed)] or get_close_matches(typed, names, n=1)
    *first, last = found or [""]
    if not last:
        return ""
    return f" Did you mean {', '.join(first)} or {last}?" if first else f" Did you mean {last}?"


def _expanded(name: str) -> str:
    """Replaces ~ or ~user by the user's home folder; returns the name unchanged if there is no such user."""
    return os.path.expanduser(name)  # noqa: PTH111  (Path.expanduser raises for an unknown user)


def _path(name: str) -> Path:
    """Makes a path of a name; "-" means a file of that name here, because stdin is where the questions come from."""
    path = Path(name)
    return path.absolute() if name == "-" else path
