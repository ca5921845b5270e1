"""Computes the fingerprint of a clip, its size and the SHA-256 of its content, and says whether a clip has changed.

A sampled digest takes the time of a few reads, however large the file is, and is the same wherever the file lies.
"""

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

SAMPLES, SAMPLE_BYTES = 5, 1 << 16
"""The first block of a file, the last and three between them: a slow disk takes 10 ms for each."""


class StoppedError(Exception):
    """Hashing was stopped because the caller asked for it; this is not a failure."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The size and SHA-256 of a file, or of all pictures of a folder together, with their names and their order."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SampledDigest:
    """A digest that tells one file from another, although the file isn't read whole."""

    size: int
    mtime_ns: int
    sha256: str
    """The hash of size, date and `SAMPLES` blocks of the content."""


class Hashing:
    """Computes fingerprints of clips, one after the other, in a thread while the model works."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fingerprint")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, path: Path) -> Future[Fingerprint]:
        """Queues a clip; the future has its fingerprint or the error.

        The file is opened at once, so it may be replaced or removed later.
        """
        file: BinaryIO | None = None
        with suppress(MediaError):  # the thread reads folders, and meets other errors again
            file = opened_file(path)
        return self._thread.submit(fingerprint, path, self._is_over.is_set, file)

    def close(self) -> None:
        """Stops hashing after at most 1 MiB more; futures that aren't done raise a StoppedError or are cancelled."""
        self._is_over.set()
        self._thread.shutdown(cancel_futures=True)


def fingerprint(path: Path, is_stopped: Callable[[], bool] = never, file: BinaryIO | None = None) -> Fingerprint:
    """Computes the fingerprint of a file, which may be open already as `file`, or of the pictures of a folder.

    Errors: MediaError; StoppedError, at most a mebibyte after `is_stopped` returns True.
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


def sampled_digest(path: Path) -> SampledDigest:
    """Computes the digest of a file by its size, its date and some blocks of its content. Errors: MediaError."""
    with opened_file(path) as file:
        try:
            facts = os.fstat(file.fileno())
            whole = hashlib.sha256(b"%d %d" % (facts.st_size, facts.st_mtime_ns))
            step = max(0, facts.st_size - SAMPLE_BYTES) / (SAMPLES - 1)
            for place in dict.fromkeys(int(number * step) for number in range(SAMPLES)):
                file.seek(place)
                whole.update(file.read(SAMPLE_BYTES))
        except OSError as exc:
            raise MediaError(f"{quoted(path)} can't be read: {os_reason(exc)}. Check the disk.") from exc
    return SampledDigest(size=facts.st_size, mtime_ns=facts.st_mtime_ns, sha256=whole.hexdigest())


def differs(path: Path, recorded: Fingerprint, is_stopped: Callable[[], bool] = never) -> str | None:
    """Returns a sentence that says how a clip differs from `recorded`, else None. Hashes only where the sizes agree."""
    if sentence := resized(path, recorded.bytes):
        return sentence
    try:
        is_same = fingerprint(path, is_stopped) == recorded
    except MediaError as exc:
        return str(exc)
    return None if is_same else f"{quoted(path)} has changed since: the size is the same, but not the content."


def resized(path: Path, size: int) -> str | None:
    """Returns a sentence if a clip is gone, can't be read or isn't `size` bytes large; else None."""
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
