"""One decoding process from its start to its end: what it is started with, how long it may take, why it died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

import vllava_cli
from vllava_cli.media.decoder import protocol
from vllava_cli.nouns import Clip, DecodeLimits, Frames

_START_S = 60.0
_SLICE_S = 0.5
_END_S = 3.0
_PIPE_BYTES = 1 << 20

# Imports the very package that runs here, wherever it lies, without adding a folder to those that are searched.
_BOOT = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("vllava_cli", sys.argv.pop(1))
sys.modules["vllava_cli"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from importlib import import_module
import_module(sys.argv.pop(1)).main()
"""

_SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # each more takes 64 MiB of the address space
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # with the next: what one file gave back is kept for the next file
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


class NoAnswerError(Exception):
    """Why there is no answer, as the end of a sentence that begins with the file's name."""

    def __init__(self, reason: str, *, is_certain: bool = False) -> None:
        super().__init__(reason)
        self.is_certain = is_certain
        """A fresh child wouldn't do better."""


class Decoder:
    """A child process that decodes; `files` counts those that it was given.

    `command` stands in for the real child in tests. Errors: NoAnswerError, after which only `end` may be called.
    """

    def __init__(self, limits: DecodeLimits, *, command: Sequence[str] | None = None) -> None:
        self.limits = limits
        self.files = 0
        self.process = _started(command or isolated("vllava_cli.media.decoder.server", str(limits.memory_bytes)))
        self._is_ready = False
        _widen(self._replies)

    def answer(self, request: protocol.Request) -> Frames | Clip:
        """What the child says to one request. Errors: also those of `protocol.read_reply` that are about the file."""
        self._wait_until_ready()
        self.files += 1
        limits = self.limits
        with _deadline(self.process, limits.timeout_s) as is_over:
            try:
                self._requests.write(request.line())
                self._requests.flush()
                return protocol.read_reply(self._replies, request, max_bytes=limits.memory_bytes)
            except (EOFError, BrokenPipeError):
                failure = _failure(self._status(), limits, is_over=is_over())
            except protocol.OutOfMemoryError:
                failure = _too_large(limits)
            except MemoryError:
                failure = NoAnswerError(
                    "has frames that take more memory than there is. Scale it down.", is_certain=True
                )
            except protocol.WireError as exc:
                failure = NoAnswerError(f"made the decoder answer nonsense ({exc}). Convert it to mp4 (H.264).")
        raise failure

    def end(self) -> None:
        self.process.kill()
        for pipe in (self._requests, self._replies):
            with suppress(OSError):
                pipe.close()
        self.process.wait()

    def _wait_until_ready(self) -> None:
        if self._is_ready:
            return
        with _deadline(self.process, _START_S):
            self._is_ready = self._replies.readline(len(protocol.READY)) == protocol.READY
        if not self._is_ready:
            raise _not_started(_ending(self._status()))

    def _status(self) -> int | None:
        """The return code, None for a child that has closed the wire but lives."""
        try:
            return self.process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            return None

    @property
    def _requests(self) -> BinaryIO:
        return cast(BinaryIO, self.process.stdin)

    @property
    def _replies(self) -> BinaryIO:
        return cast(BinaryIO, self.process.stdout)


def isolated(module: str, *words: str) -> list[str]:
    """Runs `main` of a module of this package as a process of its own, `words` being its `sys.argv[1:]`.

    -P: the current folder, which may hold a hostile av.py, is not searched for modules.
    """
    return [sys.executable, "-P", "-c", _BOOT, str(Path(vllava_cli.__file__).absolute()), module, *words]


def environment(caller: Mapping[str, str]) -> dict[str, str]:
    """For `isolated`: an empty or relative entry of PYTHONPATH would be the current folder again."""
    folders = [folder for folder in caller.get("PYTHONPATH", "").split(os.pathsep) if Path(folder).is_absolute()]
    return {**caller, "PYTHONPATH": os.pathsep.join(folders)}


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    try:
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment(os.environ | _SETTINGS)
        )
    except OSError as exc:
        raise _not_started((exc.strerror or str(exc)).lower()) from exc


def _not_started(why: str) -> NoAnswerError:
    return NoAnswerError(f"can't be decoded: the decoder doesn't start ({why}). Install vllava again.", is_certain=True)


def _failure(status: int | None, limits: DecodeLimits, *, is_over: bool) -> NoAnswerError:
    """Why a child went away in the middle of an answer."""
    ending = _ending(status)
    if is_over or ending == "SIGXCPU":
        remedy = "Raise --decode-timeout or cut it with --start and --end."
        return NoAnswerError(f"took longer than {limits.timeout_s:g} s to decode. {remedy}", is_certain=True)
    if ending == "SIGKILL":
        reason = "the decoder was killed (SIGKILL), perhaps for lack of memory. Close other programs."
        return NoAnswerError(f"can't be decoded: {reason}")
    return NoAnswerError(f"can't be decoded: the decoder crashed on it ({ending}). Convert it to mp4 (H.264).")


def _too_large(limits: DecodeLimits) -> NoAnswerError:
    remedy = "Raise --decode-memory or scale it down."
    return NoAnswerError(f"needs more than {limits.memory_bytes / (1 << 30):.1f} GiB to decode. {remedy}")


def _ending(status: int | None) -> str:
    """-11 → "SIGSEGV", 1 → "status 1", None → "no answer"."""
    if status is None:
        return "no answer"
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


@contextmanager
def _deadline(process: subprocess.Popen[bytes], timeout_s: float) -> Iterator[Callable[[], bool]]:
    """Kills the process unless the body ends in time; yields a function that says whether it did."""
    done, over = threading.Event(), threading.Event()
    watch = threading.Thread(target=_watch, args=(process, timeout_s, done, over), daemon=True)
    watch.start()
    try:
        yield over.is_set
    finally:
        done.set()
        watch.join()
        if over.is_set():
            process.wait()


def _watch(process: subprocess.Popen[bytes], timeout_s: float, done: threading.Event, over: threading.Event) -> None:
    """Counts slices, not the clock: the time for which both processes lie stopped (Ctrl-Z) is no decoding."""
    left_s = timeout_s
    while left_s > 0:
        slice_s = min(left_s, _SLICE_S)
        if done.wait(slice_s):
            return
        left_s -= slice_s
    over.set()
    process.kill()


def _widen(pipe: BinaryIO) -> None:
    """Linux gives a pipe 64 KiB; with a megabyte, frames pass in half the time."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
