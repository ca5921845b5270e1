"""Signals as questions that can be asked: Ctrl-C stops an answer, a request to end waits until it is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def never() -> bool:
    """The question whether to stop, where nothing can ask for it."""
    return False


class CancelError(Exception):
    """A pass of the model was broken off because it was cancelled; the layers that it ran hold worthless values."""


@dataclass(frozen=True)
class Cancel:
    """Asks whether work is to stop: `Cancel(event.is_set)`. `Cancel()` never stops anything.

    It is asked between two layers, so that Ctrl-C never waits for a whole pass; but not on CUDA, where a pass is queued
    in milliseconds and computed later.
    """

    is_asked: Callable[[], bool] = never

    def check(self) -> None:
        """Raises CancelError once it is asked for."""
        if self.is_asked():
            raise CancelError


NEVER = Cancel()


@contextmanager
def sigint_flag(*, is_early: Callable[[], bool] = never) -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C came since; a second Ctrl-C raises KeyboardInterrupt as usual.

    While `is_early`, the first one raises as well: nothing has begun that it could wait for. An ignored SIGINT stays
    ignored.
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
    """SIGTERM and SIGHUP (a terminal that was closed) as SystemExit(128 + number), held back inside `held`."""

    def __init__(self) -> None:
        self.wake: Callable[[], object] = never
        """Called, between any two instructions, when a signal came that is held back."""
        self._number: int | None = None
        self._is_held = False

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator[GracefulExit]:
        """Takes over the signals that aren't ignored, for the time of the block."""
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
        """Say whether a signal asked the process to end."""
        return self._number is not None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block finish before the process ends; a second signal ends it at once."""
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
