"""Sends one HTTP request to a server and reads its reply, over a Unix socket or a URL.

It is written by hand because importing `http.client` takes a fifth of the CPU time that `vllava ask` may use. Every
wait is cut into slices, between which the caller is asked, so that Ctrl-C is noticed.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from vllava_cli.client.place import ServerState, connected_to
from vllava_cli.errors import BusyError, ServerError, ServerGoneError, os_reason
from vllava_cli.interrupt import never

MOST_LINE_BYTES = 16 << 20
"""The longest line of a reply: a row of JSON with the ids of its tokens is far shorter."""
_MOST_HEAD_BYTES = 1 << 16
_MOST_FAULT_BYTES = 1 << 16
_PIECE_BYTES = 1 << 16
_CONNECT_S = 10.0
_SLICE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Address:
    """The address at which a server listens, and the token that it wants."""

    socket: str = ""
    """The path of a Unix socket; if it is empty, `url` counts."""
    url: str = ""
    token: str = ""

    @classmethod
    def of(cls, state: ServerState) -> Address:
        """Returns the address by which this user's own commands reach a server."""
        return cls(socket=state.socket, url=state.url, token=state.token)

    @property
    def name(self) -> str:
        """The address as messages write it."""
        return self.socket or self.url

    @property
    def base(self) -> str:
        """The part of the URL before the path of each request: http://host/models → /models."""
        return "" if self.socket else urlsplit(self.url).path.rstrip("/")

    @property
    def host(self) -> str:
        """The value of the header Host."""
        return "localhost" if self.socket else urlsplit(self.url).netloc.rpartition("@")[2]


