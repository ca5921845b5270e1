"""Heavy imports: in a thread while the caller decodes a clip, and with garbage collection paused."""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

MODEL_MODULES = ("transformers.models.video_llava.modeling_video_llava", "transformers.models.auto.tokenization_auto")
"""Modules that an answer needs; importing them takes 3 of the 4 seconds in which the demo answers."""


class BackgroundImport:
    """Imports modules in a thread that starts at once; `wait` returns when it has ended.

    A module that fails here fails again where it is imported by name.
    """

    def __init__(self, modules: Sequence[str] = MODEL_MODULES) -> None:
        self._thread = threading.Thread(target=_import, args=(modules,), name="imports", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        self._thread.join()


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception:
            return


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pauses garbage collection while heavy libraries are imported, where it would take a fifth of the time.

    What the block has made is never collected: libraries stay until the process ends. Nested blocks change nothing.
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
