"""What went wrong over HTTP, as a sentence that shows no secret: aiohttp's own texts have the whole URL in them."""

from __future__ import annotations

import asyncio
import os
import socket

from vllava_cli.errors import FetchError
from vllava_cli.media.remote.source import missing, passing, refused, unfetched

_PASSING = (408, 425, 429)
_MISSING = (404, 410)
_REFUSED = (401, 403, 407)


def told_status(url: str, status: int) -> None:
    """Raises what a status means unless it is good."""
    if status == 200:
        return
    if status in _MISSING:
        raise missing(url)
    if status in _REFUSED:
        raise refused(url, f"Check the URL's signature or credentials ({status})")
    if status in _PASSING or status >= 500:
        raise passing(url, f"the server answers {status}")
    raise unfetched(url, f"the server answers {status}")


def told(url: str, exc: Exception) -> FetchError:
    """What an exception of aiohttp or of the system below means."""
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
            return unfetched(url, "it is no good URL")
        case asyncio.TimeoutError():
            return passing(url, "the server keeps silent")
        case aiohttp.ClientPayloadError():
            return passing(url, "the connection ended before the file did")
        case aiohttp.ClientOSError() if exc.errno and exc.errno > 0:
            return passing(url, os.strerror(exc.errno).lower())
        case _:
            return passing(url, "the connection was lost")


def _is_busy(exc: OSError) -> bool:
    """Whether the name server only had no answer yet."""
    return isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN
