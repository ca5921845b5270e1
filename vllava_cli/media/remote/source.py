"""A URL that is open to be read, whatever lies behind its scheme, and what its server says of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Protocol

from vllava_cli.errors import FetchError, MissingError
from vllava_cli.media.remote.urls import without_secrets

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
    """How long a server may be silent. A download as a whole may take its time."""

    connect_s: float = 20
    silence_s: float = 60


class Source(Protocol):
    """One URL. Errors of all: FetchError, MissingError, PassingError."""

    def facts(self) -> Facts:
        """Asks the server, without the content."""

    def chunks(self, facts: Facts) -> Generator[bytes, None, None]:
        """The content that had those facts, from its beginning each time."""


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
