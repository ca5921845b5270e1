"""The content of a URL while it is read, whatever its scheme, and the sentences about its faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vllava_cli.errors import FetchError, MissingError
from vllava_cli.media.remote.policy import without_secrets
from vllava_cli.nouns import counted


class PassingError(FetchError):
    """A fault that may be gone a moment later."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """An open URL. Errors while `blocks` are read: FetchError, MissingError, PassingError."""

    size_bytes: int | None
    """The size by the server, None if it doesn't say."""
    blocks: Iterator[bytes]


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """The time that a server may take. 4 GB take at most three days; a server that sends next to nothing, a minute."""

    connect_s: float = 20
    silence_s: float = 60
    block_s: float = 120
    """Until an answer begins, or its next bytes are there, however many single bytes of its headers come by then."""
    grace_s: float = 60
    """After that, a download must have come at `least_bytes_per_s` on average."""
    least_bytes_per_s: int = 16 << 10
    clock: Callable[[], float] = time.monotonic


def paced(url: str, read: Callable[[], bytes], timeouts: Timeouts) -> Iterator[bytes]:
    """The blocks that `read` gives until it gives nothing. The time that the caller takes between two doesn't count.

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


def missing(url: str) -> MissingError:
    return MissingError(f"{without_secrets(url)} doesn't exist: the server has nothing there. Check the URL.")


def refused(url: str, remedy: str) -> FetchError:
    return FetchError(f"{without_secrets(url)} is refused: the server doesn't let us read it. {remedy}.")


def unfetched(url: str, reason: str, remedy: str = "Check the URL") -> FetchError:
    return FetchError(f"{without_secrets(url)} can't be fetched: {reason}. {remedy}.")


def passing(url: str, reason: str) -> PassingError:
    return PassingError(f"{without_secrets(url)} can't be fetched: {reason}. Try again later.")
