"""Fetches a URL that the user allowed into a private temporary file, which is removed once the clip was read."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from itertools import chain
from pathlib import Path

from vllava_cli.errors import DownloadSizeError, FetchError, os_reason, quoted
from vllava_cli.media.fingerprint import Fingerprint
from vllava_cli.media.remote.http import SCHEMES, opened_http
from vllava_cli.media.remote.policy import Allowed, Content, PassingError, Timeouts, passing, suffix_of, unfetched
from vllava_cli.media.remote.store import opened_store

MOST_BYTES = 20 << 30
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class FetchedClip:
    """A clip on this machine's disk, with the size and SHA-256 of the bytes that came."""

    path: Path
    fingerprint: Fingerprint


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches the URLs that `allowed` permits. It may be sent to other processes, and used by several threads."""

    allowed: Allowed
    most_bytes: int = MOST_BYTES
    """The size of the largest clip that is fetched."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    waits_s: tuple[float, ...] = (1.0, 3.0, 9.0)
    """The pauses before each further attempt after a PassingError."""
    sleep: Callable[[float], object] = time.sleep
    folder: Path | None = None
    """Where the files are kept while they are read; None for the system's folder for temporary files."""

    def check(self, url: str) -> None:
        """Raises a FetchError at once for a URL that can be refused without the network."""
        self.allowed.scheme(url)

    @contextmanager
    def fetched(self, url: str) -> Iterator[FetchedClip]:
        """Fetches a URL into a file, which exists until the end of the `with`. Errors: FetchError, MissingError."""
        scheme = self.allowed.scheme(url)
        with _as_fetch_error():
            descriptor, name = tempfile.mkstemp(prefix="vllava-", suffix=suffix_of(url), dir=self.folder)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                fingerprint = self._retried(url, scheme, file)
            yield FetchedClip(path=path, fingerprint=fingerprint)
        finally:
            path.unlink(missing_ok=True)

    def _retried(self, url: str, scheme: str, file: FileIO) -> Fingerprint:
        opened = opened_http if scheme in SCHEMES else opened_store
        for wait_s in chain(self.waits_s, (None,)):
            try:
                with opened(url, self.allowed, self.timeouts) as content:
                    return self._copied(url, content, file)
            except PassingError:
                if wait_s is None:
                    raise
                self.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _copied(self, url: str, content: Content, file: FileIO) -> Fingerprint:
        size, digest = 0, hashlib.sha256()
        self._check_size(url, content.size_bytes or 0)
        with _as_fetch_error():
            file.seek(0)
            file.truncate()
            if shutil.disk_usage(self.folder or tempfile.gettempdir()).free < (content.size_bytes or 0):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for block in content.blocks:
            size += len(block)
            self._check_size(url, size)
            digest.update(block)
            with _as_fetch_error():
                rest = memoryview(block)
                while rest:
                    rest = rest[file.write(rest) :]
        if content.size_bytes not in (None, size):
            raise passing(url, f"it ended after {size:,} of {content.size_bytes:,} bytes")
        return Fingerprint(bytes=size, sha256=digest.hexdigest())

    def _check_size(self, url: str, size: int) -> None:
        if size > self.most_bytes:
            most = f"more than the {_megabytes(self.most_bytes)} that a clip may have"
            reason = f"it has {_megabytes(size)} or more, {most}"
            raise DownloadSizeError(str(unfetched(url, reason, "Save it to a file, and name that")))


@contextmanager
def _as_fetch_error() -> Iterator[None]:
    """Turns errors of the disk into a FetchError; a full disk may have space again once other clips were read."""
    try:
        yield
    except OSError as exc:
        is_full = exc.errno in _NO_ROOM
        remedy = f"{'Free some disk space' if is_full else 'Check the folder'}, or set TMPDIR to another one."
        kind = PassingError if is_full else FetchError
        raise kind(f"{quoted(Path(tempfile.gettempdir()))} can't keep clips: {os_reason(exc)}. {remedy}") from exc


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
