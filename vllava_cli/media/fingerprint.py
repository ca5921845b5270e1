"""Fingerprints tell an unchanged clip from a changed one: its size and the SHA-256 of its content."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from vllava_cli.errors import MediaError, os_reason, quoted
from vllava_cli.interrupt import never
from vllava_cli.media.file_check import opened_file
from vllava_cli.storage.files import CHUNK_BYTES


class StoppedError(Exception):
    """The caller asked to stop; not a failure."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The size and content of a file; of a folder, of its pictures together, with their names and in their order."""

    bytes: int
    sha256: str


class Hashing:
    """Fingerprints of clips, computed one after the other in a thread while the model works."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fingerprint")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, path: Path) -> Future[Fingerprint]:
        """The file is opened at once: what replaces it or removes it later changes nothing. Raises no error itself."""
        file: BinaryIO | None = None
        with suppress(MediaError):  # of a folder, or one that the thread meets again
            file = opened_file(path)
        return self._thread.submit(fingerprint, path, self._is_over.is_set, file)

    def close(self) -> None:
        """Gives up the rest within a mebibyte; its futures then raise a StoppedError or are cancelled."""
        self._is_over.set()
        self._thread.shutdown(cancel_futures=True)


def fingerprint(path: Path, is_stopped: Callable[[], bool] = never, file: BinaryIO | None = None) -> Fingerprint:
    """Reads all of a file, which may be open already, or of the pictures of a folder.

    Errors: MediaError; StoppedError within a mebibyte.
    """
    whole, size = hashlib.sha256(), 0
    if file is None and os.path.isdir(path):
        for picture in _pictures(path):
            part = fingerprint(picture, is_stopped)
            name = os.fsencode(picture.name)
            whole.update(b"%d %d %b %b\n" % (len(name), part.bytes, name, part.sha256.encode()))
            size += part.bytes
        return Fingerprint(bytes=size, sha256=whole.hexdigest())
    try:
        with file or opened_file(path) as content:
            while chunk := content.read(CHUNK_BYTES):
                if is_stopped():
                    raise StoppedError
                whole.update(chunk)
                size += len(chunk)
    except OSError as exc:
        raise MediaError(f"{quoted(path)} can't be read: {os_reason(exc)}. Check the disk.") from exc
    return Fingerprint(bytes=size, sha256=whole.hexdigest())


def differs(path: Path, recorded: Fingerprint, is_stopped: Callable[[], bool] = never) -> str | None:
    """A sentence about the difference from `recorded`; None if there is none. Hashes only where the sizes agree."""
    if sentence := resized(path, recorded.bytes):
        return sentence
    try:
        is_same = fingerprint(path, is_stopped) == recorded
    except MediaError as exc:
        return str(exc)
    return None if is_same else f"{quoted(path)} has changed since: as many bytes as then, other content."


def resized(path: Path, size: int) -> str | None:
    """A sentence about a clip that is gone or has another size than `size`; else None."""
    try:
        now = sum(file.stat().st_size for file in (_pictures(path) if os.path.isdir(path) else (path,)))
    except (FileNotFoundError, NotADirectoryError):
        return f"There is no file {quoted(path)} any more."
    except OSError as exc:
        return f"{quoted(path)} can't be read: {os_reason(exc)}. Check the path."
    except MediaError as exc:
        return str(exc)
    return None if now == size else f"{quoted(path)} has changed since: {size:,} bytes then, {now:,} now."


def _pictures(path: Path) -> tuple[Path, ...]:
    from vllava_cli.media.images import folder_pictures

    return folder_pictures(path)
