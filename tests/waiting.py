"""Waits for what another thread or process does: for long, so that a busy machine fails no test."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0


def wait_for(condition: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> bool:
    """Whether something becomes so; a short patience is for what must not."""
    late_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > late_s:
            return False
        time.sleep(0.01)
    return True
