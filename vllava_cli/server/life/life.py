"""The life of a server: how many requests run, since when nobody asks, and why it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

WATCHERS = frozenset(("/health", "/metrics", "/vllava/status"))
"""Routes that only look at the server: they keep no idle server alive."""
_UNCOUNTED = WATCHERS | {"/vllava/stop"}
"""Routes for which the server's end doesn't wait: the request that ends the server is still running then."""


@dataclass(kw_only=True)
class Life:
    """Counts the requests that run; may be used from any thread."""

    running: int = 0
    """Requests that aren't answered yet, without those that look at the server or end it."""
    is_ending: bool = False
    """True once no further request is taken."""
    wake: threading.Event = field(default_factory=threading.Event)
    """Set once the server is to end."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _asked_s: float = field(default_factory=time.monotonic)

    @contextmanager
    def request(self, path: str) -> Iterator[bool]:
        """Counts a request while the block runs; yields False if the server takes none any more."""
        if path in _UNCOUNTED:
            yield True
            return
        with self._lock:
            is_taken = not self.is_ending
            self.running += is_taken
        try:
            yield is_taken
        finally:
            with self._lock:
                self.running -= is_taken
                self._asked_s = time.monotonic()

    def end(self) -> None:
        """Lets the server end: running requests go on, and no further one is taken."""
        self.is_ending = True
        self.wake.set()

    def is_idle(self, for_s: float) -> bool:
        """True if no request has run for so long; then no further one is taken, either."""
        with self._lock:
            if self.running or time.monotonic() - self._asked_s < for_s:
                return False
            self.is_ending = True
            return True

    def is_finished(self) -> bool:
        """True if no request runs any more."""
        return not self.running
