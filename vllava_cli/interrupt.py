"""Turns signals into flags that work can check: Ctrl-C stops an answer, SIGTERM waits until the answer is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def never() -> bool:
    """Returns False: stands for a flag that nothing sets."""
    return False


class CancelError(Exception):
    """A pass of the model was cancelled half-way; what its layers computed is worthless."""


@dataclass(frozen=True)
class Cancel:
    """Tells work whether to stop: `Cancel(event.is_set)`. `Cancel()` never stops anything.

    A pass of the model calls `check` between two layers, so that Ctrl-C never waits for a whole pass. On CUDA it
    doesn't: there a pass is queued in milliseconds and computed later.
    """

    is_asked: Callable[[], bool] = never

    def check(self) -> None:
        """Raises CancelError if the work is to stop."""
        if self.is_asked():
            raise CancelError


NEVER = Cancel()


@contextmanager
def sigint_flag(*, is_early: Callable[[], bool] = never) -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether Ctrl-C came in this block; a second Ctrl-C raises KeyboardInterrupt.

    While `is_early()` is true, the first Ctrl-C raises KeyboardInterrupt, too, as no work has begun that should end
    first. An ignored SIGINT stays ignored.
    """
    seen = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        if seen.is_set() or is_early():
            raise KeyboardInterrupt
        seen.set()

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield seen.is_set
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class GracefulExit:
    """Raises SystemExit(128 + number) for SIGTERM and SIGHUP (a closed terminal), in a `held` block only at its end."""

    def __init__(self) -> None:
        self.wake: Callable[[], object] = never
        """Called when a signal is held back; this may happen between any two instructions."""
        self._number: int | None = None
        self._is_held = False

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator[GracefulExit]:
        """Handles SIGTERM and SIGHUP while the block runs; an ignored signal stays ignored."""
        ending = cls()
        before = {number: signal.getsignal(number) for number in _ENDS}
        for number, action in before.items():
            if action is not signal.SIG_IGN:
                signal.signal(number, ending._note)
        try:
            yield ending
        finally:
            for number, action in before.items():
                signal.signal(number, action)

    def is_asked(self) -> bool:
        """Returns True if a signal has asked the process to end."""
        return self._number is not None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lets the block finish before the process ends; a second signal ends the process at once."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            if self._number is not None:
                raise SystemExit(128 + self._number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        is_first = self._number is None
        self._number = number
        if not (self._is_held and is_first):
            raise SystemExit(128 + number)
        self.wake()
