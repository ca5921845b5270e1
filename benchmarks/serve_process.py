"""Servers as processes of their own, with folders of their own, for trials and measurements."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psutil

from benchmarks.harness import ROOT, ProcessError

START_S, END_S = 300.0, 60.0
VLLAVA = ("vllava_cli", "serve", "--model", "demo", "--port", "0")
_URL = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a server holds at one moment."""

    rss_bytes: int
    descriptors: int
    children: int
    threads: int

    def __str__(self) -> str:
        return (
            f"{self.rss_bytes >> 20} MiB, {self.descriptors} descriptors, {self.children} child processes, "
            f"{self.threads} threads"
        )


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A running server."""

    url: str
    environment: dict[str, str]
    """With this, commands find the server."""
    process: psutil.Process

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def counts(self) -> Counts:
        with self.process.oneshot():
            return Counts(
                rss_bytes=self.process.memory_info().rss,
                descriptors=self.process.num_fds(),
                children=len(self.process.children()),
                threads=self.process.num_threads(),
            )

    def kill_child(self, least_age_s: float) -> bool:
        """Kills the oldest child process, unless it is younger than that; returns whether one was killed."""
        children = sorted(self.process.children(), key=lambda child: child.create_time())
        if not children or time.time() - children[0].create_time() < least_age_s:
            return False
        with suppress(psutil.NoSuchProcess):
            children[0].kill()
        return True


@contextmanager
def serving(module: str, *words: str) -> Iterator[ServerProcess]:
    """Runs `python -m MODULE WORDS` until the end of the block, from when it writes a URL on stderr.

    Errors: ProcessError if it doesn't start, or doesn't end in good order after SIGTERM.
    """
    with TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder, "XDG_CACHE_HOME": f"{folder}/cache"}
        stderr = Path(folder) / "stderr"
        with stderr.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, *words], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=file, start_new_session=True,
            )  # fmt: skip
        try:
            url = _started(popen, stderr)
            yield ServerProcess(url=url, environment=environment, process=psutil.Process(popen.pid))
            popen.send_signal(signal.SIGTERM)
            if popen.wait(END_S) not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):
                raise _ended(popen.args, popen.returncode, stderr)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()


def _started(popen: subprocess.Popen[bytes], stderr: Path) -> str:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if found := _URL.search(stderr.read_text(errors="replace")):
            return found[0]
        if popen.poll() is not None:
            break
        time.sleep(0.05)
    raise _ended(popen.args, popen.returncode, stderr)


def _ended(command: object, code: int | None, stderr: Path) -> ProcessError:
    words = " ".join(map(str, command)) if isinstance(command, Sequence) else str(command)
    last = (stderr.read_text(errors="replace").splitlines() or ["nothing on stderr"])[-1]
    return ProcessError(f"{words} ended with exit code {code}: {last}")
