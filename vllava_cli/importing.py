"""Imports in a thread of their own, while their caller waits for something else."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence

MODEL_MODULES = ("transformers.models.video_llava.modeling_video_llava", "transformers.models.auto.tokenization_auto")
"""What an answer needs, torch among it; 3 of the 4 seconds in which the demo answers are spent there."""


class Importing:
    """Begins at once; `wait` returns when all is there. What fails, fails again where it is imported by name."""

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
