"""What runs in the guard's child: answers requests one after another within hard limits, and ends with its parent."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from importlib import import_module

import numpy as np
import numpy.typing as npt

from vllava_cli.errors import MediaError, UsageError
from vllava_cli.media.decoder import protocol, rlimits
from vllava_cli.media.decoder.splice import give
from vllava_cli.nouns import Frames

_MODULES = (
    *("vllava_cli.media.sample", "vllava_cli.media.header"),
    *("av.subtitles.codeccontext", "av.subtitles.stream", "PIL.MpoImagePlugin"),
)
"""What decoding takes; the libraries would import theirs in the middle of a file, where memory may be short already."""


def main() -> None:
    """Answers what comes on stdin until that ends; `sys.argv[1]` is the memory limit in bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes, but the parent decides
    requests, replies = rlimits.taken_wire()
    rlimits.watch_parent(requests)
    for module in _MODULES:  # after the wire is taken: what an import prints must not land on it
        import_module(module)
    memory_bytes = int(sys.argv[1])
    rlimits.bound(memory_bytes)
    rlimits.offer()
    rlimits.send(replies, protocol.READY)
    kept: list[npt.NDArray[np.uint8]] = []
    gc.freeze()
    for line in requests:
        kept.clear()
        answer(protocol.Request.read(line), replies, kept, memory_bytes)
        gc.collect()  # containers lie in cycles: until they are found, their decoders' threads keep their stacks


def answer(request: protocol.Request, replies: int, kept: list[npt.NDArray[np.uint8]], memory_bytes: int) -> None:
    """Sends exactly one reply, whatever happens; pixels stay in `kept` as long as the wire may hold their pages."""
    from vllava_cli.media.header import header
    from vllava_cli.media.sample import probe, sample

    try:
        rlimits.bound_cpu(request.cpu_s)
        _enter(request)
        match request.call:
            case "header":
                line = protocol.clip_line(header(request.path))
            case "probe":
                line = protocol.clip_line(probe(request.path, is_full=request.is_full))
            case "sample":
                frames = _tiled(sample(request.path, request.framing), request)
                if frames.pixels.nbytes > memory_bytes:  # what the caller may get, also where no limit holds us
                    raise MemoryError
                kept.append(protocol.pictures(frames))
                line = protocol.frames_line(frames, len(kept[0]))
    except Exception as exc:
        kept.clear()
        line = _error_line(exc)
    rlimits.send(replies, line)
    for pixels in kept:
        give(replies, pixels)


def _tiled(frames: Frames, request: protocol.Request) -> Frames:
    if request.tiles is None:
        return frames
    from vllava_cli.media.contact_sheet import tiled

    return tiled(frames, request.tiles, fit=request.framing.fit)


def _error_line(error: Exception) -> bytes:
    if _is_memory_short(error):
        return protocol.memory_line()
    if isinstance(error, MediaError | UsageError):
        return protocol.error_line(error)
    return protocol.bug_line("".join(traceback.format_exception(error)))


def _is_memory_short(error: BaseException | None) -> bool:
    """Whether at the bottom of it memory was refused: to Python, to FFmpeg (ENOMEM) or for a thread (EAGAIN)."""
    while error is not None and not isinstance(error, MemoryError | BlockingIOError):
        error = error.__cause__
    return error is not None


def _enter(request: protocol.Request) -> None:
    if not request.folder:
        return
    try:
        os.chdir(request.folder)
    except OSError as exc:
        from vllava_cli.errors import quoted

        raise MediaError(
            f"{quoted(request.path)} can't be read: {(exc.strerror or '').lower()}. Check the path."
        ) from exc
