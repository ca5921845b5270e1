"""One turn of one way: starts its process, waits as long as it may take, and distrusts what comes back."""

from __future__ import annotations

import json
import math
import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from vllava_cli.media.decoder.client import environment, isolated
from vllava_cli.media.measuring.contestant import IMPORTED, MAX_FAULT, PREPARED, fault_of
from vllava_cli.nouns import FRAMES_PER_CLIP, DecodeLimits

IsInterrupted = Callable[[], bool]

_START_S = 120.0
"""For imports: torch's take long where they aren't in the page cache."""
_SLICE_S = 0.1
_END_S = 1.0
_FOREVER_S = 1e9
_MAX_LINE = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one turn took and gave; without `seconds`, `fault` says why."""

    seconds: float | None = None
    mib: float | None = None
    """Peak memory of the process."""
    digest: str = ""
    """Of the pixels."""
    times_s: tuple[float, ...] = ()
    """From the first frame on."""
    fault: str = ""
    """The end of a sentence that begins with the way."""
    stopped_at_s: float | None = None
    """How long it ran on the clock until it was stopped."""


class _LateError(Exception):
    """A line that didn't come in time."""


def turn(way: str, path: Path, limits: DecodeLimits, *, is_interrupted: IsInterrupted) -> Turn:
    """Runs one of `ways.WAYS` on a file. Raises KeyboardInterrupt as soon as that is asked for."""
    cpu_s = math.ceil(min(2 * limits.timeout_s * (os.cpu_count() or 1), 1 << 30))
    words = (way, str(path.absolute()), str(limits.memory_bytes), str(cpu_s))
    return turn_of(isolated("vllava_cli.media.measuring.contestant", *words), limits, is_interrupted=is_interrupted)


def turn_of(command: Sequence[str], limits: DecodeLimits, *, is_interrupted: IsInterrupted) -> Turn:
    """A turn of a process that says what `contestant` says. `limits.timeout_s` is for preparing, and again to run."""
    try:
        process = _Process(command)
    except OSError as exc:
        return Turn(fault=f"it doesn't start ({fault_of(exc)})")
    try:
        line = process.next_line(_START_S, is_interrupted)
        if line != IMPORTED:
            return _read(line) if line else Turn(fault="it doesn't start")
        line = process.next_line(limits.timeout_s, is_interrupted)
        if line != PREPARED:
            return _read(line)
        try:
            return _read(process.next_line(limits.timeout_s, is_interrupted))
        except _LateError:
            return Turn(fault=f"it took longer than {limits.timeout_s:g} s", stopped_at_s=limits.timeout_s)
    except _LateError:
        return Turn(fault="it took too long to begin")
    finally:
        process.end()


class _Process:
    """A child in a session of its own: Ctrl-C doesn't reach it, and what it has started ends with it."""

    def __init__(self, command: Sequence[str]) -> None:
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self._child = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment(os.environ), start_new_session=True
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def next_line(self, timeout_s: float, is_interrupted: IsInterrupted) -> bytes:
        """Empty when it is gone. Counts slices, not the clock, as it is no work to lie stopped (Ctrl-Z)."""
        for _ in range(math.ceil(min(timeout_s, _FOREVER_S) / _SLICE_S)):
            if is_interrupted():
                raise KeyboardInterrupt
            with suppress(queue.Empty):
                return self._lines.get(timeout=_SLICE_S)
        raise _LateError

    def end(self) -> None:
        if os.name == "posix":
            with suppress(OSError):
                os.killpg(self._child.pid, signal.SIGKILL)
        self._child.kill()
        self._child.wait()
        self._reader.join(_END_S)
        for pipe in (self._child.stdin, self._child.stdout):
            if not self._reader.is_alive():  # else something has escaped with the pipe, and closing would wait for it
                cast("BinaryIO", pipe).close()

    def _read(self) -> None:
        """Three lines at most, then the end."""
        with suppress(OSError, ValueError):
            for _ in range(3):
                self._lines.put(cast("BinaryIO", self._child.stdout).readline(_MAX_LINE))
        self._lines.put(b"")


def _read(line: bytes) -> Turn:
    """What the last line says, if it makes sense."""
    if not line:
        return Turn(fault="it crashed or was ended by its limits")
    try:
        facts = cast("dict[str, Any]", json.loads(line))
        return Turn(fault=_text(facts["fault"])) if "fault" in facts else _finished(facts)
    except (ValueError, TypeError, KeyError, RecursionError):
        return Turn(fault="it answers nonsense")


def _finished(facts: dict[str, Any]) -> Turn:
    times_s = tuple(_number(time_s) for time_s in facts["times_s"])
    digest = facts["digest"]
    if len(times_s) > FRAMES_PER_CLIP or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError
    mib = facts["mib"]
    seconds, peak = _number(facts["seconds"]), None if mib is None else _number(mib)
    return Turn(seconds=seconds, mib=peak, digest=digest, times_s=times_s)


def _number(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(cast("float", value)):
        raise ValueError
    return cast("float", value)


def _text(value: object) -> str:
    if type(value) is not str or not value or len(value) > MAX_FAULT or not value.isprintable():
        raise ValueError
    return value
