"""`vllava chat` in a real pseudo-terminal: keys go in, and the screen says what a person would see."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pexpect
import pyte

from tests.commands.shell import environment_of

LEFT = re.compile(r" +([0-9]+) tokens left$")
PASTE = "\x1b[200~{}\x1b[201~"
UP, CTRL_C, CTRL_D, CTRL_U, ENTER, TAB = "\x1b[A", "\x03", "\x04", "\x15", "\r", "\t"
PATIENCE_S = 60.0


HEIGHT = 24


class Terminal:
    """A chat on a screen of 24 lines, which answers it as a terminal does."""

    def __init__(self, *words: str | Path, home: Path, columns: int = 60) -> None:
        self.screen = pyte.HistoryScreen(columns, HEIGHT, history=10_000)
        self.screen.write_process_input = self.type  # it says where its cursor is
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "vllava_cli", "chat", *map(str, words)],
            cwd=str(home),
            env=environment_of(home, TERM="xterm-256color", LANG="C.UTF-8"),
            dimensions=(HEIGHT, columns),
            encoding="utf-8",
            echo=True,
        )
        self.child.delaybeforesend = None
        self.child.logfile_read = SimpleNamespace(write=pyte.Stream(self.screen).feed, flush=str)
        self._flush_nothing()

    @property
    def shown(self) -> list[str]:
        """All lines up to the last one with text in it, also those that left the screen; without spaces behind them."""
        rows = [*self.screen.history.top, *(self.screen.buffer[number] for number in range(HEIGHT))]
        text = "\n".join("".join(row[column].data for column in range(self.screen.columns)).rstrip() for row in rows)
        return text.rstrip("\n").split("\n") if text.strip() else []

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without the tokens left."""
        return [LEFT.sub("", line) for line in self.shown]

    @property
    def left_tokens(self) -> int:
        """As the prompt says it."""
        found = LEFT.search(self.shown[-1])
        assert found, self.shown
        return int(found[1])

    @property
    def has_echo(self) -> bool:
        """Whether the terminal shows what is typed by itself, as a shell wants it."""
        return bool(termios.tcgetattr(self.child.child_fd)[3] & termios.ECHO)

    def type(self, keys: str) -> None:
        self.child.send(keys)

    def shows(self, *lines: str) -> None:
        """Waits until the screen ends with these lines."""
        self._until(lambda: self.lines[-len(lines) :] == list(lines), f"the end {lines}")

    def prompts(self, typed: str = "") -> None:
        """Waits for a prompt with so much typed, and the tokens left beside it."""
        self._until(
            lambda: self.lines[-1:] == [f"> {typed}".rstrip()] and bool(LEFT.search(self.shown[-1])),
            f"a prompt with {typed!r}",
        )

    def enter(self, line: str, *answer: str) -> None:
        """Types a line and waits for the lines that answer it, then for the next prompt."""
        self.type(line)
        self.prompts(line)
        self.enter_more("", *answer)

    def enter_more(self, rest: str, *answer: str) -> None:
        """Types the rest of a line that was begun, and goes on as `enter`."""
        self.type(rest + ENTER)
        self.shows(*answer, ">")
        self.prompts()

    def until_ready(self, *, after: str) -> None:
        """Waits for a prompt behind a line that begins so."""
        self._until(lambda: self.lines[-1] == ">" and any(line.startswith(after) for line in self.lines), after)

    def ask_at_length(self, question: str) -> None:
        """Asks, and waits until some of the answer is there, which is longer than any notice."""
        self.type(question)
        self.prompts(question)
        self.type(ENTER)
        self._until(lambda: len(self.between(f"> {question}")) > 40, f"an answer to {question!r}")

    def resize(self, columns: int) -> None:
        """What is on the screen stays as it is, as on a terminal that doesn't wrap anew."""
        self.screen.resize(HEIGHT, columns)
        self.child.setwinsize(HEIGHT, columns)

    def kill(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; returns the exit code as a shell tells it."""
        self.child.kill(number)
        return self.end()

    def hang_up(self) -> int:
        """Closes the terminal as its window's cross does; returns the exit code."""
        self.child.ptyproc.fileobj.close()  # its descriptor with it: closed apart, the object would close it once more
        self.child.closed = self.child.ptyproc.closed = True
        _, status = os.waitpid(self.child.pid, 0)
        self.child.ptyproc.terminated = self.child.terminated = True
        return os.waitstatus_to_exitcode(status)

    def end(self) -> int:
        self.child.expect(pexpect.EOF, timeout=PATIENCE_S)
        self.child.wait()
        return self.child.exitstatus if self.child.exitstatus is not None else 128 + self.child.signalstatus

    def between(self, first: str, last: str | None = None) -> str:
        """What is on the screen between the last line that is `first` and the one that is `last`, else the end."""
        lines = self.lines
        if first not in lines:
            return ""
        begin = len(lines) - lines[::-1].index(first)
        return "\n".join(lines[begin : lines.index(last, begin) if last else None])

    def _flush_nothing(self) -> None:
        """On Ctrl-C a terminal throws away what wasn't read from it yet: with NOFLSH all that was written is seen."""
        modes = termios.tcgetattr(self.child.child_fd)
        modes[3] |= termios.NOFLSH
        termios.tcsetattr(self.child.child_fd, termios.TCSANOW, modes)

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        """Reads until something is so on the screen."""
        late_s = time.monotonic() + PATIENCE_S
        while not is_so():
            try:
                self.child.read_nonblocking(4096, timeout=max(0.0, late_s - time.monotonic()))
            except (pexpect.TIMEOUT, pexpect.EOF) as exc:
                screen = "\n".join(self.shown)
                raise AssertionError(
                    f"{what} was waited for, {type(exc).__name__} came; the screen:\n{screen}"
                ) from exc
