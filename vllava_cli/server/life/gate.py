"""The middleware in front of all routes: checks each request, bounds its body, counts it, and reports what fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from traceback import extract_tb
from typing import NoReturn

from starlette.requests import ClientDisconnect

from vllava_cli.errors import MOST_TOLD, reason_of
from vllava_cli.server.life.access import OWN_LIMITS, App, Message, Receive, Refusal, Rules, Scope, Send
from vllava_cli.server.life.life import WATCHERS
from vllava_cli.server.openai.protocol_errors import BUG, RETRY_AFTER_S
from vllava_cli.server.service import Service

PATIENCE_S = 30.0
"""How long the server waits for a body in all, and a second more for each BYTES_A_SECOND that come."""
BYTES_A_SECOND = 16 << 10
SILENCE_S = 60.0
"""How long a client may send nothing of a body, however much has come: it may be gone without a word."""
ON_DISK = "/v1/files"
"""The beginning of the paths whose bodies go to the disk as they come."""
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
ENDING = Refusal(
    status=503,
    code="ending",
    message="The server is ending, and answers no further request. Ask another one.",
    headers=(("Connection", "close"),),
)
TOO_SLOW = Refusal(
    status=408,
    code="too_slow",
    message="The request came too slowly: send it again over a faster connection.",
    headers=(("Connection", "close"),),
)
OUR_BUG = Refusal(status=500, code="bug", message=BUG)


class Gate:
    """Lets requests through to the application, or answers them itself."""

    def __init__(self, app: App, service: Service) -> None:
        self._app, self._service, self._rules = app, service, Rules.of(service)
        self._room = _Room(most_bytes=service.settings.most_held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        body = _Body(
            receive=receive,
            too_large=self._rules.too_large,
            most_bytes=None if scope["path"].startswith(OWN_LIMITS) else self._rules.most_body_bytes,
            room=None if scope["path"].startswith(ON_DISK) else self._room,
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
            body.forget()
            if self._service.settings.is_logging and scope["path"] not in WATCHERS:
                self._service.say(_line(scope, reply.status, time.monotonic() - began_s))

    async def _answered(self, scope: Scope, body: _Body, reply: _Reply) -> Refusal | None:
        """Lets a route answer; returns what is answered in its place if it can't."""
        try:
            await self._app(scope, body, reply)
        except ClientDisconnect:
            return None
        except asyncio.CancelledError:  # the server ends, and the answer took too long
            if not reply.status:
                await ENDING.response()(scope, body, reply)
            raise
        except Exception as exc:
            if body.refusal is None:
                self._service.say(_bug(scope["path"], exc, is_logging=self._service.settings.is_logging))
                return OUR_BUG
        return body.refusal


class _BodyError(Exception):
    """Ends a route whose request has a body that is too large, or that comes too slowly."""


@dataclass(kw_only=True)
class _Room:
    """Counts the bytes of the bodies that are in memory, those of all requests that run."""

    most_bytes: int
    bytes: int = 0

    @property
    def full(self) -> Refusal:
        return Refusal(
            status=429,
            code="rate_limit_exceeded",
            message=f"The requests that run now have {self.most_bytes:,} bytes together, and no more fit: try again in "
            "a moment.",
            headers=(("Retry-After", str(RETRY_AFTER_S)), ("Connection", "close")),
        )


@dataclass(kw_only=True)
class _Body:
    """Gives a route the body of its request, within limits of size and time."""

    receive: Receive
    too_large: Refusal
    most_bytes: int | None
    """None where the route counts the bytes itself."""
    room: _Room | None
    """None where the route doesn't keep the bytes in memory."""
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
            async with asyncio.timeout(min(SILENCE_S, PATIENCE_S + self._bytes / BYTES_A_SECOND - self._waited_s)):
                message = await self.receive()
        except TimeoutError:
            self._refuse(TOO_SLOW)
        self._waited_s += time.monotonic() - began_s
        size = len(message.get("body", b""))
        self._bytes += size
        if self.room:
            self.room.bytes += size
        self._is_whole = not message.get("more_body", False)
        if self.most_bytes is not None and self._bytes > self.most_bytes:
            self._refuse(self.too_large)
        if self.room and size and self.room.bytes > self.room.most_bytes:
            self._refuse(self.room.full)
        return message

    def forget(self) -> None:
        """Gives the room back once the request has ended."""
        if self.room:
            self.room.bytes -= self._bytes

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


def _line(scope: Scope, status: int, seconds: float) -> str:
    """Writes a line of the log; a route that was asked something has put it into its request's state."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    question = " ".join(str(scope.get("state", {}).get("question", "")).split())
    line = f"{when} {scope['method']} {scope['path']} {status or 'gone'} {seconds:.3f} s"
    return f"{line}: {question[:MOST_TOLD]}" if question else line


def _bug(path: str, exc: Exception, *, is_logging: bool) -> str:
    """Writes a line about a bug; its reason may quote a question, and is told only where questions are logged."""
    place = extract_tb(exc.__traceback__)[-1]
    name = f"{type(exc).__name__} at {place.filename.rpartition('/')[2]}:{place.lineno}"
    told = (
        f"{name}: {reason_of(exc)}. Please report it."
        if is_logging
        else f"{name}. Please report it; --log tells the reason."
    )
    return f"vllava: {path} failed by a bug in vllava: {told}"
