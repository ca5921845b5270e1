"""What runs in the guard's child: answers requests one after another within hard limits, and ends with its parent."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from vllava_cli.errors import MediaError, UsageError
from vllava_cli.media import wire
from vllava_cli.media.splice import give
from vllava_cli.nouns import Frames

try:
    import resource
except ImportError:  # Windows: the parent's clock is the only limit
    resource = None  # type: ignore[assignment]

_OPEN_FILES = 64
_SMALL_STACK_BYTES = 1 << 18
_MODULES = (
    *("vllava_cli.media.sample", "vllava_cli.media.header"),
    *("av.subtitles.codeccontext", "av.subtitles.stream", "PIL.MpoImagePlugin"),
)
"""What decoding takes; the libraries would import theirs in the middle of a file, where memory may be short already."""


def main() -> None:
    """Answers what comes on stdin until that ends; `sys.argv[1]` is the memory limit in bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes, but the parent decides
    requests, replies = _taken_wire()
    if hasattr(select, "poll"):
        _watch_parent(requests)
    for module in _MODULES:  # after the wire is taken: what an import prints must not land on it
        import_module(module)
    _bound(int(sys.argv[1]))
    _offer()
    _send(replies, wire.READY)
    kept: list[Frames] = []
    gc.freeze()
    for line in requests:
        kept.clear()
        _answer(wire.Request.read(line), replies, kept)
        gc.collect()  # containers lie in cycles: until they are found, their decoders' threads keep their stacks


def _answer(request: wire.Request, replies: int, kept: list[Frames]) -> None:
    """Sends exactly one reply, whatever happens; frames stay in `kept` as long as the wire may hold their pages."""
    from vllava_cli.media.header import header
    from vllava_cli.media.sample import probe, sample

    try:
        _bound_cpu(request.cpu_s)
        _enter(request)
        match request.call:
            case "header":
                line = wire.clip_line(header(request.path))
            case "probe":
                line = wire.clip_line(probe(request.path, is_full=request.is_full))
            case "sample":
                kept.append(_in_one_piece(sample(request.path, request.framing)))
                line = wire.frames_line(kept[0])
    except Exception as exc:
        kept.clear()
        line = _error_line(exc)
    _send(replies, line)
    for frames in kept:
        give(replies, frames.pixels)


def _in_one_piece(frames: Frames) -> Frames:
    return frames if frames.pixels.flags.c_contiguous else replace(frames, pixels=frames.pixels.copy())


def _error_line(error: Exception) -> bytes:
    if _is_memory_short(error):
        return wire.memory_line()
    if isinstance(error, MediaError | UsageError):
        return wire.error_line(error)
    return wire.bug_line("".join(traceback.format_exception(error)))


def _is_memory_short(error: BaseException | None) -> bool:
    """Whether at the bottom of it memory was refused: to Python, to FFmpeg (ENOMEM) or for a thread (EAGAIN)."""
    while error is not None and not isinstance(error, MemoryError | BlockingIOError):
        error = error.__cause__
    return error is not None


def _taken_wire() -> tuple[BinaryIO, int]:
    """stdin and stdout under other numbers; what a library reads or prints goes to the null device instead."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    return requests, replies


def _watch_parent(requests: BinaryIO) -> None:
    before = threading.stack_size(_SMALL_STACK_BYTES)
    threading.Thread(target=_end_with, args=(os.getppid(), requests), daemon=True).start()
    threading.stack_size(before)


def _end_with(parent: int, requests: BinaryIO) -> None:
    """Ends this process, even in the middle of a file, when the parent is gone or has closed the wire.

    Linux could send a signal instead, but at the end of the thread that started us, not of the process.
    """
    wire_end = select.poll()
    wire_end.register(requests, 0)
    while not wire_end.poll(1000) and os.getppid() == parent:
        pass
    os._exit(0)


def _bound(memory_bytes: int) -> None:
    """Limits for the process's whole life. macOS refuses or ignores RLIMIT_AS: there the clocks must do."""
    if resource is None:
        return
    _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)


def _offer() -> None:
    """Where RAM runs out, Linux ends this process, which can be replaced, before the one that holds the model."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _lower(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    try:
        resource.setrlimit(limit, (value, value))
    except (OSError, ValueError):
        return


def _bound_cpu(seconds: int) -> None:
    """From now on; past it the system ends us with SIGXCPU."""
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _enter(request: wire.Request) -> None:
    if not request.folder:
        return
    try:
        os.chdir(request.folder)
    except OSError as exc:
        from vllava_cli.media.files import shown

        raise MediaError(
            f"{shown(request.path)} can't be read: {(exc.strerror or '').lower()}. Check the path."
        ) from exc


def _send(replies: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(replies, rest) :]
