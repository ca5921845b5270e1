"""The decoding process: answers requests one after another within hard limits, and ends with its parent."""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vllava_cli.errors import MediaError, os_reason, quoted
from vllava_cli.media.decoder import protocol
from vllava_cli.nouns import Frames, Windowing

if TYPE_CHECKING:
    from vllava_cli.media.timeline.open_clip import OpenClip

try:
    import resource
except ImportError:  # on Windows, the parent's clock is the only limit
    resource = None  # type: ignore[assignment]

MODULES = (*("vllava_cli.media.sample", "av.subtitles.codeccontext", "av.subtitles.stream", "PIL.MpoImagePlugin"),)
"""The modules that decoding needs. They are imported early, because memory may be short in the middle of a file."""
_OPEN_FILES = 64
_SMALL_STACK_BYTES = 1 << 18


def main() -> None:
    """Answers the requests on stdin until stdin ends; `sys.argv[1]` is the memory limit in bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes, but the parent decides
    requests, replies = taken_pipes()
    watch_parent(requests)
    for module in MODULES:  # after the pipes are taken: an import may print, and nothing of that may get into them
        import_module(module)
    memory_bytes = int(sys.argv[1])
    bound(memory_bytes)
    with suppress(OSError):  # when RAM runs out, Linux ends this process before the one that holds the model
        Path("/proc/self/oom_score_adj").write_text("1000")
    replies.write(protocol.READY)
    replies.flush()
    gc.freeze()
    kept = KeptClip()
    while requests.peek(1):
        answer(pickle.load(requests), replies, memory_bytes, kept)
        gc.collect()  # containers are in reference cycles: until collected, their decoders' threads keep their stacks


class KeptClip:
    """The clip whose windows were asked for last; it stays open until another file, or another call, is asked for."""

    def __init__(self) -> None:
        self._clip: OpenClip | None = None
        self._state: tuple[object, ...] = ()

    def of(self, request: protocol.Request) -> OpenClip:
        """Returns the clip of a request, which is opened unless it is the kept one and hasn't changed."""
        from vllava_cli.media.timeline.open_clip import open_clip

        path, framing = request.path, request.framing
        state: tuple[object, ...] = request.folder, path, framing.background, framing.is_as_stored
        with suppress(OSError, ValueError):  # opening it gives the reason
            facts = path.stat()
            state += facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
        if self._clip is None or state != self._state:
            self.close()
            self._clip, self._state = open_clip(path, framing), state
        return self._clip

    def close(self) -> None:
        clip, self._clip = self._clip, None
        if clip:
            clip.close()


def answer(request: protocol.Request, replies: BinaryIO, memory_bytes: int, kept: KeptClip | None = None) -> None:
    """Carries out a request and sends exactly one reply, whatever happens."""
    kept = kept or KeptClip()
    pixels = None
    try:
        bound_cpu(request.cpu_s)
        result = _result(request, replies, kept)
        if isinstance(result, Frames):
            if result.pixels.nbytes > memory_bytes:  # more than the caller takes; the system may enforce no limit
                raise MemoryError
            pixels = protocol.pictures(result)
        line = protocol.result_line(result, pixels)
    except Exception as exc:
        pixels, line = None, protocol.error_line(exc)
    replies.write(line)
    if pixels is not None:
        replies.write(pixels.data)
    replies.flush()


def _result(request: protocol.Request, replies: BinaryIO, kept: KeptClip) -> protocol.Found:
    try:
        if request.folder:
            os.chdir(request.folder)
    except OSError as exc:
        raise MediaError(f"{quoted(request.path)} can't be read: {os_reason(exc)}. Check the path.") from exc
    if request.call not in ("windows", "window", "subtitles"):
        kept.close()
    if request.cutting:
        from vllava_cli.media.timeline.cutting import cut

        return cut(request.path, request.cutting, protocol.SentFile(replies))
    return _read(request, kept)


def _read(request: protocol.Request, kept: KeptClip) -> protocol.Found:
    from vllava_cli.media.sample import header, memory_faults, probe, sample
    from vllava_cli.media.select import check_trim
    from vllava_cli.media.timeline.subtitles import read_subtitles
    from vllava_cli.media.video.full_decode import documented

    match request.call:
        case "header":
            return header(request.path)
        case "probe":
            return probe(request.path, is_full=request.is_full)
        case "subtitles":
            return read_subtitles(request.path, request.sidecar)
        case "documented":
            return documented(request.path)
        case "windows":
            from vllava_cli.media.timeline.clip_windows import clip_windows

            with memory_faults(request.path):
                return clip_windows(kept.of(request), request.windowing or Windowing(), request.framing)
        case "window":
            check_trim(request.framing)
            with memory_faults(request.path):
                return kept.of(request).frames(request.framing, request.following)
        case "sample" | "cut":
            frames = sample(request.path, request.framing)
            if request.tiles is None:
                return frames
            from vllava_cli.media.contact_sheet import tiled

            return tiled(frames, request.tiles, fit=request.framing.fit)


def taken_pipes() -> tuple[BufferedReader, BinaryIO]:
    """Returns stdin and stdout as new descriptors; from then on, libraries read from and print to the null device."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    return requests, replies


def watch_parent(requests: BinaryIO) -> None:
    """Starts a thread that ends this process when its parent ends or closes the pipe. Does nothing on Windows."""
    if hasattr(select, "poll"):
        before = threading.stack_size(_SMALL_STACK_BYTES)
        threading.Thread(target=_end_with, args=(os.getppid(), requests), daemon=True).start()
        threading.stack_size(before)


def _end_with(parent: int, requests: BinaryIO) -> None:
    """Ends this process, even in the middle of a file, when the parent is gone or has closed the pipe.

    Linux could send a signal instead, but when the thread that started this process ends, not when the parent does.
    """
    pipe_end = select.poll()
    pipe_end.register(requests, 0)
    while not pipe_end.poll(1000) and os.getppid() == parent:
        pass
    os._exit(0)


def bound(memory_bytes: int) -> None:
    """Limits this process for its whole life. macOS refuses or ignores RLIMIT_AS; there only the time is limited."""
    if resource is None:
        return
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        _, hard = resource.getrlimit(limit)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))


def bound_cpu(seconds: int) -> None:
    """Lets the system end this process with SIGXCPU after `seconds` more CPU seconds."""
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
