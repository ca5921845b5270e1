"""vllava as a process of its own: what it printed, where, and its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


def environment_of(home: Path, **more: str) -> dict[str, str]:
    """A home of its own, and nothing of the caller's settings.

    One thread: two of them on busy cores wait for each other, and answers took eight times as long.
    """
    root = str(Path(__file__).parents[2])
    own = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": root, "XDG_RUNTIME_DIR": str(home)}
    return own | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | more


@dataclass(frozen=True, kw_only=True)
class Shell:
    """The outcome of one command."""

    code: int
    out: str
    err: str

    @classmethod
    def failed(cls, message: str, *, code: int = 1) -> Shell:
        """A command that printed one message, and no answer."""
        return cls(code=code, out="", err=f"vllava: {message}\n")

    @classmethod
    def run(
        cls, *words: str | bytes | Path, folder: Path, stdin: bytes = b"", environment: dict[str, str] | None = None
    ) -> Shell:
        """Runs `python -m vllava_cli WORDS` in `folder` with a home and a model cache of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "vllava_cli", *words],
            cwd=folder,
            env=environment_of(folder) | (environment or {}),
            input=stdin,
            capture_output=True,
            timeout=120,
        )
        return cls(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


def chapters(text: str) -> dict[str, list[str]]:
    """What the doctor prints: headings are at the margin, rows below are indented."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(" "):
            found[list(found)[-1]].append(line.strip())
        else:
            found[line] = []
    return found
