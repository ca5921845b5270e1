"""Who may ask: checks each request before a route sees it, and bounds its body.

The names in Host keep a web page from reaching the server under a name of its own (DNS rebinding); Origin and
Sec-Fetch-Site keep a page elsewhere in the user's browser from asking. There are no CORS headers.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from traceback import extract_tb
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from vllava_cli.errors import MOST_TOLD, reason_of
from vllava_cli.server.life import WATCHERS
from vllava_cli.server.listeners import EVERYWHERE, LOOPBACK
from vllava_cli.server.service import Service

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PRIVATE = frozenset(("/vllava/ask", "/vllava/stop"))
"""Routes that open paths or end the server: only this user's own commands reach them."""
OWN_LIMITS = frozenset(("/v1/files", "/vllava/frames"))
"""Routes that count the bytes of their bodies themselves."""
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"https?://(.+)")
PATIENCE_S = 30.0
"""How long the server waits for a body in all, and a second more for each BYTES_A_SECOND that come."""
BYTES_A_SECOND = 16 << 10
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
CONTENT_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
    b"media-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The answer to a request that is refused, in the form of OpenAI's protocol."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def response(self) -> JSONResponse:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return JSONResponse({"error": error}, status_code=self.status, headers=dict(self.headers))


ENDING = Refusal(
    status=503,
    code="ending",
    message="The server is ending and takes no further request. Ask another one.",
    headers=(("Connection", "close"),),
)
TOO_SLOW = Refusal(
    status=408,
    code="too_slow",
    message="The request came too slowly: send it again over a faster connection.",
    headers=(("Connection", "close"),),
)
OUR_BUG = Refusal(
    status=500, code="bug", message="This is a bug in vllava: please report it with the server's message on stderr."
)


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
        if scope["path"] in OWN_LIMITS or not is_number or (len(length) < 18 and int(length) <= self.most_body_bytes):
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


class _BodyError(Exception):
    """Ends a route whose request has a body that is too large, or that comes too slowly."""


@dataclass(kw_only=True)
class _Body:
    """Gives a route the body of its request, within limits of size and time."""

    receive: Receive
    too_large: Refusal
    most_bytes: int | None
    """None where the route counts the bytes itself."""
    refusal: Refusal | None = None
    """Why the rest of the body isn't read."""
    _bytes: int = 0
    _waited_s: float = 0.0
    _is_whole: bool = False

    async def __call__(self) -> Message:
        if self.refusal:
            raise _BodyError
        if self._is_whole:  # the route waits until its client goes away
            return await self.receive()
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S + self._bytes / BYTES_A_SECOND - self._waited_s):
                message = await self.receive()
        except TimeoutError:
            self._refuse(TOO_SLOW)
        self._waited_s += time.monotonic() - began_s
        self._bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self.most_bytes is not None and self._bytes > self.most_bytes:
            self._refuse(self.too_large)
        return message

    def _refuse(self, refusal: Refusal) -> NoReturn:
        self.refusal = refusal
        raise _BodyError


@dataclass(kw_only=True)
class _Reply:
    """Passes a route's response on, with the headers that each response has."""

    send: Send
    body: _Body | None = None
    status: int = 0
    """The status that was sent; 0 before that."""

    async def __call__(self, message: Message) -> None:
        if self.body and self.body.refusal and not self.status:
            return  # the route's answer to a body that it didn't get
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": _guarded(message.get("headers", ()))}
        await self.send(message)


def _guarded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Adds the headers that keep a browser from using a response elsewhere; a route's own come first."""
    found = list(headers)
    names = {name.lower() for name, _ in found}
    is_page = any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in found)
    added = (*HEADERS, CONTENT_POLICY) if is_page else HEADERS
    return [*found, *(pair for pair in added if pair[0] not in names)]


class Access:
    """The middleware in front of all routes: checks, bounds, counts and reports each request."""

    def __init__(self, app: App, service: Service) -> None:
        self._app, self._service, self._rules = app, service, Rules.of(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        body = _Body(
            receive=receive,
            too_large=self._rules.too_large,
            most_bytes=None if scope["path"] in OWN_LIMITS else self._rules.most_body_bytes,
        )
        reply = _Reply(send=send, body=body)
        try:
            with self._service.life.request(scope["path"]) as is_taken:
                refusal = self._rules.refusal(scope) or (None if is_taken else ENDING)
                refusal = refusal or await self._answered(scope, body, reply)
                if refusal and not reply.status:
                    reply.body = None
                    await refusal.response()(scope, receive, reply)
        finally:
            if self._service.settings.is_logging and scope["path"] not in WATCHERS:
                self._service.say(_line(scope, reply.status, time.monotonic() - began_s))

    async def _answered(self, scope: Scope, body: _Body, reply: _Reply) -> Refusal | None:
        """Lets a route answer; returns what is answered in its place if it can't."""
        try:
            await self._app(scope, body, reply)
        except ClientDisconnect:
            return None
        except Exception as exc:
            if body.refusal is None:
                self._service.say(f"vllava: {_bug(scope['path'], exc)}")
                return OUR_BUG
        return body.refusal


def _line(scope: Scope, status: int, seconds: float) -> str:
    """Writes a line of the log; a route that was asked something has put it into its request's state."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    question = " ".join(str(scope.get("state", {}).get("question", "")).split())
    line = f"{when} {scope['method']} {scope['path']} {status or 'gone'} {seconds:.3f} s"
    return f"{line}: {question[:MOST_TOLD]}" if question else line


def _bug(path: str, exc: Exception) -> str:
    place = extract_tb(exc.__traceback__)[-1]
    name = f"{type(exc).__name__} at {place.filename.rpartition('/')[2]}:{place.lineno}"
    return f"{path} failed by a bug in vllava: {name}: {reason_of(exc)}. Please report it."
