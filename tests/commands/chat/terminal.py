"""`vllava chat` in a real pseudo-terminal: keys go in, what the screen was sent comes out."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
from pathlib import Path

import pexpect

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]|\x1b\][^\x07]*\x07")
PROMPT = "tokens lef"
"""Drawn at the right of each prompt, the letter of the last column apart."""
PASTE = "\x1b[200~{}\x1b[201~"


def environment(home: Path) -> dict[str, str]:
    """A home of its own; prompt_toolkit isn't to wait for answers that only a real screen gives."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
    }


class Terminal:
    """A chat on a screen of 24 lines."""

    def __init__(self, *words: str | Path, home: Path, columns: int = 60) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "vllava_cli", "chat", *map(str, words)],
            cwd=str(home),
            env=environment(home),
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=60,
        )
        self.see(PROMPT)

    def see(self, text: str) -> str:
        """Waits until the screen is sent `text`; returns what came before it, without escape sequences."""
        self.child.expect_exact(text)
        return ESCAPES.sub("", self.child.before)

    def type(self, keys: str) -> None:
        self.child.send(keys)

    def enter(self, line: str, wanted: str) -> str:
        """Types a line, waits until `wanted` was shown, then for the next prompt; returns what came between these."""
        self.type(f"{line}\r")
        self.see(wanted)
        return self.see(PROMPT)

    def ask_at_length(self, question: str) -> None:
        """Asks, and waits until more of an answer was shown than any line of the chat's own has."""
        self.type(f"{question}\r")
        self.child.expect("[A-Za-z .:]{50}")

    def resize(self, columns: int) -> None:
        self.child.setwinsize(24, columns)

    @property
    def is_echoing(self) -> bool:
        """Whether the terminal itself shows what is typed, as it does for a shell."""
        return bool(termios.tcgetattr(self.child.child_fd)[3] & termios.ECHO)

    def kill(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; returns the exit code as a shell tells it."""
        self.child.kill(number)
        return self.end()

    def end(self) -> int:
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else 128 + self.child.signalstatus
