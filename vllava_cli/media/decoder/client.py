"""`Guard` gives what `sample`, `probe` and `header` give, but lets a bounded child process do the decoding.

The child is reused for many files. Whatever a file does to it, the caller gets frames or one sentence.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from vllava_cli.errors import MediaError, UsageError, quoted
from vllava_cli.media.decoder.process import Decoder, NoAnswerError
from vllava_cli.media.decoder.protocol import Call, DecoderBugError, Request
from vllava_cli.nouns import Clip, DecodeLimits, Frames, Framing, Tiles

_KILL_S = 5.0


class KilledError(Exception):
    """The guard was killed, perhaps in the middle of this call."""


class Guard:
    """Runs `sample`, `probe` and `header` in one child process at a time.

    Calls from several threads wait for each other; a forked process needs a guard of its own. A child that dies is
    replaced. A file is blamed only for what it does to a fresh child: one that has read other files before may suffer
    from those.
    """

    def __init__(self, limits: DecodeLimits | None = None, *, command: Sequence[str] | None = None) -> None:
        self._limits = limits or DecodeLimits()
        self._command = command
        self._child: Decoder | None = None
        self._is_killed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's number, None while there is none."""
        return self._child.process.pid if self._child else None

    def start(self) -> None:
        """Starts the child ahead of the first file and returns at once; a failure shows with the first file."""
        with self._lock, suppress(NoAnswerError):
            self._ready_child()

    def sample(self, path: Path, framing: Framing, *, tiles: Tiles | None = None) -> Frames:
        """As `sample.sample`; with `tiles`, the child makes these of the frames, and nothing larger comes back.

        Errors: MediaError, UsageError; DecoderBugError for what is our own fault.
        """
        return cast(Frames, self._ask("sample", path, framing=framing, tiles=tiles))

    def probe(self, path: Path, *, is_full: bool = False) -> Clip:
        """As `sample.probe`. Errors: those of `sample`."""
        return cast(Clip, self._ask("probe", path, is_full=is_full))

    def header(self, path: Path) -> Clip:
        """As `header.header`. Errors: those of `sample`."""
        return cast(Clip, self._ask("header", path))

    def close(self) -> None:
        """Ends the child; a later call starts another one."""
        if self._child:
            self._child.end()
            self._child = None

    def kill(self) -> None:
        """Ends the child for good, from any thread; a call that is under way, and later ones, raise KilledError.

        A child that the system can't end, because a disk doesn't answer, is left behind after some seconds.
        """
        self._is_killed = True
        if child := self._child:
            child.process.kill()
        if self._lock.acquire(timeout=_KILL_S):
            try:
                self.close()
            finally:
                self._lock.release()

    def _ask(self, call: Call, path: Path, **details: Any) -> Frames | Clip:
        request = Request(
            call=call,
            path=path,
            folder=_folder_for(path),
            cpu_s=_cpu_seconds(self._limits),
            **details,
        )
        with self._lock:
            try:
                return self._answer(request)
            except NoAnswerError as failure:
                raise MediaError(f"{quoted(path)} {failure}") from failure

    def _answer(self, request: Request) -> Frames | Clip:
        while True:
            child = self._ready_child()
            try:
                self._check_life()  # only now: of `kill` and this, at least one sees what the other has set
                return child.answer(request)
            except (MediaError, UsageError, DecoderBugError):
                raise
            except NoAnswerError as failure:
                self.close()
                self._check_life()
                if failure.is_certain or child.files == 1:
                    raise
            except BaseException:
                self.close()
                raise

    def _ready_child(self) -> Decoder:
        self._check_life()
        if not self._child:
            self._child = Decoder(self._limits, command=self._command)
        return self._child

    def _check_life(self) -> None:
        if self._is_killed:
            raise KilledError


def _cpu_seconds(limits: DecodeLimits) -> int:
    return math.ceil(min(limits.timeout_s * (os.cpu_count() or 1), 1 << 30))


def _folder_for(path: Path) -> str:
    """Where the child looks a relative path up; "" where that doesn't matter or the folder is gone."""
    if path.is_absolute():
        return ""
    try:
        return str(Path.cwd())
    except OSError:
        return ""
