"""Interrupts of asks that run here: each has an id that its client chose, and another connection names that id.

`answers` has its own way: its client has stopped to read the stream, and gets the last event as the reply. An ask may
still decode its clips or make several answers, and tells its end in the stream, which its client goes on reading.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vllava_cli.errors import UsageError
from vllava_cli.server.openai.protocol_errors import AsciiJSONResponse

if TYPE_CHECKING:
    from vllava_cli.server.service import Service


class Interrupts:
    """The running asks by their ids; each has a flag that an interrupt sets."""

    def __init__(self) -> None:
        self._flags: dict[str, threading.Event] = {}

    @contextmanager
    def known(self, id: str) -> Iterator[threading.Event]:
        """Makes an ask known for the time of the block; yields its flag. Errors: UsageError for an id in use."""
        flag = threading.Event()
        if self._flags.setdefault(id, flag) is not flag:
            raise UsageError(f"An ask with the id {id!r} is running already. Choose another id.")
        try:
            yield flag
        finally:
            del self._flags[id]

    def interrupt(self, id: str) -> bool:
        """Lets an ask end with what there is so far; returns False if no such ask is running."""
        flag = self._flags.get(id)
        if flag:
            flag.set()
        return flag is not None


def routes(service: Service) -> list[BaseRoute]:
    async def interrupt(request: Request) -> Response:
        was_running = service.interrupts.interrupt(request.path_params["id"])
        return AsciiJSONResponse({"was_running": was_running})

    return [Route("/vllava/interrupt/{id}", interrupt, methods=["POST"])]
