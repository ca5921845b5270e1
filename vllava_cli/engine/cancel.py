"""Breaks a pass off between two layers, so that Ctrl-C never waits for a whole pass.

On CUDA a pass is queued in milliseconds and computed later: there nothing is gained, and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllava_cli.interrupt import never

if TYPE_CHECKING:
    from torch import nn


class CancelError(Exception):
    """A pass was broken off because it was cancelled; the layers that it ran hold worthless values."""


@dataclass(frozen=True)
class Cancel:
    """Asks whether work is to stop: `Cancel(event.is_set)`. `Cancel()` never stops anything."""

    is_asked: Callable[[], bool] = never

    def check(self) -> None:
        """Raises CancelError once it is asked for."""
        if self.is_asked():
            raise CancelError

    @contextmanager
    def between(self, layers: Iterable[nn.Module]) -> Iterator[None]:
        """Checks before each of these modules runs, inside the block."""
        hooks = [layer.register_forward_pre_hook(lambda *_: self.check()) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


NEVER = Cancel()
