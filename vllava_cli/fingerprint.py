"""What a clip was, to tell later whether it is still the same: its size and the SHA-256 of its content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.errors import MediaError
from vllava_cli.jsonl import reason_of, shown

_CHUNK_BYTES = 1 << 20


class StoppedError(Exception):
    """Not a failure: the caller asked for it."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Of a folder: the bytes of its pictures together, and one SHA-256 over their names and contents in order."""

    bytes: int
    sha256: str


def _never() -> bool:
    return False


def fingerprint(path: Path, is_stopped: Callable[[], bool] = _never) -> Fingerprint:
    """Reads all of a file, or of the pictures of a folder. Errors: MediaError; StoppedError within a mebibyte."""
    whole = hashlib.sha256()
    size = 0
    if not _is_folder(path):
        for chunk in _chunks(path, is_stopped):
            whole.update(chunk)
            size += len(chunk)
        return Fingerprint(bytes=size, sha256=whole.hexdigest())
    for picture in _pictures(path):
        part = fingerprint(picture, is_stopped)
        name = os.fsencode(picture.name)
        whole.update(b"%d %d %b %b\n" % (len(name), part.bytes, name, part.sha256.encode()))
        size += part.bytes
    return Fingerprint(bytes=size, sha256=whole.hexdigest())


def differs(path: Path, recorded: Fingerprint, is_stopped: Callable[[], bool] = _never) -> str | None:
    """How a clip differs from what it was, a sentence; None if it is the same. Hashes only where the sizes agree."""
    try:
        size = _size(path)
        if size != recorded.bytes:
            return f"{shown(path)} has changed since: {recorded.bytes:,} bytes then, {size:,} now."
        if fingerprint(path, is_stopped) != recorded:
            return f"{shown(path)} has changed since: as many bytes as then, other content."
    except MediaError as exc:
        return str(exc)
    return None


def _chunks(path: Path, is_stopped: Callable[[], bool]) -> Iterator[bytes]:
    from vllava_cli.media.files import check_file

    check_file(path)
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                if is_stopped():
                    raise StoppedError
                yield chunk
    except OSError as exc:
        raise MediaError(f"{shown(path)} can't be read: {reason_of(exc)}. Check the disk.") from exc


def _size(path: Path) -> int:
    try:
        files = _pictures(path) if _is_folder(path) else (path,)
        return sum(file.stat().st_size for file in files)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise MediaError(f"There is no file {shown(path)} any more.") from exc
    except OSError as exc:
        raise MediaError(f"{shown(path)} can't be read: {reason_of(exc)}. Check the path.") from exc


def _pictures(path: Path) -> tuple[Path, ...]:
    from vllava_cli.media.folder import pictures

    return pictures(path)


def _is_folder(path: Path) -> bool:
    from vllava_cli.media.files import is_folder

    return is_folder(path)
