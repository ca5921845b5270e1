"""Imports heavy libraries: in a thread while the caller decodes a clip, and with garbage collection paused."""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

MODEL_MODULES = ("vllava_cli.engine.load", "tokenizers")
"""Modules that an answer needs, torch among them; importing them takes most of the time in which the demo answers."""


def import_in_background(modules: Sequence[str] = MODEL_MODULES) -> Callable[[], None]:
    """Imports modules in a thread that starts at once; returns a function that waits until it has ended.

    A module that can't be imported raises nothing here: it fails again where the caller imports it.
    """

    def run() -> None:
        with suppress(Exception):
            for module in modules:
                importlib.import_module(module)

    thread = threading.Thread(target=run, name="imports", daemon=True)
    thread.start()
    return thread.join


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pauses garbage collection while heavy libraries are imported, where it would take a fifth of the time.

    Objects made in the block are never collected: libraries stay until the process ends. A nested block does nothing.
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
