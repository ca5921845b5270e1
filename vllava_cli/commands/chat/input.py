"""Reads the entries of a chat, one at a time: from an editor with completions, or as plain lines from a pipe."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import is_dumb_terminal

from vllava_cli.commands.chat.commands import COMMANDS
from vllava_cli.commands.chat.parser import SlashCommand, Word, quoted, split
from vllava_cli.commands.chat.settings import SETTINGS
from vllava_cli.errors import UsageError
from vllava_cli.media.file_check import MEDIA_SUFFIXES
from vllava_cli.prompt import MAX_QUESTION_BYTES
from vllava_cli.screen import clean

PROMPT = "> "
CONTINUATION = "… "
QUOTES = '"""'
MAX_HISTORY_BYTES = 16 << 20
"""The largest history file that is used; all of the history is held in memory."""
MOST_LISTED = 5_000
MOST_OFFERED = 500
META_COLUMNS = 80


class TerminalLines:
    """Reads entries that a person types, with history, completion, pasting and editing."""

    has_prompt = is_watched = True

    def __init__(
        self,
        *,
        history_path: Path | None = None,
        questions: Callable[[], Sequence[str]] = tuple,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        """`questions` returns the questions of the turns so far. `history_fault` says why no history is written."""
        history, self.history_fault = _private_history(history_path)
        self._left = ""
        self._is_leaving = False
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=ChatCompleter(questions),
            complete_while_typing=False,
            auto_suggest=AutoSuggestFromHistory(),
            multiline=True,
            prompt_continuation=lambda _width, _line, is_soft_wrap: "" if is_soft_wrap else CONTINUATION,
            rprompt=self._right,
            style=Style.from_dict({"left": "dim", "auto-suggestion": "ansidefault dim"}),
            key_bindings=_keys(),
            enable_suspend=True,
            input=input,
            output=output,
        )

    def read(self, *, left: str, default: str = "") -> str | None:
        """Reads an entry, perhaps of several lines; returns None at the end of the input.

        `left` is shown beside the prompt. `default` is put into the editor; "" is returned if the user cancels.
        """
        self._left = left
        while True:
            try:
                text = _entry_of(self._session.prompt(PROMPT, default=default, pre_run=self._leave_if_asked))
            except KeyboardInterrupt:
                text = ""
            except EOFError:
                return None
            if text or default:
                return text

    def leave(self) -> None:
        """Makes the current `read`, or else the next one, return None. A signal's handler may call this."""
        self._is_leaving = True
        loop = self._session.app.loop
        if loop:
            loop.call_soon_threadsafe(self._leave_if_asked)

    def _leave_if_asked(self) -> None:
        app = self._session.app
        if self._is_leaving and app.is_running and not app.is_done:
            app.exit(exception=EOFError)

    def _right(self) -> StyleAndTextTuples:
        """Returns the text at the right of the edited line; once the line is entered, no text stays beside it."""
        return [] if get_app().is_done else [("class:left", self._left)]


class PlainLines:
    """Reads entries as plain lines, never ahead. `prompt_to` gets a prompt if it and stdin are terminals."""

    def __init__(self, stdin: TextIO, prompt_to: TextIO | None = None) -> None:
        self._stdin = stdin
        self.is_watched = stdin.isatty()
        """True if a person types."""
        self._prompt_to = prompt_to if prompt_to and self.is_watched and prompt_to.isatty() else None
        self.has_prompt = self._prompt_to is not None
        """True if a person sees a prompt, and so should be greeted."""

    def read(self, *, left: str = "", default: str = "") -> str | None:  # noqa: ARG002
        """Reads an entry; returns None at the end of the input.

        Errors: UsageError for an open block or an entry that is too long; KeyboardInterrupt if stdin is no terminal.
        """
        while True:
            try:
                text = self._entry()
            except KeyboardInterrupt:
                if not self.is_watched:
                    raise
                self._show("\n")
            else:
                if text != "":
                    return text

    def _entry(self) -> str | None:
        text, left_bytes = "", MAX_QUESTION_BYTES
        while not text or _is_open(text):
            self._show(CONTINUATION if text else PROMPT)
            line = self._stdin.buffer.readline(left_bytes + 1)
            if text and not line:
                raise UsageError(f"The question that begins with {QUOTES} has no end: close it with {QUOTES}.")
            if not line:
                return None
            left_bytes -= len(line)
            if left_bytes < 0:
                self._stdin = TextIOWrapper(BytesIO())
                raise UsageError(
                    f"A question on stdin is longer than {MAX_QUESTION_BYTES >> 20} MiB: give a shorter one. The rest "
                    "of the input is ignored."
                )
            text += line.decode("utf-8", "replace").replace("\r\n", "\n")
        return _entry_of(text)

    def _show(self, text: str) -> None:
        if self._prompt_to:
            self._prompt_to.write(text)
            self._prompt_to.flush()


