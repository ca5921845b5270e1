"""Decides by the head of a request whether it is answered.

The names in Host keep a web page from reaching the server under a name of its own (DNS rebinding); Origin and
Sec-Fetch-Site keep a page elsewhere in the user's browser from asking. There are no CORS headers.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from starlette.responses import JSONResponse

from vllava_cli.errors import MOST_TOLD
from vllava_cli.server.life.listeners import EVERYWHERE, LOOPBACK
from vllava_cli.server.service import Service

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PRIVATE = frozenset(("/vllava/ask", "/vllava/keep", "/vllava/status", "/vllava/stop"))
"""Routes that open or tell paths, or say when the server ends: only this user's own commands reach them."""
OWN_LIMITS = ("/v1/files", "/vllava/frames")
"""Beginnings of the paths of routes that count the bytes of their bodies themselves."""
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_KINDS = {429: "rate_limit_error"}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"https?://(.+)")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The answer to a request that is refused, in the form of OpenAI's protocol."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def response(self) -> JSONResponse:
        kind = "server_error" if self.status >= 500 else _KINDS.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return JSONResponse({"error": error}, status_code=self.status, headers=dict(self.headers))


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Decides by the head of a request whether it is answered."""

    names: frozenset[str]
    """The names in Host that are this server's, in lower case."""
    takes_addresses: bool = False
    """True if Host may be any address: a server on all addresses of a machine has many."""
    token: str = ""
    """Who asks at the port must have this; "" lets everybody ask who reaches it."""
    socket: str = ""
    """The path of the Unix socket, whose rights are enough."""
    private_token: str = ""
    """The token of this user's own commands, where there is no Unix socket."""
    most_body_bytes: int

    @classmethod
    def of(cls, service: Service) -> Rules:
        settings, state = service.settings, service.state
        return cls(
            names=frozenset(name.lower().strip("[]") for name in (*LOOPBACK, settings.host, *settings.names)),
            takes_addresses=settings.host in EVERYWHERE,
            token=settings.token or ("" if settings.port is not None else state.token),
            socket=state.socket,
            private_token=state.token,
            most_body_bytes=settings.most_body_bytes,
        )

    def refusal(self, scope: Scope) -> Refusal | None:
        """Returns why a request is refused; None if it is answered."""
        headers = _Headers(scope)
        return (
            self._of_host(headers)
            or _of_line(scope)
            or _of_page(headers)
            or self._of_token(scope, headers)
            or self._of_privacy(scope, headers)
            or self._of_length(scope, headers)
        )

    def _of_host(self, headers: _Headers) -> Refusal | None:
        host = _HOST.fullmatch(headers.only("host").lower())
        name = host[1].strip("[]") if host else ""
        if name in self.names or (self.takes_addresses and _is_address(name)):
            return None
        return Refusal(
            status=403,
            code="unknown_host",
            message=f"{headers.only('host')[:MOST_TOLD]!r} is not a name of this server: use localhost, or start it "
            "with --name.",
        )

    def _of_token(self, scope: Scope, headers: _Headers) -> Refusal | None:
        if not self.token or self._is_own(scope):
            return None
        given = given_token(headers.only("authorization"))
        if any(_is_same(given, token) for token in (self.token, self.private_token) if token):
            return None
        # A browser asks its user for the token where a page is wanted.
        challenge = 'Basic realm="vllava"' if "text/html" in headers.all("accept") else "Bearer"
        return Refusal(
            status=401,
            code="invalid_api_key",
            message="The token is missing or wrong: send it as the API key, Authorization: Bearer TOKEN.",
            headers=(("WWW-Authenticate", challenge),),
        )

    def _of_privacy(self, scope: Scope, headers: _Headers) -> Refusal | None:
        if scope["path"] not in PRIVATE or self._is_own(scope):
            return None
        if self.private_token and _is_same(given_token(headers.only("authorization")), self.private_token):
            return None
        return Refusal(
            status=403,
            code="private",
            message=f"{scope['path']} is for commands of the user who runs this server: run vllava as that user.",
        )

    def _of_length(self, scope: Scope, headers: _Headers) -> Refusal | None:
        length = headers.only("content-length")
        is_number = length.isascii() and length.isdigit()
        if (
            scope["path"].startswith(OWN_LIMITS)
            or not is_number
            or (len(length) < 18 and int(length) <= self.most_body_bytes)
        ):
            return None
        return self.too_large

    @property
    def too_large(self) -> Refusal:
        return Refusal(
            status=413,
            code="too_large",
            message=f"The request has more than {self.most_body_bytes:,} bytes: send media as files, to /v1/files.",
            headers=(("Connection", "close"),),
        )

    def _is_own(self, scope: Scope) -> bool:
        """True for a request that came over the Unix socket."""
        return bool(self.socket) and scope.get("server") == (self.socket, None)


def _of_line(scope: Scope) -> Refusal | None:
    """Refuses a method that no route has, OPTIONS among them, and a path that can't be a route's."""
    method, path = scope["method"], scope["path"]
    if method not in METHODS:
        return Refusal(
            status=405,
            code="method",
            message=f"{method[:MOST_TOLD]!r} is not served here: use one of {', '.join(METHODS)}.",
            headers=(("Allow", ", ".join(METHODS)),),
        )
    if not all("!" <= letter <= "~" for letter in path):
        return Refusal(status=404, code="unknown_path", message="There is nothing here by this path: check the URL.")
    return None


def _of_page(headers: _Headers) -> Refusal | None:
    """Refuses what a web page elsewhere makes a browser send. Programs send neither Origin nor Sec-Fetch-Site."""
    origin, site = headers.all("origin"), headers.all("sec-fetch-site")
    if (not origin or _place(origin) == headers.only("host").lower()) and site in ("", "none", "same-origin"):
        return None
    return Refusal(
        status=403,
        code="foreign_page",
        message="Web pages of another origin can't ask this server: open its own address in the browser.",
    )


def _place(origin: str) -> str:
    """Returns what Host is for a page of this origin: "https://A.example" → "a.example"."""
    found = _ORIGIN.fullmatch(origin.lower())
    return found[1] if found else ""


def given_token(authorization: str) -> str:
    """Returns the token that a client sends: as a bearer's, or as the password that a browser asked for."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class _Headers:
    """The headers of a request, as text."""

    def __init__(self, scope: Scope) -> None:
        self._pairs: list[tuple[bytes, bytes]] = scope["headers"]

    def all(self, name: str) -> str:
        """Returns the values of all headers of this name, joined by commas."""
        return ", ".join(value.decode("latin-1") for key, value in self._pairs if key == name.encode())

    def only(self, name: str) -> str:
        """Returns the value of a header that is there once, else ""."""
        found = [value.decode("latin-1") for key, value in self._pairs if key == name.encode()]
        return found[0] if len(found) == 1 else ""
