"""Breaks a pass off between two layers, so that Ctrl-C never waits for a whole pass.

On CUDA a pass is queued in milliseconds and computed later: there nothing is gained, and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


class CancelError(Exception):
    """A pass was broken off because it was asked for; what it wrote is worthless."""


def never() -> bool:
    return False


class Cancel:
    """The question that passes ask between their layers."""

    def __init__(self) -> None:
        self._is_asked: Callable[[], bool] = never

    @contextmanager
    def asking(self, is_interrupted: Callable[[], bool]) -> Iterator[None]:
        """Passes in this block ask `is_interrupted`. Errors: CancelError, from the pass."""
        before, self._is_asked = self._is_asked, is_interrupted
        try:
            yield
        finally:
            self._is_asked = before

    def check(self) -> None:
        """Raises CancelError where it is asked for."""
        if self._is_asked():
            raise CancelError

    @contextmanager
    def between(self, layers: Iterable[nn.Module]) -> Iterator[None]:
        """Asks before each of these modules, for the time of the block."""
        hooks = [layer.register_forward_pre_hook(lambda *_: self.check()) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
