"""Opens http:// and https:// URLs. Each address is checked before it is connected to, each scheme before its request.

This covers URLs with literal addresses, redirects, and names whose address changes from one moment to the next.
Proxies of the environment aren't used, because they would connect to addresses that nobody checks. No cookie is kept,
and no compression is asked for. aiohttp runs in fsspec's thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from vllava_cli.errors import FetchError
from vllava_cli.media.remote.policy import (
    Allowed,
    Content,
    Timeouts,
    beyond,
    missing,
    paced,
    passing,
    refused,
    unfetched,
    without_secrets,
)
from vllava_cli.storage.files import CHUNK_BYTES

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientResponse, ClientSession

SCHEMES = ("http", "https")

_ENCODED = re.compile(r"([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
"""Matches a URL that is sent unchanged, because a signature often holds only for its exact letters."""
_PASSING = (408, 425, 429)
_MISSING = (404, 410)
_REFUSED = (401, 403, 407)
_Found = TypeVar("_Found")


@contextmanager
def opened_http(url: str, allowed: Allowed, timeouts: Timeouts) -> Iterator[Content]:
    """Opens the content of a URL, or of the URL to which it redirects. Errors: FetchError."""
    connection = _Connection(url, allowed, timeouts)
    try:
        response = connection.run(connection.open)
        _check_status(url, response.status)
        if response.headers.get("Content-Encoding", "identity") not in ("", "identity"):
            raise unfetched(url, "the server compressed it, though that wasn't requested", "Name another server")
        read = partial(connection.run, partial(response.content.read, CHUNK_BYTES))
        yield Content(size_bytes=response.content_length, blocks=paced(url, read, timeouts))
    finally:
        with suppress(FetchError):  # closing must not hide the error that ended the `with`
            connection.run(connection.close)


class _Connection:
    """A session of aiohttp for one URL, in fsspec's thread. It checks its sockets and its requests."""

    def __init__(self, url: str, allowed: Allowed, timeouts: Timeouts) -> None:
        self._url, self._allowed, self._timeouts = url, allowed, timeouts
        self._address_faults: list[FetchError] = []
        self._session: ClientSession | None = None

    def run(self, step: Callable[[], Awaitable[_Found]]) -> _Found:
        """Runs a step in fsspec's thread and returns its result; errors of aiohttp become a FetchError."""
        from fsspec.asyn import get_loop, sync

        async def run() -> _Found:
            return await step()

        try:
            found: _Found = sync(get_loop(), run, timeout=self._timeouts.block_s)
        except FetchError:
            raise
        except Exception as exc:
            raise self._address_faults[-1] if self._address_faults else _fault_of(self._url, exc) from exc
        return found

    async def open(self) -> ClientResponse:
        from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
        from yarl import URL

        self._session = ClientSession(
            connector=TCPConnector(socket_factory=self._socket),
            timeout=ClientTimeout(total=None, connect=self._timeouts.connect_s, sock_read=self._timeouts.silence_s),
            cookie_jar=DummyCookieJar(),
            middlewares=(self._checked,),
            trust_env=False,
            auto_decompress=False,
        )
        url = URL(self._url, encoded=_ENCODED.fullmatch(self._url) is not None)
        return await self._session.get(url, headers={"Accept-Encoding": "identity"})

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Opens a socket for an address. Errors: OSError if it isn't allowed: aiohttp handles no other type here."""
        try:
            self._allowed.check_address(info[4][0], self._url)
        except FetchError as exc:
            self._address_faults.append(exc)
            raise OSError(errno.EACCES, str(exc)) from exc
        return socket.socket(family=info[0], type=info[1], proto=info[2])

    async def _checked(self, request: ClientRequest, send: Callable[[ClientRequest], Any]) -> ClientResponse:
        """Checks a request and sends it: the one for the URL, and one for each redirect. Errors: FetchError."""
        scheme = request.url.scheme
        if scheme not in self._allowed.schemes:
            raise beyond(self._url, without_secrets(str(request.url)), f"add --allow {scheme}")
        response: ClientResponse = await send(request)
        return response


def _check_status(url: str, status: int) -> None:
    """Raises the error that a status stands for, unless the status is 200."""
    if status == 200:
        return
    if status in _MISSING:
        raise missing(url)
    if status in _REFUSED:
        raise refused(url, f"Check the URL's signature or credentials ({status})")
    if status in _PASSING or status >= 500:
        raise passing(url, f"the server answers {status}")
    raise unfetched(url, f"the server answers {status}")


def _fault_of(url: str, exc: Exception) -> FetchError:
    """Makes the error for an exception of aiohttp or the system, without aiohttp's texts: these show the whole URL."""
    import aiohttp

    match exc:
        case aiohttp.NonHttpUrlRedirectClientError():
            return unfetched(url, "it redirects to a scheme that isn't allowed", "Name the URL that it leads to")
        case aiohttp.InvalidUrlRedirectClientError() | aiohttp.TooManyRedirects():
            return unfetched(url, "its redirects lead nowhere", "Name the URL that it should lead to")
        case aiohttp.ClientSSLError():
            return unfetched(url, "its certificate can't be trusted", "Check the host, or set SSL_CERT_FILE")
        case aiohttp.ClientConnectorDNSError() if not _is_busy(exc.os_error):
            return unfetched(url, "there is no such host")
        case aiohttp.InvalidURL() | ValueError():
            return unfetched(url, "it isn't a valid URL")
        case asyncio.TimeoutError():
            return passing(url, "the server doesn't respond")
        case aiohttp.ClientPayloadError():
            return passing(url, "the connection ended before the file did")
        case aiohttp.ClientOSError() if exc.errno and exc.errno > 0:
            return passing(url, os.strerror(exc.errno).lower())
        case _:
            return passing(url, "the connection was lost")


def _is_busy(exc: OSError) -> bool:
    """Returns True if the name server had no answer yet, so that another attempt may succeed."""
    return isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN
