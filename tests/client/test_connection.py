"""A request and its reply, against servers that send given bytes: what is right is read, all else is one sentence."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.server.serving import Served
from vllava_cli.client.connection import Address, send
from vllava_cli.client.events import event_line, events, fault_line
from vllava_cli.errors import BusyError, ServerError, ServerGoneError, UsageError, VllavaError

Server = Callable[[list[bytes]], Address]


@pytest.fixture
def sending(tmp_path: Path) -> Iterator[Server]:
    """Starts a server on a Unix socket that reads one request, and sends the given pieces."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def answer(pieces: list[bytes]) -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            for piece in pieces:
                connection.sendall(piece)

    def start(pieces: list[bytes]) -> Address:
        threading.Thread(target=answer, args=(pieces,), daemon=True).start()
        return Address(socket=str(tmp_path / "s"))

    with closing(listener):
        yield start


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([OK + b"Content-Length: 4\r\n\r\na\nbcde"], [b"a", b"bc"]),
        ([OK + b"content-length: 3\r\n\r\n", b"a", b"\nb"], [b"a", b"b"]),
        ([OK, b"\r\na\n", b"b\n"], [b"a", b"b"]),
        ([CHUNKED + b"3\r\na\nb\r\n", b"2;x\r\nc\n\r", b"\n0\r\n\r\n"], [b"a", b"bc"]),
        ([CHUNKED + b"0\r\n\r\n"], []),
    ],
)
def test_a_body_is_read_however_it_is_framed(sending: Server, pieces: list[bytes], lines: list[bytes]) -> None:
    with send(sending(pieces), "GET", "/") as reply:
        assert list(reply.checked().lines()) == lines


@pytest.mark.parametrize(
    ("pieces", "kind", "text"),
    [
        ([], ServerGoneError, "is gone: it ended before its answer did"),
        ([OK + b"Content-Length: 4\r\n\r\na"], ServerGoneError, "is gone: it ended before"),
        ([CHUNKED + b"5\r\nab"], ServerGoneError, "is gone: it ended before"),
        ([CHUNKED + b"5\r\nab\ncd\r\n"], ServerGoneError, "is gone: it ended before"),
        ([CHUNKED + b"-5\r\n\r\n"], ServerError, "a chunk without a length"),
        ([CHUNKED + b"five\r\n"], ServerError, "a chunk without a length"),
        ([b"SSH-2.0-x\r\n"], ServerError, "it doesn't speak HTTP. Check the address."),
        ([b"x" * 100_000], ServerError, "too long a head"),
        ([OK + b"a: b\r\n" * 20_000], ServerError, "too long a head"),
        ([b"HTTP/1.1 502 Bad\r\n\r\n<html>"], ServerError, "it answered with HTTP 502. Check"),
        ([b'HTTP/1.1 429 Busy\r\n\r\n{"error": {"message": "Many wait."}}'], BusyError, "Many wait."),
        ([b'HTTP/1.1 503 End\r\n\r\n{"error": {"message": "It ends."}}'], ServerGoneError, "takes no more questions."),
        ([b'HTTP/1.1 401 No\r\n\r\n{"error": {"message": "No token."}}'], ServerError, "No token."),
    ],
)
def test_anything_else_is_an_error(sending: Server, pieces: list[bytes], kind: type[VllavaError], text: str) -> None:
    with pytest.raises(VllavaError) as caught, send(sending(pieces), "GET", "/") as reply:
        list(reply.checked().lines())
        raise kind
    assert (type(caught.value), text in str(caught.value)) == (kind, True), caught.value


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerGoneError, match="can't be reached: no such file or directory"):
        send(Address(socket=str(tmp_path / "none")), "GET", "/")
    for url in ("http://", "http://[", "http://a:b"):
        with pytest.raises(ServerError, match="names no server"):
            send(Address(url=url), "GET", "/")


def test_a_wait_is_broken_off_by_the_caller_or_by_the_clock(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        address = Address(socket=str(tmp_path / "s"))
        with pytest.raises(ServerGoneError, match="it doesn't answer"):
            send(address, "GET", "/", patience_s=0.01)

        def stop() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):  # also while a body is sent that nobody reads
            send(address, "POST", "/", bytes(8 << 20), wake=stop)


def test_a_reply_that_comes_without_a_pause_is_broken_off_by_the_caller(sending: Server) -> None:
    """Ctrl-C ends an answer whose words come faster than a wait would end."""
    is_asked = threading.Event()

    def stop() -> None:
        if is_asked.is_set():
            raise KeyboardInterrupt

    pieces = [OK + b"\r\n", *[b"a\n" * (1 << 19)] * 16]
    with pytest.raises(KeyboardInterrupt), send(sending(pieces), "GET", "/", wake=stop) as reply:
        for _ in reply.lines():
            is_asked.set()


def test_a_real_server_is_reached_by_socket_and_url(demo_served: Served) -> None:
    for address in (Address(socket=demo_served.socket), Address(url=f"{demo_served.url}/")):
        with send(address, "GET", "/health") as reply:
            assert reply.checked().json()["status"] == "ok"


def test_events_and_faults_cross_unchanged() -> None:
    sent = event_line("answer", "caf\N{LATIN SMALL LETTER E WITH ACUTE} \udce9\n", 1, ["a"])
    assert list(events([sent[:-1]])) == [("answer", ("caf\N{LATIN SMALL LETTER E WITH ACUTE} \udce9\n", 1, ["a"]))]

    class RareError(UsageError):
        pass

    for fault, kind in ((UsageError("No."), UsageError), (RareError("No."), UsageError), (KeyError("x"), RuntimeError)):
        with pytest.raises(kind, match=r"No\.|the server failed: 'x'"):
            list(events([fault_line(fault)]))
    for line in (b"{", b"[]", b"3", b"[3]", b"{}"):
        with pytest.raises(ServerError, match="no event"):
            list(events([line]))
