"""`DecoderClient` reads media in another process, which has limits of time and memory: `sample`, `probe`, `windows` …

The process is reused for many files. Whatever a file does to it, the caller gets frames, or an error of one sentence.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import vllava_cli
from vllava_cli.errors import MediaError, UsageError, os_reason, quoted
from vllava_cli.media.decoder import protocol
from vllava_cli.media.timeline.parts import Cut, Cutting
from vllava_cli.nouns import (
    Clip,
    ClipWindows,
    DecodeLimits,
    Frames,
    Framing,
    Subtitles,
    Tiles,
    Windowing,
)

_START_S = 60.0
_SLICE_S = 0.5
_END_S = 3.0
_KILL_S = 5.0
_CUT_TIMES = 10.0
"""A part of a clip that is cut out may take so many seconds more for each of its own seconds."""
_PIPE_BYTES = 1 << 20
"""Linux gives a pipe 64 KiB; with a megabyte, frames pass in half the time."""

# Imports the same package that runs here, wherever it is, without adding a folder to sys.path.
_BOOT = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("vllava_cli", sys.argv.pop(1))
sys.modules["vllava_cli"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from vllava_cli.media.decoder.server import main
main()
"""

_SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # each further arena takes 64 MiB of the address space
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # with the next line: freed memory is kept for the next file
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


class KilledError(Exception):
    """The client was killed, perhaps during this very call."""


class NoAnswerError(Exception):
    """The process gave no answer; the message is the end of a sentence that begins with the file's name."""

    def __init__(self, reason: str, *, is_certain: bool = False) -> None:
        super().__init__(reason)
        self.is_certain = is_certain
        """True if a fresh process would fail, too."""


