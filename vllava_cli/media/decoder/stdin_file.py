"""stdin as a clip: `Reader` decodes clips by the names that the user gave; the name `-` means stdin.

A decoder must be able to seek in its file, so stdin is copied to a private temporary file, which is removed at the end.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from vllava_cli.errors import MediaError, UsageError, os_reason
from vllava_cli.interrupt import GracefulExit
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.decoder.protocol import Answer, Call
from vllava_cli.media.file_check import check_file
from vllava_cli.media.timeline.parts import Cut
from vllava_cli.nouns import STDIN, Clip, DecodeLimits
from vllava_cli.storage.files import CHUNK_BYTES

MAX_BYTES = 2 << 30
_SLICE_S = 0.5


class Reader(DecoderClient):
    """A `DecoderClient` that also reads `-`, which is stdin: messages say stdin, and the clip's path stays `-`."""

    def __init__(self, limits: DecodeLimits | None = None, *, stdin: BinaryIO | None = None) -> None:
        super().__init__(limits)
        self._stdin = stdin
        self._spooled: Path | None = None
        self._ends = ExitStack()

    def __exit__(self, *_: object) -> None:
        with self._ends:
            self.close()

    def check(self, name: Path) -> None:
        """Raises a MediaError at once for a file that can be refused without decoding, for example a missing one."""
        if name != Path(STDIN) and not os.path.isdir(name):
            check_file(name)

    def file(self, name: Path) -> Path:
        """Returns the file for a name; the copy of stdin is there until the end of the `with`. Errors: MediaError."""
        if name != Path(STDIN):
            return name
        if self._spooled is None:
            is_main = threading.current_thread() is threading.main_thread()
            if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # SIGTERM would leave the file behind
                self._ends.enter_context(GracefulExit.watched())
            self._spooled = self._ends.enter_context(spooled(self._stdin or sys.stdin.buffer))
        return self._spooled

    def _ask(self, call: Call, path: Path, **details: Any) -> Answer:
        try:
            found = super()._ask(call, self.file(path), **details)
        except (MediaError, UsageError) as exc:
            raise type(exc)(self._without_path(str(exc))) from exc
        if isinstance(found, Cut):
            return found
        clip = found if isinstance(found, Clip) else found.clip
        faults, notes = (tuple(map(self._without_path, texts)) for texts in (clip.faults, clip.notes))
        clip = replace(clip, path=path, faults=faults, notes=notes, way_reason=self._without_path(clip.way_reason))
        return clip if isinstance(found, Clip) else replace(found, clip=clip)

    def _without_path(self, text: str) -> str:
        return text.replace(f"'{self._spooled}'", "stdin") if self._spooled else text


@contextmanager
def spooled(stdin: BinaryIO, *, max_bytes: int = MAX_BYTES) -> Iterator[Path]:
    """Copies all of `stdin` to a temporary file that only this user may read; removes it at the end of the `with`.

    Errors: MediaError if stdin is empty, larger than `max_bytes`, or can't be copied.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix="vllava-")
    except OSError as exc:
        raise MediaError(f"stdin can't be kept: {exc}. Set TMPDIR to a folder that you may write to.") from exc
    try:
        _copy(stdin, descriptor, max_bytes)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _copy(stdin: BinaryIO, descriptor: int, max_bytes: int) -> None:
    copied = 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            while chunk := _next(stdin):
                copied += len(chunk)
                if copied > max_bytes:
                    most = f"more than {max_bytes / (1 << 30):g} GiB, the most that is taken"
                    raise MediaError(f"stdin has {most}: save it to a file and name that.")
                file.write(chunk)
    except OSError as exc:
        reason = os_reason(exc)
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            place, remedy = f"kept in {tempfile.gettempdir()}", "Set TMPDIR to a folder with room, or name a file"
        else:
            place, remedy = "read", "Save it to a file and name that"
        raise MediaError(f"stdin can't be {place}: {reason}. {remedy}.") from exc
    if not copied:
        raise MediaError("stdin is empty (0 bytes): pipe a video to it, as in cat clip.mp4 | vllava probe -.")


def _next(source: BinaryIO) -> bytes:
    """Reads the next bytes. Waits in slices, because a signal just before a read would be noticed only after it."""
    while os.name == "posix" and not select.select([source], [], [], _SLICE_S)[0]:
        pass
    return os.read(source.fileno(), CHUNK_BYTES)
