"""http:// and https://: every address is checked as its connection is made, every scheme as its request is.

So URLs with literal addresses, redirects and names that lead to other addresses from one moment to the next are all
covered. Proxies of the environment would connect elsewhere unchecked, so none is used; no cookie is kept, and no
compression is asked for. fsspec lends its loop and its session; its `info` takes every failure for a missing file.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from vllava_cli.errors import FetchError
from vllava_cli.media.remote.addresses import is_reachable, remedy
from vllava_cli.media.remote.http_faults import told, told_status
from vllava_cli.media.remote.policy import Allowed
from vllava_cli.media.remote.source import CHUNK_BYTES, Facts, Timeouts, check_same, paced, unfetched
from vllava_cli.media.remote.urls import without_secrets

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientResponse, ClientSession

SCHEMES = ("http", "https")
_ENCODED = re.compile(r"([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
"""A URL that is sent as it is: a signature is often one of its very letters."""


@contextmanager
def opened_http(url: str, allowed: Allowed, timeouts: Timeouts) -> Iterator[HttpSource]:
    """A session for one URL, and for what that redirects to."""
    from fsspec.asyn import sync
    from fsspec.implementations.http import HTTPFileSystem

    border = Border(url, allowed)

    async def get_client(**_: object) -> ClientSession:
        return _session(border, timeouts)

    is_encoded = _ENCODED.fullmatch(url) is not None
    filesystem = HTTPFileSystem(get_client=get_client, encoded=is_encoded, skip_instance_cache=True)
    session = sync(filesystem.loop, filesystem.set_session)
    try:
        yield HttpSource(url, filesystem, session, border, timeouts)
    finally:
        sync(filesystem.loop, session.close)


@dataclass(frozen=True)
class Border:
    """What may be asked for the sake of a URL, and which addresses were not."""

    url: str
    allowed: Allowed
    refused: list[str] = field(default_factory=list)

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """For an address that is to be connected to. Errors: OSError; another type would be lost on its way up."""
        address = info[4][0]
        if not is_reachable(address, self.allowed):
            self.refused.append(address)
            raise OSError(errno.EACCES, f"{address} isn't allowed")
        return socket.socket(family=info[0], type=info[1], proto=info[2])

    async def request(self, request: ClientRequest, send: Callable[[ClientRequest], Any]) -> ClientResponse:
        """Runs for the URL, then for each that it redirects to. Errors: FetchError."""
        scheme = request.url.scheme
        if scheme not in self.allowed.schemes:
            raise self._beyond(without_secrets(str(request.url)), f"add --allow {scheme}")
        response: ClientResponse = await send(request)
        return response

    @property
    def fault(self) -> FetchError | None:
        """Where an address was not reachable."""
        return self._beyond(self.refused[-1], remedy(self.refused[-1])) if self.refused else None

    def _beyond(self, where: str, remedy: str) -> FetchError:
        return FetchError(f"{without_secrets(self.url)} leads to {where}, which isn't allowed: {remedy}.")


class HttpSource:
    """A `Source`; made by `opened_http`."""

    def __init__(self, url: str, filesystem: Any, session: ClientSession, border: Border, timeouts: Timeouts) -> None:
        self._url = url
        self._filesystem = filesystem
        self._session = session
        self._border = border
        self._timeouts = timeouts

    def facts(self) -> Facts:
        """By HEAD; some servers answer that with an error or without a size, then the headers of GET are read."""
        found: Facts = self._synced(self._head)
        return found

    def chunks(self, facts: Facts) -> Generator[bytes, None, None]:
        pieces = self._pieces(facts)
        try:
            yield from paced(self._url, partial(self._synced, anext, pieces, b""), self._timeouts)
        finally:
            with suppress(FetchError):  # nothing may hide why it ends
                self._synced(pieces.aclose)

    async def _head(self) -> Facts:
        async with self._answer("HEAD") as response:
            facts = _facts(response)
            if response.status < 400 and facts.bytes != 0:
                return facts
        async with self._answer("GET") as response:
            told_status(self._url, response.status)
            return _facts(response)

    async def _pieces(self, facts: Facts) -> AsyncGenerator[bytes, None]:
        async with self._answer("GET") as response:
            told_status(self._url, response.status)
            if response.headers.get("Content-Encoding", "identity") not in ("", "identity"):
                raise unfetched(self._url, "it is sent compressed, which nobody asked for", "Name another server")
            check_same(self._url, _facts(response), facts)
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                yield chunk

    @asynccontextmanager
    async def _answer(self, method: str) -> AsyncIterator[ClientResponse]:
        url = self._filesystem.encode_url(self._url)
        async with self._session.request(method, url, headers={"Accept-Encoding": "identity"}) as response:
            yield response

    def _synced(self, function: Callable[..., Any], *words: object) -> Any:
        """In fsspec's thread; what aiohttp raises becomes a FetchError."""
        from fsspec.asyn import sync

        async def run() -> Any:
            return await function(*words)

        try:
            return sync(self._filesystem.loop, run, timeout=self._timeouts.block_s)
        except FetchError:
            raise
        except Exception as exc:
            raise self._border.fault or told(self._url, exc) from exc


def _session(border: Border, timeouts: Timeouts) -> ClientSession:
    from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

    return ClientSession(
        connector=TCPConnector(socket_factory=border.socket),
        timeout=ClientTimeout(total=None, connect=timeouts.connect_s, sock_read=timeouts.silence_s),
        cookie_jar=DummyCookieJar(),
        middlewares=(border.request,),
        trust_env=False,
        auto_decompress=False,
    )


def _facts(response: ClientResponse) -> Facts:
    return Facts.of(dict(response.headers))
