"""A URL that is open to be read, whatever lies behind its scheme, and what its server says of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from vllava_cli.errors import FetchError, MissingError
from vllava_cli.media.remote.urls import without_secrets
from vllava_cli.nouns import counted

CHUNK_BYTES = 1 << 20

_MARKS = ("etag", "e_tag", "generation", "content_md5", "content-md5", "md5hash", "crc32c", "checksum", "versionid")
_DATES = ("last-modified", "lastmodified", "last_modified", "updated", "modified", "mtime")


class PassingError(FetchError):
    """A fault that may be gone a moment later."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What tells one version from another, as far as the server says it."""

    bytes: int | None = None
    mark: str | None = None
    """An ETag, a generation, a checksum."""
    modified: str | None = None

    @property
    def tell_versions(self) -> bool:
        """Whether equal facts are equal bytes; another clip may be as long."""
        return self.mark is not None or self.modified is not None

    @classmethod
    def of(cls, told: Mapping[str, object]) -> Facts:
        """From HTTP headers, or from what fsspec's `info` gives; each filesystem has names of its own."""
        lower = {name.lower(): value for name, value in told.items() if value not in (None, "")}
        size = str(lower.get("size", lower.get("content-length", "")))
        return cls(
            bytes=int(size) if size.isdecimal() else None, mark=_first(lower, _MARKS), modified=_first(lower, _DATES)
        )


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a server may take. 4 GB take at most three days, and a server that sends next to nothing a minute."""

    connect_s: float = 20
    silence_s: float = 60
    block_s: float = 120
    """Until an answer begins, or its next bytes are there, however many single bytes of its headers come by then."""
    grace_s: float = 60
    """After that, a download must have come at `least_bytes_per_s` on average."""
    least_bytes_per_s: int = 16 << 10
    clock: Callable[[], float] = time.monotonic


class Source(Protocol):
    """One URL. Errors of all: FetchError, MissingError, PassingError."""

    def facts(self) -> Facts:
        """Asks the server, without the content."""

    def chunks(self, facts: Facts) -> Generator[bytes, None, None]:
        """The content that had those facts, from its beginning each time."""


def paced(url: str, read: Callable[[], bytes], timeouts: Timeouts) -> Iterator[bytes]:
    """What `read` gives until it gives nothing. The time that the caller takes between two blocks doesn't count.

    Errors: FetchError for a download that is too slow; the next attempt would be no faster.
    """
    size, taken_s, begun_s = 0, 0.0, timeouts.clock()
    while block := read():
        size, taken_s = size + len(block), taken_s + timeouts.clock() - begun_s
        if taken_s > timeouts.grace_s and size < taken_s * timeouts.least_bytes_per_s:
            came, least = f"{counted(size, 'byte')} came in {taken_s:,.0f} s", timeouts.least_bytes_per_s >> 10
            raise unfetched(url, f"{came}, less than {least} KiB a second", "Save it to a file, and name that")
        yield block
        begun_s = timeouts.clock()


def check_same(url: str, now: Facts, before: Facts) -> None:
    """Raises a PassingError where both say something that differs; one answer may say less than another."""
    pairs = ((now.bytes, before.bytes), (now.mark, before.mark))
    if any(a is not None and b is not None and a != b for a, b in pairs):
        raise passing(url, "it changed in the meantime")


def missing(url: str) -> MissingError:
    return MissingError(f"{without_secrets(url)} doesn't exist: the server has nothing there. Check the URL.")


def refused(url: str, remedy: str) -> FetchError:
    return FetchError(f"{without_secrets(url)} is refused: the server doesn't let us read it. {remedy}.")


def unfetched(url: str, reason: str, remedy: str = "Check the URL") -> FetchError:
    return FetchError(f"{without_secrets(url)} can't be fetched: {reason}. {remedy}.")


def passing(url: str, reason: str) -> PassingError:
    return PassingError(f"{without_secrets(url)} can't be fetched: {reason}. Try again later.")


def _first(told: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    return next((str(told[name]) for name in names if name in told), None)
