"""Copies stdin to a private temporary file, because a decoder must be able to seek. Nothing heavy is imported."""

from __future__ import annotations

import errno
import os
import select
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vllava_cli.errors import MediaError, os_reason
from vllava_cli.storage.files import CHUNK_BYTES

MAX_BYTES = 2 << 30
_SLICE_S = 0.5


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