Lines = TerminalLines | PlainLines


def lines_for(
    stdin: TextIO | None,
    stdout: TextIO,
    *,
    history_path: Path | None = None,
    questions: Callable[[], Sequence[str]] = tuple,
    prompt_to: TextIO | None = None,
) -> Lines:
    """Returns an editor if stdin and stdout are terminals that can move the cursor, else a reader of plain lines.

    A plain prompt goes to `prompt_to`, usually stderr, so that stdout has answers only.
    """
    if stdin is None:
        return PlainLines(TextIOWrapper(BytesIO()))
    if is_dumb_terminal() or not (stdin.isatty() and stdout.isatty()):
        return PlainLines(stdin, prompt_to)
    return TerminalLines(
        history_path=history_path, questions=questions, input=create_input(stdin), output=create_output(stdout)
    )


def _is_open(text: str) -> bool:
    '''Returns True if the text begins a block with """ and doesn't end it.'''
    return text.lstrip().startswith(QUOTES) and text.count(QUOTES) == 1


def _entry_of(text: str) -> str:
    """Returns the entry in the typed text, "" if there is none; the inside of a block is always made a question."""
    if not text.strip():
        return ""
    if not text.lstrip().startswith(QUOTES):
        return text.rstrip()
    inner = text.replace(QUOTES, "", 2).strip()
    return f" {inner}" if inner.startswith("/") else inner


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _accept(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if _is_open(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _break_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


def _private_history(path: Path | None) -> tuple[History, str | None]:
    """Opens the history file and makes it if needed; else returns a history in memory, and why the file isn't used."""
    if path is None:
        return InMemoryHistory(), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(_opened(path))
        if path.stat().st_size > MAX_HISTORY_BYTES:
            raise OSError(f"it is larger than {MAX_HISTORY_BYTES >> 20} MiB: delete it, or cut it")
    except (OSError, ValueError) as exc:
        place = getattr(exc, "filename", None) or path
        return InMemoryHistory(), f"What you type isn't kept: {place}: {getattr(exc, 'strerror', None) or exc}."
    return _PrivateHistory(path), None


def _opened(path: Path | str) -> int:
    """Opens a file to append to it, and lets only its owner read it; returns the descriptor. Errors: OSError."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a file")
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
    return descriptor


class _PrivateHistory(FileHistory):
    """Appends each entry to the file in one write; an entry that can't be written stays in memory only."""

    def store_string(self, string: str) -> None:
        lines = "".join(f"+{line}\n" for line in string.split("\n"))
        with suppress(OSError), open(_opened(os.fsdecode(self.filename)), "ab", buffering=0) as file:
            file.write(f"\n# {datetime.now()}\n{lines}".encode("utf-8", "replace"))


class ChatCompleter(Completer):
    """Offers commands, their options and values, turns, topics and files for Tab; nothing inside a question.

    `questions` returns the questions of the turns so far. Of a folder, only the first MOST_LISTED names are read.
    """

    def __init__(self, questions: Callable[[], Sequence[str]]) -> None:
        self._questions = questions

    def get_completions(self, document: Document, _event: CompleteEvent) -> Iterator[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in line:
            return
        name, space, rest = line.partition(" ")
        if not space:
            names = [(f"/{name}", each) for each in COMMANDS.values() for name in (each.name, *each.others)]
            rows = [(f"{name} " if each.arguments or each.options else name, each.help) for name, each in names]
            yield from _matching(_whole(line), rows)
        elif command := COMMANDS.get(name[1:]):
            yield from self._of_arguments(command, rest)

    def _of_arguments(self, command: SlashCommand, rest: str) -> Iterator[Completion]:
        words = split(rest)
        is_within = bool(words) and words[-1].end == len(rest)
        before = words[:-1] if is_within else words
        word = words[-1] if is_within else Word(plain="", raw="", start=len(rest))
        asked = command.option(before[-1].plain) if before else None
        rows: list[tuple[str, str]] = []
        if asked and asked.value:
            rows = _values(asked.name.removeprefix("--"))
        elif word.raw.startswith("-") or not (command.arguments or word.raw):
            given = {option.plain for option in before}
            options = [option for option in command.options if option.name not in given]
            rows = [(f"{option.name} " if option.value else option.name, option.help) for option in options]
        elif command.arguments in ("PATH...", "FILE", "[FILE]"):
            whole = _whole(rest.lstrip())  # files may have spaces in their names, and need no quotes
            for each in [word] if word.plain == whole.plain else [whole, word]:
                yield from _files(each, is_media_first=command.arguments == "PATH...")
        elif command.name == "set" and len(before) == 1:
            rows = _values(before[0].text.replace("_", "-"))
        elif not before and command.name == "edit":
            rows = [(f"{number} ", text) for number, text in enumerate(self._questions(), 1)][::-1]
        elif not before and command.name == "set":
            rows = [(f"{name} ", setting.help) for name, setting in SETTINGS.items()]
        elif not before and command.name == "help":
            rows = [(name, each.help) for name, each in COMMANDS.items()]
        yield from _matching(word, rows)


def _whole(text: str) -> Word:
    return Word(plain=text, raw=text, start=0)


def _values(name: str) -> list[tuple[str, str]]:
    return [(value, "") for value in SETTINGS[name].likely] if name in SETTINGS else []


def _matching(word: Word, rows: Sequence[tuple[str, str]]) -> Iterator[Completion]:
    """Yields a completion for each (text, explanation) row whose text begins with the word."""
    for text, meta in rows:
        if text.startswith(word.text):
            plain = clean(" ".join(meta.split()))
            shown = plain if len(plain) <= META_COLUMNS else f"{plain[: META_COLUMNS - 1]}…"
            yield Completion(text, -len(word.raw), text.strip(), shown)


def _files(word: Word, *, is_media_first: bool) -> Iterator[Completion]:
    """Yields the files that begin with the word, sorted, folders with a slash; no names with control characters."""
    if word.raw == "~":
        yield Completion("~/", -1)
        return
    above, slash, beginning = word.text.rpartition("/")
    names: list[str] = []
    with suppress(OSError, ValueError), os.scandir(above + slash or ".") as entries:
        for entry in islice(entries, MOST_LISTED):
            is_hidden = entry.name.startswith(".") and not beginning.startswith(".")
            is_plain = clean(entry.name) == entry.name and not set("\t\n") & set(entry.name)
            if entry.name.startswith(beginning) and is_plain and not is_hidden:
                names.append(f"{entry.name}/" if os.path.isdir(entry.path) else entry.name)
    names.sort(key=lambda name: (name.casefold(), name))
    if is_media_first:
        names.sort(key=lambda name: 1 if name.endswith("/") else 0 if name.lower().endswith(MEDIA_SUFFIXES) else 2)
    typed = word.plain.removesuffix(beginning)
    for name in names[:MOST_OFFERED]:
        path = typed + name
        yield Completion(f"~{quoted(path[1:])}" if word.is_home else quoted(path), -len(word.raw), name)