class DecoderClient:
    """Runs `sample`, `probe` and `header` in one process at a time.

    Calls from several threads wait for each other; a forked process needs a client of its own. A decoding process that
    dies is replaced. A file is blamed only if a fresh process fails on it: a process that has read other files may
    suffer from those. Tests use `command` to replace the real process.
    """

    def __init__(
        self,
        limits: DecodeLimits | None = None,
        *,
        command: Sequence[str] | None = None,
        folder: Path | None = None,
        cores: int | None = None,
    ) -> None:
        self.folder = folder
        """The folder in which relative paths are looked up; None is the current folder."""
        self._limits = limits or DecodeLimits()
        self._command = command
        self._cores = cores
        """The most cores that the frames of one file are decoded by; None is all that the process may use."""
        self._process: DecoderProcess | None = None
        self._is_killed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The id of the decoding process; None while there is none."""
        return self._process.popen.pid if self._process else None

    def start(self) -> None:
        """Starts the process before the first file and returns at once. A failure is reported with the first file."""
        with self._lock, suppress(NoAnswerError):
            self._ready_process()

    def sample(self, path: Path, framing: Framing, *, tiles: Tiles | None = None) -> Frames:
        """Runs `sample.sample` in the process; with `tiles`, the process reduces the frames to tiles.

        Errors: MediaError, UsageError; DecoderBugError for a bug of ours; KilledError.
        """
        return cast(Frames, self._ask("sample", path, framing=framing, tiles=tiles))

    def probe(self, path: Path, *, is_full: bool = False) -> Clip:
        """Runs `sample.probe` in the process. Errors: those of `sample`."""
        return cast(Clip, self._ask("probe", path, is_full=is_full))

    def header(self, path: Path) -> Clip:
        """Runs `sample.header` in the process. Errors: those of `sample`."""
        return cast(Clip, self._ask("header", path))

    def windows(self, windowing: Windowing, framing: Framing, path: Path) -> ClipWindows:
        """Runs `clip_windows` in the process, in which the clip then stays open. Errors: those of `sample`."""
        return cast(ClipWindows, self._ask("windows", path, framing=framing, windowing=windowing))

    def window(self, path: Path, framing: Framing, following: tuple[Framing, ...] = ()) -> Frames:
        """Returns what `sample` returns, but keeps the clip open, so that another window of it is read sooner.

        `following` are the framings of the windows that are likely to be asked for next. Errors: those of `sample`.
        """
        return cast(Frames, self._ask("window", path, framing=framing, following=following))

    def subtitles(self, path: Path, sidecar: Path | None = None) -> Subtitles:
        """Reads all lines of a subtitle file, or of the clip's text track; what can't be read is a fault of them.

        Errors: DecoderBugError; KilledError.
        """
        try:
            return cast(Subtitles, self._ask("subtitles", path, sidecar=sidecar))
        except MediaError as exc:
            return Subtitles(faults=(f"What is spoken in {quoted(path)} isn't read: {exc}",))

    def documented(self, path: Path) -> Clip:
        """Runs `full_decode.documented` in the process. Errors: those of `sample`."""
        return cast(Clip, self._ask("documented", path))

    def cut(self, path: Path, cutting: Cutting, into: BinaryIO) -> Cut:
        """Runs `cutting.cut` in the process, and writes the file that it makes `into` an empty, seekable one.

        The process itself may write no file. Errors: those of `sample`; OSError if `into` can't be written.
        """
        request = self._request("cut", path, cutting=cutting, more_s=_CUT_TIMES * cutting.length_s)
        return cast(Cut, self._answered(request, into))

    def close(self) -> None:
        """Ends the process; a later call starts another one."""
        if self._process:
            self._process.end()
            self._process = None

    def kill(self) -> None:
        """Ends the process for good, from any thread; the call that is under way and later calls raise KilledError.

        If the system can't end the process, because a disk doesn't answer, it is left behind after some seconds.
        """
        self._is_killed = True
        if process := self._process:
            process.popen.kill()
        if self._lock.acquire(timeout=_KILL_S):
            try:
                self.close()
            finally:
                self._lock.release()

    def _ask(self, call: protocol.Call, path: Path, **details: Any) -> protocol.Found:
        return self._answered(self._request(call, path, **details))

    def _request(self, call: protocol.Call, path: Path, *, more_s: float = 0.0, **details: Any) -> protocol.Request:
        return protocol.Request(
            call=call,
            path=path,
            folder=self._folder_for(path) or self._folder_for(details.get("sidecar") or path),
            cpu_s=math.ceil(min((self._limits.timeout_s + more_s) * (os.cpu_count() or 1), 1 << 30)),
            more_s=more_s,
            **details,
        )

    def _folder_for(self, path: Path) -> str:
        """Returns the folder in which the process looks up a relative path; "" if none is needed or it is gone."""
        if path.is_absolute():
            return ""
        with suppress(OSError):
            return str(self.folder or Path.cwd())
        return ""

    def _answered(self, request: protocol.Request, into: BinaryIO | None = None) -> protocol.Found:
        with self._lock:
            try:
                return self._answer(request, into)
            except NoAnswerError as failure:
                raise MediaError(f"{quoted(request.path)} {failure}") from failure

    def _answer(self, request: protocol.Request, into: BinaryIO | None) -> protocol.Found:
        while True:
            process = self._ready_process()
            try:
                self._check_life()  # only now: either this sees that `kill` was called, or `kill` sees the process
                return process.answer(request, into)
            except NoAnswerError as failure:
                self.close()
                self._check_life()
                if failure.is_certain or process.files == 1:
                    raise
                if into:
                    into.seek(0)
                    into.truncate()
            except (protocol.DecoderBugError, MediaError, UsageError):
                raise
            except BaseException:
                self.close()
                raise

    def _ready_process(self) -> DecoderProcess:
        self._check_life()
        if not self._process:
            self._process = DecoderProcess(self._limits, command=self._command, cores=self._cores)
        return self._process

    def _check_life(self) -> None:
        if self._is_killed:
            raise KilledError


class DecoderProcess:
    """A process that decodes; `files` counts the requests that it was sent.

    Errors: NoAnswerError. After that, only `end` may be called.
    """

    def __init__(self, limits: DecodeLimits, *, command: Sequence[str] | None = None, cores: int | None = None) -> None:
        self.files = 0
        self.popen = _started(command or _server_command(limits), cores)
        self._limits = limits
        self._requests, self._replies = cast(BinaryIO, self.popen.stdin), cast(BinaryIO, self.popen.stdout)
        self._is_ready = False
        with suppress(ImportError, AttributeError, OSError):
            import fcntl

            fcntl.fcntl(self._replies, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def answer(self, request: protocol.Request, into: BinaryIO | None = None) -> protocol.Found:
        """Sends a request and returns the answer. Errors: NoAnswerError, MediaError, UsageError, DecoderBugError."""
        self._wait_until_ready()
        self.files += 1
        limits = self._limits
        with _deadline(self.popen, limits.timeout_s + request.more_s) as is_over:
            try:
                pickle.dump(request, self._requests)
                self._requests.flush()
                return protocol.read_reply(self._replies, request, max_bytes=limits.memory_bytes, into=into)
            except (EOFError, BrokenPipeError):
                failure = _failure(_ending(self.popen), limits, is_over=is_over())
            except protocol.OutOfMemoryError:
                needed = f"needs more than {limits.memory_bytes / (1 << 30):.1f} GiB to decode"
                failure = NoAnswerError(f"{needed}. Raise --decode-memory or scale it down.")
            except MemoryError:
                reason = "has frames that take more memory than there is. Scale it down."
                failure = NoAnswerError(reason, is_certain=True)
            except protocol.ProtocolError as exc:
                failure = NoAnswerError(f"made the decoder send an invalid answer ({exc}). Convert it to mp4 (H.264).")
        raise failure

    def end(self) -> None:
        self.popen.kill()
        for pipe in (self._requests, self._replies):
            with suppress(OSError):
                pipe.close()
        self.popen.wait()

    def _wait_until_ready(self) -> None:
        if self._is_ready:
            return
        with _deadline(self.popen, _START_S):
            self._is_ready = self._replies.readline(len(protocol.READY)) == protocol.READY
        if not self._is_ready:
            raise _not_started(_ending(self.popen))


def _server_command(limits: DecodeLimits) -> list[str]:
    """Returns the command that runs the server; -P keeps it from importing a hostile av.py of the current folder."""
    return [sys.executable, "-P", "-c", _BOOT, str(Path(vllava_cli.__file__).absolute()), str(limits.memory_bytes)]


def _started(command: Sequence[str], cores: int | None) -> subprocess.Popen[bytes]:
    """Starts a process without the empty and relative entries of PYTHONPATH, which lead to the current folder."""
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(folder).is_absolute()]
    environment = os.environ | _SETTINGS | {"PYTHONPATH": os.pathsep.join(folders)}
    environment |= {protocol.CORES_SETTING: str(cores)} if cores else {}
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment)
    except OSError as exc:
        raise _not_started(os_reason(exc)) from exc


def _not_started(why: str) -> NoAnswerError:
    return NoAnswerError(f"can't be decoded: the decoder doesn't start ({why}). Install vllava again.", is_certain=True)


def _failure(ending: str, limits: DecodeLimits, *, is_over: bool) -> NoAnswerError:
    """Makes the error for a process that ended in the middle of an answer."""
    if is_over or ending == "SIGXCPU":
        remedy = "Raise --decode-timeout or cut it with --start and --end."
        return NoAnswerError(f"took longer than {limits.timeout_s:g} s to decode. {remedy}", is_certain=True)
    if ending == "SIGKILL":
        reason = "the decoder was killed (SIGKILL), perhaps for lack of memory. Close other programs."
        return NoAnswerError(f"can't be decoded: {reason}")
    return NoAnswerError(f"can't be decoded: the decoder crashed on it ({ending}). Convert it to mp4 (H.264).")


def _ending(popen: subprocess.Popen[bytes]) -> str:
    """Tells how a process ended: "SIGSEGV", "status 1"; "no answer" if it closed its pipe but still runs."""
    try:
        status = popen.wait(timeout=_END_S)
    except subprocess.TimeoutExpired:
        return "no answer"
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


@contextmanager
def _deadline(popen: subprocess.Popen[bytes], timeout_s: float) -> Iterator[Callable[[], bool]]:
    """Kills the process unless the `with` body ends in time; yields a function that returns True if it was killed."""
    done, over = threading.Event(), threading.Event()

    def watch() -> None:
        """Adds up short waits instead of reading the clock, so that time while Ctrl-Z stops both doesn't count."""
        left_s = timeout_s
        while left_s > 0:
            slice_s = min(left_s, _SLICE_S)
            if done.wait(slice_s):
                return
            left_s -= slice_s
        over.set()
        popen.kill()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield over.is_set
    finally:
        done.set()
        thread.join()
        if over.is_set():
            popen.wait()
