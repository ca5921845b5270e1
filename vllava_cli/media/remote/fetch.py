"""The way in: a URL that the user allowed → a regular local file for as long as it is held."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from vllava_cli.media.remote.cache import Cache, Held
from vllava_cli.media.remote.http import SCHEMES, opened_http
from vllava_cli.media.remote.policy import Allowed
from vllava_cli.media.remote.source import PassingError, Source, Timeouts
from vllava_cli.media.remote.store import opened_store


@dataclass(frozen=True)
class Fetcher:
    """Fetches what `allowed` names into `cache`; may be sent to other processes, and used by several threads."""

    allowed: Allowed
    cache: Cache
    timeouts: Timeouts = field(default_factory=Timeouts)
    waits_s: tuple[float, ...] = (1.0, 3.0, 9.0)
    """Before each further attempt where a fault may pass."""
    sleep: Callable[[float], object] = time.sleep

    def check(self, url: str) -> None:
        """Refuses at once what needs no network to be refused. Errors: FetchError."""
        self.allowed.scheme(url)

    @contextmanager
    def fetched(self, url: str) -> Iterator[Path]:
        """The file stays as it is until the end of the `with`. Errors: FetchError, MissingError."""
        scheme = self.allowed.scheme(url)
        held = self._held(url, scheme)
        try:
            yield held.path
        finally:
            held.release()

    def _held(self, url: str, scheme: str) -> Held:
        for wait_s in chain(self.waits_s, (None,)):
            try:
                with self._opened(url, scheme) as source:
                    return self.cache.held(url, source)
            except PassingError:
                if wait_s is None:
                    raise
                self.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _opened(self, url: str, scheme: str) -> AbstractContextManager[Source]:
        if scheme in SCHEMES:
            return opened_http(url, self.allowed, self.timeouts)
        return opened_store(url, scheme, self.allowed, self.timeouts)
