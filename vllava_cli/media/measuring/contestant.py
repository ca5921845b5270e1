"""What runs in a process of its own for one turn of one way, within limits like those of the process that decodes.

It sends three lines: that everything is imported, that the file is prepared, and what came of it, or why nothing did.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from vllava_cli.media.decoder import server

IMPORTED, PREPARED = b'{"is": "imported"}\n', b'{"is": "prepared"}\n'
MAX_FAULT = 200


def main() -> None:
    """`sys.argv` has the way, the file, and the limits: bytes of memory beyond the imports', CPU seconds."""
    way, name, memory_bytes, cpu_s = sys.argv[1:]
    lifeline, replies = server.taken_pipes()
    server.watch_parent(lifeline)
    try:
        line = _turn(way, Path(name), partial(_send, replies), int(memory_bytes), int(cpu_s))
    except Exception as exc:
        line = {"fault": fault_of(exc)}
    _send(replies, json.dumps(line).encode("ascii") + b"\n")


def _send(replies: BinaryIO, line: bytes) -> None:
    replies.write(line)
    replies.flush()


def fault_of(error: Exception) -> str:
    """What went wrong, without the file's name that FFmpeg adds: "Invalid data found when processing input"."""
    if isinstance(error, MemoryError):
        return "it needs more memory than it may take"
    text = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0] or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_FAULT]).strip().rstrip(".")


def _turn(way: str, path: Path, send: Callable[[bytes], object], memory_bytes: int, cpu_s: int) -> dict[str, Any]:
    from vllava_cli.media.measuring.ways import WAYS

    if way == "torchcodec":
        import_module("torchcodec.decoders")
    server.bound(memory_bytes + _address_space_bytes())
    server.bound_cpu(cpu_s)
    send(IMPORTED)
    run = WAYS[way](path)
    send(PREPARED)
    started_s = time.perf_counter()
    eight = run()
    seconds = time.perf_counter() - started_s
    mib = None if way == "ffmpeg" else _peak_mib()
    return {"seconds": seconds, "mib": mib, "digest": eight.digest, "times_s": eight.offsets_s}


def _address_space_bytes() -> int:
    """What the imports have taken of it: with torch, more than decoding ever does."""
    return (_status_kib("VmSize") or 0) << 10


def _peak_mib() -> float | None:
    """Of this process alone: ru_maxrss of a child begins with its parent's peak on Linux; None elsewhere."""
    kib = _status_kib("VmHWM")
    return None if kib is None else kib / 1024


def _status_kib(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
