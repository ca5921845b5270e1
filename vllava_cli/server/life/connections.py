"""The web server behind the application: bounds its connections, their heads, and how long a client may take.

uvicorn waits for ever for a request that doesn't come, and for a client that doesn't read its answer.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from math import inf

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vllava_cli.server.app import make_app
from vllava_cli.server.service import Service

MOST_HEAD_BYTES = 32 << 10
MOST_CONNECTIONS = 512
"""The most connections at ports; those of the Unix socket are counted apart, so that nobody else uses them up."""
HEAD_S = 20.0
"""How long a client may take until the head of a request is there, from the connection or the last response on."""
UNREAD_S = 120.0
"""How long a client may leave what was sent unread."""
_DESCRIPTORS = 4096
_QUIET = ("uvicorn.error", "python_multipart")
"""Libraries that would write on stderr about what a client sends; the application reports its own faults."""
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


def web_server(service: Service, *, grace_s: float) -> uvicorn.Server:
    """Makes the web server of a service; once it is to end, requests have `grace_s` before they are cut off."""
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _raise_descriptors()
    config = uvicorn.Config(
        make_app(service),
        http=BoundedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        timeout_graceful_shutdown=int(grace_s),
    )
    return uvicorn.Server(config)


class BoundedProtocol(H11Protocol):
    """A connection that ends if its client sends no request, or doesn't read the answer, for too long."""

    _timer: asyncio.TimerHandle | None = None
    _unread_bytes: float = inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        name = transport.get_extra_info("socket").getsockname()
        if isinstance(name, str):  # older releases of uvicorn don't say that this is a Unix socket
            self.server = (name, None)
        if sum(getattr(other, "server", None) == self.server for other in self.connections) > MOST_CONNECTIONS:
            transport.write(_FULL)
            transport.close()
        else:
            self._limit(HEAD_S)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering:
            self._unlimit()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_answering:
            self._limit(HEAD_S)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit(UNREAD_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._is_answering:
            self._unlimit()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unlimit()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _limit(self, seconds: float) -> None:
        self._unlimit()
        self._unread_bytes = inf
        self._timer = self.loop.call_later(seconds, self._expire, seconds)

    def _unlimit(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _expire(self, seconds: float) -> None:
        """Ends the connection, unless its client has read a part of what was sent since the last time."""
        unread_bytes = self.transport.get_write_buffer_size()
        if 0 < unread_bytes < self._unread_bytes:
            self._unread_bytes = unread_bytes
            self._timer = self.loop.call_later(seconds, self._expire, seconds)
        else:
            self.transport.abort()


def _raise_descriptors() -> None:
    """Lets this process open as many files as its connections and decoders need, where the system allows that."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
