"""Imports without the garbage collector, which goes through all that was made so far again and again, for nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unswept() -> Iterator[None]:
    """Nothing is collected in the block, and what it leaves behind never is: libraries stay until the process ends.

    For torch and transformers that is a fifth of the time. Inside another such block it changes nothing.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
