"""What a decoding process does to itself: hard limits, its standard streams out of reach, an end with its parent."""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import resource
except ImportError:  # Windows: the parent's clock is the only limit
    resource = None  # type: ignore[assignment]

_OPEN_FILES = 64
_SMALL_STACK_BYTES = 1 << 18


def taken_wire() -> tuple[BinaryIO, int]:
    """stdin and stdout under other numbers; what a library reads or prints goes to the null device instead."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    return requests, replies


def send(replies: int, line: bytes) -> None:
    """All of it, however little the pipe takes at once."""
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(replies, rest) :]


def watch_parent(requests: BinaryIO) -> None:
    """From now on this process ends when its parent does, or when that closes the wire; not on Windows."""
    if hasattr(select, "poll"):
        before = threading.stack_size(_SMALL_STACK_BYTES)
        threading.Thread(target=_end_with, args=(os.getppid(), requests), daemon=True).start()
        threading.stack_size(before)


def bound(memory_bytes: int) -> None:
    """Limits for the process's whole life. macOS refuses or ignores RLIMIT_AS: there the clocks must do."""
    if resource is None:
        return
    _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)


def bound_cpu(seconds: int) -> None:
    """From now on; past it the system ends us with SIGXCPU."""
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def offer() -> None:
    """Where RAM runs out, Linux ends this process, which can be replaced, before the one that holds the model."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with(parent: int, requests: BinaryIO) -> None:
    """Ends this process, even in the middle of a file, when the parent is gone or has closed the wire.

    Linux could send a signal instead, but at the end of the thread that started us, not of the process.
    """
    wire_end = select.poll()
    wire_end.register(requests, 0)
    while not wire_end.poll(1000) and os.getppid() == parent:
        pass
    os._exit(0)


def _lower(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    try:
        resource.setrlimit(limit, (value, value))
    except (OSError, ValueError):
        return
