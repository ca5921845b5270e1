"""Reads clips into the KV cache while a question is typed, so that the first answer starts as fast as later ones."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from vllava_cli.nouns import Conversation

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine
    from vllava_cli.engine.kv_cache import Prompt

CHUNK_TOKENS = 128
"""Small, because a question that comes meanwhile waits for the end of a chunk."""


class Ahead:
    """At most one reading at a time. Between `start` and `stop` the engine belongs to its thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_stopped = threading.Event()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, conversation: Conversation) -> None:
        """Begins to read all of the next prompt but its question; a failure shows when the question is asked."""
        from vllava_cli.engine.kv_cache import Prompt

        self.stop()
        ids = tuple(self._engine.tokens.known_ids(conversation))  # here: a tokenizer serves one thread at a time
        shown = Prompt(ids=ids, media=conversation.media, fit=conversation.fit)
        if ids and not self._engine.has_read(shown):
            self._is_stopped.clear()
            self._is_over.clear()
            self._thread = threading.Thread(target=self._read, args=(shown,), name="look ahead", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Waits for the chunk that is being read; what was read so far stays in the cache."""
        self._is_stopped.set()
        while self._thread:
            with suppress(KeyboardInterrupt):  # the engine must be free first
                self._is_over.wait()  # a join that Ctrl-C interrupts takes the thread for ended (Python 3.11)
                self._thread = None

    def _read(self, shown: Prompt) -> None:
        from vllava_cli.engine.cancel import Cancel

        cancel = Cancel(self._is_stopped.is_set)
        try:
            with suppress(Exception):
                self._engine.read(shown, cancel=cancel, chunk_tokens=CHUNK_TOKENS)
        finally:
            self._is_over.set()
