"""HTTP for fsspec, each connection of which is checked at its very address: of names, redirects and literals alike.

S3 and the like need no such thing: where they connect to is the user's own setting (AWS_ENDPOINT_URL), not the URL's.
"""

from __future__ import annotations

import socket
from typing import Any

from vllava_cli.media.remote.addresses import refusal
from vllava_cli.media.remote.allow import Allowed, scheme_of

CONNECT_S, SILENCE_S = 20.0, 60.0


class RefusedError(Exception):
    """An address or a scheme that is not allowed."""


def file_system(allowed: Allowed) -> Any:
    """fsspec's, without proxies, cookies, a cache of instances or a limit of the whole time."""
    from fsspec.implementations.http import HTTPFileSystem

    async def client(**_: Any) -> Any:
        return _session(allowed)

    return HTTPFileSystem(get_client=client, skip_instance_cache=True)


def _session(allowed: Allowed) -> Any:
    import aiohttp

    def opened(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if why := refusal(str(address[0]), allowed):
            raise RefusedError(why)
        return socket.socket(family, kind, protocol)

    async def followed(_session: Any, _context: Any, params: Any) -> None:
        target = params.response.headers.get("Location", "")
        scheme = scheme_of(target)
        if scheme and scheme not in allowed.schemes:
            raise RefusedError(f"it leads on to {scheme}://, which --allow {scheme} permits")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(followed)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=opened),
        trace_configs=[trace],
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )
