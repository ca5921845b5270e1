"""The only module that writes to the terminal: the answer on stdout, everything else on stderr.

A terminal gets no control characters. A file or a pipe gets the answer unchanged, and names in their own bytes.
"""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, TextIO

from vllava_cli.errors import ClosedPipeError, ServerError, StdoutError
from vllava_cli.nouns import Log

if TYPE_CHECKING:
    from rich.color import Color
    from rich.console import Console
    from rich.text import Text

    from vllava_cli.media.contact_sheet import Sheet

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
PROGRESS_S = 30.0
_MOST_SAID, _END_SAID = 3000, 500
"""The most characters of a message, and how many of a longer one's end are shown, where its remedy stands."""
_BETWEEN = " · "
_UNEQUAL = "The server ended, and the answer isn't the same here. Ask again."


def clean(text: str) -> str:
    """Removes C0 (except tab and new line), DEL, C1 and bidirectional controls; lone surrogates become "?"."""
    return _CONTROL.sub("", text).encode("utf-8", "replace").decode()


def one_line(name: str) -> str:
    """Puts a name on one line, for a sentence: "a\\nb.mp4" → "a b.mp4"."""
    return clean(re.sub(r"\s", " ", name))


class Screen:
    """The output of a command. `is_quiet` leaves out all but the answer and errors, `is_verbose` adds reasons."""

    def __init__(
        self,
        *,
        out: TextIO | None = None,
        err: TextIO | None = None,
        is_quiet: bool = False,
        is_verbose: bool = False,
    ) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._is_mid_line = False
        self._console: Console | None = None
        """The console that draws a spinner: lines on stderr go through it meanwhile."""
        self._answered, self._noticed = "", list[str]()
        """What has been shown already, and is about to come again."""
        self.is_quiet = is_quiet
        self.is_verbose = is_verbose and not is_quiet

    @property
    def log(self) -> Log:
        """A log that shows here what the engine reports while a model is found and loaded."""
        progress = partial(self.progress, is_shared=False)
        return Log(notice=self.notice, detail=self.detail, has_bars=self.is_moving, progress=progress)

    @property
    def is_moving(self) -> bool:
        """True if progress may be drawn: stderr is a terminal that can move its cursor, and --quiet isn't given."""
        is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
        return not self.is_quiet and self._err.isatty() and not is_dumb

    @property
    def is_terminal(self) -> bool:
        """True if stdout, which gets the answer, is a terminal."""
        return self._out.isatty()

    @property
    def answer_width(self) -> int | None:
        """The columns of the terminal that shows the answer; None if stdout is no terminal."""
        return self._width(is_answer=True)

    def answer(self, content: str | bytes) -> None:
        """Writes some text of the answer, or a picture's bytes, to stdout. Errors: ClosedPipeError, StdoutError."""
        if isinstance(content, str) and self.is_terminal:
            content = clean(content)
        if self._answered and isinstance(content, str):
            content = self._rest_of(content)
        if content:
            self._write(content)
            self._is_mid_line = isinstance(content, str) and not content.endswith("\n")

    def go_on_after(self, answer: str, notices: Sequence[str]) -> None:
        """Prepares for an answer that is made again after it was shown in part: what was shown isn't shown twice.

        Then `answer` and `end_answer` raise a ServerError if the answer doesn't begin as the shown part does.
        """
        self._answered, self._noticed = clean(answer) if self.is_terminal else answer, list(notices)

    def _rest_of(self, content: str) -> str:
        shown, self._answered = self._answered[: len(content)], self._answered[len(content) :]
        if not content.startswith(shown):
            raise ServerError(_UNEQUAL)
        return content[len(shown) :]

    def picture(self, sheet: Sheet) -> None:
        """Draws a sheet as large as the terminal, in shades if it has no colours. Errors: those of `answer`."""
        from rich.console import Console
        from rich.style import Style
        from rich.text import Text

        from vllava_cli.media.contact_sheet import LETTERS, SHADES, draw_characters

        size = _size_of(self._out)
        columns, lines = (size.columns or 80, size.lines or 24) if size else (80, 24)
        colours = _colours()
        shades = LETTERS if b"?" in _encoded(SHADES, self._out.encoding or "ascii") else SHADES
        pad = io.StringIO()
        console = Console(
            file=pad, width=columns, color_system=colours, force_terminal=True, legacy_windows=False, highlight=False
        )
        console.print(Text(clean(sheet.name), "bold"), no_wrap=True, overflow="ellipsis")
        console.print(Text(clean(sheet.facts), "dim"))
        for runs in draw_characters(sheet, columns, lines, None if colours else shades):
            line = Text()
            for run in runs:
                line.append(run.text, Style(color=_rgb(run.upper), bgcolor=_rgb(run.lower)))
            console.print(line, no_wrap=True, overflow="crop")
        self._write(pad.getvalue())

    def end_answer(self) -> None:
        """Writes a new line if the answer's last line has none yet. Errors: those of `answer`."""
        if self._answered:
            raise ServerError(_UNEQUAL)
        if self._is_mid_line:
            self._write("\n")
            self._is_mid_line = False

    def notice(self, text: str, *, is_asked: bool = False) -> None:
        """Writes a notice on stderr; with --quiet only if an option has asked for it (`is_asked`)."""
        if text in self._noticed:
            self._noticed.remove(text)
        elif is_asked or not self.is_quiet:
            self._say(self._wrapped(text))

    def detail(self, text: str) -> None:
        """Writes a detail on stderr, only with --verbose."""
        if self.is_verbose:
            self._say(self._wrapped(text))

    def error(self, text: str) -> None:
        """Writes an error on stderr, also with --quiet; at a terminal never on the same line as the answer."""
        if self._is_mid_line and self._out.isatty():
            self._err.write("\n")
        self._say(self._wrapped(f"vllava: {text}"))

    def facts(self, rows: Sequence[tuple[str, str]], *, is_answer: bool = False) -> None:
        """Shows rows of (name, sentence) in two columns, on stderr or as the answer; sentences wrap in their column.

        At a terminal the names take a third of the width at most; a longer name has a line of its own.
        """
        width = self._width(is_answer)
        cleaned = str if is_answer and not self.is_terminal else clean
        shown = [(cleaned(name), cleaned(text)) for name, text in rows]
        left = max((len(name) for name, _ in shown if width is None or len(name) <= width // 3), default=0)
        lines = [_row(name, text, left=left, width=width) for name, text in shown]
        if is_answer:
            self.answer("\n".join(lines) + "\n")
        else:
            for line in lines:
                self._say(line)

    def waiting(self, what: str) -> AbstractContextManager[None]:
        """Draws a spinner with `what` beside it while the block runs; nothing if progress may not be drawn."""
        return self._spinner(lambda: [what]) if self.is_moving else nullcontext()

    def progress(self, parts: Callable[[], Sequence[str]], *, is_shared: bool) -> AbstractContextManager[None]:
        """Shows the texts that `parts` returns while the block runs: at a terminal a spinner and as many as fit.

        Elsewhere, and if a terminal also shows the answers meanwhile (`is_shared`), writes a line every 30 seconds.
        """
        if self.is_moving and not (is_shared and self.is_terminal):
            return self._spinner(parts)
        return nullcontext() if self.is_quiet else self._repeated(parts)

    @contextmanager
    def _spinner(self, parts: Callable[[], Sequence[str]]) -> Iterator[None]:
        from rich.console import Console

        before, self._console = self._console, Console(file=self._err, highlight=False)
        try:
            with self._console.status(_Growing(parts, self._console)):
                yield
        finally:
            self._console = before

    @contextmanager
    def _repeated(self, parts: Callable[[], Sequence[str]]) -> Iterator[None]:
        is_over = threading.Event()

        def repeat() -> None:
            while not is_over.wait(PROGRESS_S):
                self._say(f"vllava: {_BETWEEN.join(parts())}")

        thread = threading.Thread(target=repeat, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _wrapped(self, text: str) -> str:
        """Wraps a text between words, only at a terminal; names and paths stay whole. A huge text is shortened."""
        width = self._width(is_answer=False)
        if len(text) > _MOST_SAID:
            text = f"{text[: _MOST_SAID - _END_SAID]}… …{text[-_END_SAID:]}"
        if width is None:
            return text
        lines = clean(text).split("\n")
        return "\n".join(
            textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
            for line in lines
        )

    def _width(self, is_answer: bool) -> int | None:
        """The columns at which lines are wrapped; None if the stream is no terminal: a pipe gets whole lines."""
        size = _size_of(self._out if is_answer else self._err)
        return max(40, size.columns) if size else None

    def _say(self, text: str) -> None:
        if self._console:
            from rich.text import Text

            self._console.print(Text(clean(text)), soft_wrap=True)
            return
        try:
            self._err.write(clean(text) + "\n")
            self._err.flush()
        except (OSError, ValueError):
            pass  # nobody reads stderr: the exit code still tells the outcome

    def _write(self, content: str | bytes) -> None:
        try:
            if isinstance(content, bytes):
                self._out.buffer.write(content)
                self._out.buffer.flush()
            else:
                self._out.write(content)
                self._out.flush()
        except UnicodeEncodeError:
            self._write(_encoded(str(content), self._out.encoding))
        except OSError as exc:
            raise stdout_error(self._out, exc) from exc


def _size_of(stream: TextIO) -> os.terminal_size | None:
    """Asks the terminal of a stream for its size; None if the stream is no terminal."""
    try:
        return os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return None


def _encoded(text: str, encoding: str) -> bytes:
    """Encodes a text: names that aren't UTF-8 as their own bytes; or "?" if the encoding lacks a character."""
    try:
        return text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        return text.encode(encoding, "replace")


def stdout_error(stream: TextIO, cause: OSError) -> StdoutError:
    """Returns the error for a stdout that can't be written; if the reader closed the pipe, it has no message.

    The descriptor then leads to the null device, so that Python's own flush at exit is silent.
    """
    with suppress(OSError, ValueError):
        descriptor = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
    if isinstance(cause, BrokenPipeError):
        return ClosedPipeError()
    return StdoutError(f"The answer can't be written to stdout: {cause.strerror or cause}.")


def fill_closed() -> None:
    """Puts the null device in the place of a closed stdin, stdout or stderr, so that no later file takes its number.

    Writing to a closed stdout then fails; writing to a closed stderr has no effect.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, flags)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            if number:  # sys.stdin stays None: no stdin is not the same as an empty one
                setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


class _Growing:
    """The text beside a spinner: as many of the first parts as have room. It is made anew each time it is drawn."""

    def __init__(self, parts: Callable[[], Sequence[str]], console: Console) -> None:
        self._parts, self._console = parts, console

    def __rich__(self) -> Text:
        from rich.text import Text

        first, *others = map(clean, self._parts())
        line = Text(first, no_wrap=True, overflow="ellipsis")
        for part in others:
            if line.cell_len + Text(_BETWEEN + part).cell_len > self._console.width - 2:
                break
            line.append(_BETWEEN + part)
        return line


def _colours() -> Literal["truecolor", "256"] | None:
    """Reads from the environment how many colours a picture may have; None if it may have none."""
    terminal = os.environ.get("TERM", "" if os.name == "nt" else "dumb")
    if os.environ.get("NO_COLOR") or terminal == "dumb":
        return None
    return "truecolor" if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit") else "256"


def _rgb(colour: tuple[int, int, int] | None) -> Color | None:
    from rich.color import Color

    return Color.from_rgb(*colour) if colour else None


def _row(name: str, text: str, *, left: int, width: int | None) -> str:
    indent = " " * (left + 2)
    first = name.ljust(left + 2)
    if width is None:
        return (first + text).rstrip()
    if len(name) > left:
        return f"{name}\n{_row('', text, left=left, width=width)}"
    return (
        textwrap.fill(
            text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
        )
        or first.rstrip()
    )
