"""How often engines began without getting anywhere: what ends their processes, as want of memory, leaves no word."""

from __future__ import annotations

import threading
from collections import Counter

LEAST_EACH = 3
"""One machine may be too small while others are still loading."""


class Starts:
    """Counts by actor, whose id stays the same when it is started again. Any thread may tell or ask."""

    def __init__(self, most_vain: int | None) -> None:
        """None: however many end, nothing is hopeless."""
        self._most_vain = most_vain
        self._counts = Counter[str]()
        self._has_settled = False
        self._lock = threading.Lock()

    def begun(self, actor: str) -> None:
        """A process was started for an actor, for the first time or again."""
        with self._lock:
            self._counts[actor] += 1

    def settled(self) -> None:
        """An engine has answered something: from now on nothing is in vain."""
        with self._lock:
            self._has_settled = True

    @property
    def vain(self) -> int:
        """How many ended before anything was answered, as far as their next start shows."""
        with self._lock:
            return 0 if self._has_settled else sum(self._counts.values()) - len(self._counts)

    @property
    def is_hopeless(self) -> bool:
        """Whether so many ended, and each actor that ever began has had its chances."""
        return self._most_vain is not None and self.vain >= self._most_vain and min(self._counts.values()) >= LEAST_EACH