def send(
    address: Address,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    kind: str = "application/json",
    wake: Callable[[], object] = never,
    patience_s: float | None = None,
) -> Reply:
    """Sends a request and returns the reply once its head is there; use it in a `with`, which closes the connection.

    `wake` is called about ten times a second during all waits, and after each piece that comes; it may raise. Errors:
    ServerGoneError if the server can't be reached, ends, or lets somebody wait for longer than `patience_s`;
    ServerError for a reply that isn't HTTP.
    """
    try:
        connection = _connected(address)
    except OSError as exc:
        reason = os_reason(exc) if exc.strerror else str(exc) or type(exc).__name__
        raise ServerGoneError(f"The server at {address.name} can't be reached: {reason}. Is it running?") from exc
    reply = Reply(connection, address.name, wake=wake, patience_s=patience_s)
    try:
        authorization = f"Authorization: Bearer {address.token}\r\n" if address.token else ""
        head = (
            f"{method} {address.base}{path} HTTP/1.1\r\nHost: {address.host}\r\n{authorization}"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        reply.begin(head.encode("ascii", "replace"), body)
    except BaseException:
        reply.close()
        raise
    return reply


class Reply:
    """A reply whose head has been read; the body comes by `lines` or by `content`."""

    def __init__(
        self, connection: socket.socket, name: str, *, wake: Callable[[], object], patience_s: float | None
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """The values by names in lower case."""
        self._connection, self._name, self._wake = connection, name, wake
        self._ends_s = None if patience_s is None else time.monotonic() + patience_s
        self._read = b""
        connection.settimeout(_SLICE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; a server that is still answering stops that."""
        self._connection.close()

    def begin(self, head: bytes, body: bytes) -> None:
        """Sends the request and reads the head of the reply. Errors: those of `send`."""
        with suppress(ConnectionError):  # a server may refuse a body before it has read it: its reply says why
            self._send(head + body if len(body) < _PIECE_BYTES else head)
            if len(body) >= _PIECE_BYTES:
                self._send(body)
        lines = self._line(_MOST_HEAD_BYTES).split(None, 2)
        if len(lines) < 2 or not lines[0].startswith(b"HTTP/1.") or not lines[1].isdigit():
            raise self._not_ours("it doesn't speak HTTP")
        self.status = int(lines[1])
        left = _MOST_HEAD_BYTES
        while line := self._line(left):
            left -= len(line)
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()

    def checked(self) -> Self:
        """Returns the reply unless it is a refusal.

        Errors: BusyError if too many wait, ServerGoneError if the server is ending, ServerError for all others.
        """
        if self.status < 300:
            return self
        if self.status == 503:
            raise ServerGoneError(f"The server at {self._name} takes no more questions. Start another.")
        try:
            told = json.loads(self.content(_MOST_FAULT_BYTES))["error"]["message"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._not_ours(f"it answered with HTTP {self.status}") from None
        raise (BusyError if self.status == 429 else ServerError)(str(told))

    def lines(self) -> Iterator[bytes]:
        """Yields the lines of the body as they come, without their ends. Errors: those of `send`."""
        held = b""
        for piece in self._pieces():
            *whole, held = (held + piece).split(b"\n")
            yield from whole
            if len(held) > MOST_LINE_BYTES:
                raise self._not_ours("it sent too long a line")
        if held:
            yield held

    def content(self, most_bytes: int = MOST_LINE_BYTES) -> bytes:
        """Returns the whole body. Errors: those of `send`; ServerError if it is longer than `most_bytes`."""
        found = b""
        for piece in self._pieces():
            found += piece
            if len(found) > most_bytes:
                raise self._not_ours("it sent too much")
        return found

    def json(self) -> Any:
        """Returns the body as JSON. Errors: those of `content`."""
        try:
            return json.loads(self.content())
        except (ValueError, RecursionError):
            raise self._not_ours("it sent no JSON") from None

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
        elif (length := self.headers.get("content-length", "")).isdigit():
            yield from self._exactly(int(length))
        else:
            while piece := self._read or self._receive():
                self._read = b""
                yield piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            try:
                size = int(self._line(_MOST_HEAD_BYTES).split(b";")[0], 16)
            except ValueError:
                size = -1
            if size < 0:
                raise self._not_ours("it sent a chunk without a length")
            if not size:
                return
            yield from self._exactly(size)
            self._line(2)

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            piece, self._read = (self._read or self._more()), b""
            piece, self._read = piece[:count], piece[count:]
            count -= len(piece)
            yield piece

    def _line(self, most: int) -> bytes:
        while b"\n" not in self._read:
            if len(self._read) > most:
                raise self._not_ours("its reply has too long a head")
            self._read += self._more()
        line, _, self._read = self._read.partition(b"\n")
        return line.removesuffix(b"\r")

    def _more(self) -> bytes:
        return self._receive() or self._gone("it ended before its answer did")

    def _receive(self) -> bytes:
        while True:
            try:
                piece = self._connection.recv(_PIECE_BYTES)
            except TimeoutError:
                self._wait()
            except OSError as exc:
                self._gone(os_reason(exc))
            else:
                self._wake()  # the pieces of an answer may come faster than a wait ends
                return piece

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._connection.send(rest) :]
            except TimeoutError:
                self._wait()

    def _wait(self) -> None:
        self._wake()
        if self._ends_s is not None and time.monotonic() > self._ends_s:
            self._gone("it doesn't answer")

    def _gone(self, reason: str) -> bytes:
        raise ServerGoneError(f"The server at {self._name} is gone: {reason}. Start it again, or use --server off.")

    def _not_ours(self, what: str) -> ServerError:
        return ServerError(f"The server at {self._name} is not one of vllava's: {what}. Check the address.")


def _connected(address: Address) -> socket.socket:
    """Opens a connection. Errors: OSError; ServerError for a URL that names no host."""
    if address.socket:
        return connected_to(address.socket, _CONNECT_S)
    try:
        parts = urlsplit(address.url)
        is_safe, host, port = parts.scheme == "https", parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host:
        raise ServerError(f"{address.url!r} names no server: give a URL like http://127.0.0.1:8000.")
    plain = socket.create_connection((host, port or (443 if is_safe else 80)), _CONNECT_S)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not is_safe:
        return plain
    import ssl

    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
