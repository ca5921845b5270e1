"""Where the time of a command went: parts that follow one another, so that they add up to the whole."""

from __future__ import annotations

import time
from collections.abc import Callable

BEGAN_S = time.perf_counter() - time.process_time()
"""When this process began: what it had computed until this import was Python's own start."""
_LEAST_S = 0.005


class Stopwatch:
    """Begins at once, or when this process did."""

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter, began_s: float | None = None) -> None:
        self._clock = clock
        self._last_s = clock() if began_s is None else began_s
        self.parts: dict[str, float] = {}
        """Seconds by the names of parts, in the order in which they came first."""

    def lap(self, part: str, seconds: float | None = None) -> float:
        """Ends a part, which began when the one before ended; where its length is known, the rest is the next one's."""
        if seconds is None:
            seconds = self._clock() - self._last_s
        self._last_s += seconds
        self.parts[part] = self.parts.get(part, 0.0) + seconds
        return seconds

    def told(self) -> str:
        """ "4.21 s: start 0.15, imports 4.06"; what rounds to nothing is part of the whole all the same."""
        named = ", ".join(f"{part} {seconds:.2f}" for part, seconds in self.parts.items() if seconds >= _LEAST_S)
        return f"{sum(self.parts.values()):.2f} s" + (f": {named}" if named else "")
