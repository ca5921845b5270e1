"""What a line of the chat means: a question, or one of the slash commands.

Pure, but for looking whether a file is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.commands.chat.arguments import Arguments, arguments_of, refuse
from vllava_cli.commands.chat.manual import ALIASES, BY_NAME, topic_of, unknown
from vllava_cli.commands.chat.manual import COMMANDS as COMMANDS
from vllava_cli.commands.chat.manual import help_rows as help_rows
from vllava_cli.commands.chat.quoting import split
from vllava_cli.commands.chat.settings import Settings, canonical
from vllava_cli.errors import UsageError
from vllava_cli.media.files import MEDIA_SUFFIXES
from vllava_cli.nouns import FRAMES_PER_CLIP, Framing
from vllava_cli.times import framing_of, time_of, times_of

_COMMAND = re.compile(r"/([a-z?]\S*|\Z)\s*(.*)", re.DOTALL | re.IGNORECASE)
_EDIT = re.compile(r"([0-9]{1,9})(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Question:
    text: str


@dataclass(frozen=True, kw_only=True)
class Open:
    paths: tuple[Path, ...]
    framing: Framing
    """Of the times alone: `fit` is the usual one."""


@dataclass(frozen=True, kw_only=True)
class Add:
    paths: tuple[Path, ...]
    framing: Framing
    """Of the times alone: `fit` is the usual one."""


@dataclass(frozen=True, kw_only=True)
class ShowFrames:
    path: Path | None = None
    is_folder: bool = False
    """Whether the path is a folder's, to be made where it isn't there."""
    is_drawn: bool = False
    """Whether the terminal itself is to show them."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    changes: tuple[tuple[str, str], ...] = ()
    """(name, value) of settings, checked: (("temperature", "0.7"),)."""


@dataclass(frozen=True, kw_only=True)
class Undo:
    pass


@dataclass(frozen=True, kw_only=True)
class Edit:
    number: int
    """From 1."""
    question: str | None = None


@dataclass(frozen=True, kw_only=True)
class Set:
    """Both None: list the settings."""

    name: str | None = None
    value: str | None = None


@dataclass(frozen=True, kw_only=True)
class Show:
    pass


@dataclass(frozen=True, kw_only=True)
class Save:
    path: Path
    is_overwriting: bool = False


@dataclass(frozen=True, kw_only=True)
class Load:
    path: Path


@dataclass(frozen=True, kw_only=True)
class Export:
    path: Path
    is_overwriting: bool = False


@dataclass(frozen=True, kw_only=True)
class Clear:
    pass


@dataclass(frozen=True, kw_only=True)
class Help:
    topic: str | None = None


@dataclass(frozen=True, kw_only=True)
class Bye:
    pass


Entry = (
    Question | Open | Add | ShowFrames | Retry | Undo | Edit | Set | Show | Save | Load | Export | Clear | Help | Bye
)


def parse(line: str) -> Entry:
    """The entry that a line is. Errors: UsageError, a sentence with the usage of the command.

    "Why?" → Question · "quit" → Bye · "/open a.mp4" → Open · " /etc on the screen?" → Question, for its leading space
    """
    command = _COMMAND.fullmatch(line.rstrip())
    if not command:
        return _question(line)
    name = ALIASES.get(command[1], command[1])
    if name not in BY_NAME:
        if name:
            _refuse_files(line.strip())
        raise UsageError(unknown(name))
    return _ENTRIES[name](command[2])


def _question(line: str) -> Question | Bye:
    text = line.strip()
    if not text:
        raise UsageError("The question is empty: type one, or /help.")
    if text.lower() in BY_NAME["bye"].others and not line[:1].isspace():
        return Bye()
    if not line[:1].isspace():
        _refuse_files(text)
    return Question(text=text)


def _refuse_files(text: str) -> None:
    """What was dropped onto the terminal is neither a question nor a command."""
    names = [word.text for word in split(text)]
    if _is_file(text) or all(map(_is_file, names)):
        raise UsageError(
            f"A file is no question: /open {text} begins anew with it, /add {text} goes with the next one."
        )


def _is_file(name: str) -> bool:
    is_plain = os.path.isabs(name) or name.lower().endswith(MEDIA_SUFFIXES)  # noqa: PTH117
    return is_plain and os.path.exists(name)


def _open(rest: str) -> Open:
    given = arguments_of("open", rest)
    return Open(paths=given.paths(least=1), framing=_framing(given))


def _add(rest: str) -> Add:
    given = arguments_of("add", rest)
    return Add(paths=given.paths(least=1), framing=_framing(given))


def _framing(given: Arguments) -> Framing:
    start, end, at = given.value("--start"), given.value("--end"), given.value("--at")
    return framing_of(
        None if start is None else time_of(start),
        None if end is None else time_of(end),
        at_s=None if at is None else times_of(at),
        fit="crop",
        most=FRAMES_PER_CLIP,
    )


def _frames(rest: str) -> ShowFrames:
    given = arguments_of("frames", rest)
    path = next(iter(given.paths(most=1)), None)
    is_folder = bool(given.words) and given.words[-1].text.endswith("/")
    return ShowFrames(path=path, is_folder=is_folder, is_drawn=given.has("--show"))


def _retry(rest: str) -> Retry:
    given = arguments_of("retry", rest)
    given.words_of(most=0)
    changes = tuple((name.removeprefix("--"), value) for name, value in given.options)
    for name, value in changes:
        Settings().changed(name, value)
    return Retry(changes=changes)


def _edit(rest: str) -> Edit:
    found = _EDIT.fullmatch(rest)
    if not found or int(found[1]) == 0:
        raise refuse("edit", "A question has a number from 1" if rest else "No question was named")
    return Edit(number=int(found[1]), question=found[2] or None)


def _set(rest: str) -> Set:
    given = arguments_of("set", rest)
    is_list = bool(given.words) and given.words[0].text.lower() == "choices"
    words = given.words_of(most=len(given.words) if is_list else 2)
    if not words:
        return Set()
    name = canonical(words[0])
    if len(words) == 1:
        raise refuse("set", f"{name} wants a value")
    value = " ".join(words[1:])
    Settings().changed(name, value)
    return Set(name=name, value=value)


def _save(rest: str) -> Save:
    given = arguments_of("save", rest)
    return Save(path=given.paths(least=1, most=1)[0], is_overwriting=given.has("--overwrite"))


def _load(rest: str) -> Load:
    return Load(path=arguments_of("load", rest).paths(least=1, most=1)[0])


def _export(rest: str) -> Export:
    given = arguments_of("export", rest)
    return Export(path=given.paths(least=1, most=1)[0], is_overwriting=given.has("--overwrite"))


def _help(rest: str) -> Help:
    words = arguments_of("help", rest).words_of(most=1)
    return Help(topic=topic_of(words[0]) if words else None)


def _alone(name: str, entry: Entry) -> Callable[[str], Entry]:
    def parsed(rest: str) -> Entry:
        arguments_of(name, rest).words_of(most=0)
        return entry

    return parsed


_ENTRIES: Mapping[str, Callable[[str], Entry]] = {
    "open": _open,
    "add": _add,
    "frames": _frames,
    "retry": _retry,
    "undo": _alone("undo", Undo()),
    "edit": _edit,
    "set": _set,
    "show": _alone("show", Show()),
    "save": _save,
    "load": _load,
    "export": _export,
    "clear": _alone("clear", Clear()),
    "help": _help,
    "bye": _alone("bye", Bye()),
}
