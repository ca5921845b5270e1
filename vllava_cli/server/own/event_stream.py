"""A response that sends events as threads tell them; a client that goes away is noticed at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from vllava_cli.client.events import event_line, fault_line


class EventStream(StreamingResponse):
    """Sends the events that any thread tells until `end`; make it in the event loop's thread.

    `gone` is called once the response is over, whether its client read all of it or not.
    """

    def __init__(self, *, gone: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._gone = gone
        super().__init__(self._told(), media_type="application/x-ndjson")

    def tell(self, name: str, *values: Any) -> None:
        """Sends an event."""
        self._put(event_line(name, *values))

    def end(self, fault: Exception | None = None) -> None:
        """Sends the failure, if there is one, and ends the response."""
        if fault:
            self._put(fault_line(fault))
        self._put(b"")

    def _put(self, line: bytes) -> None:
        with suppress(RuntimeError):  # the server has ended, and its loop is closed
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)

    async def _told(self) -> AsyncIterator[bytes]:
        while line := await self._lines.get():
            yield line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._gone()
