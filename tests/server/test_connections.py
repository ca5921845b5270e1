"""Connections end whose clients send or read too slowly, and those at a port leave room for the user's own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import uvicorn

from tests.engine.engines import engine_of
from tests.server.serving import Served, served
from tests.waiting import wait_for
from vllava_cli import demo
from vllava_cli.server.life import connections
from vllava_cli.server.life.connections import BoundedProtocol

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def hasty(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that waits for little time, and takes three connections at each address."""
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    with served(engine_of(demo.CHECKPOINT), tmp_path_factory.mktemp("hasty")) as running:
        yield running


def connect(running: Served, *, to_port: bool = True) -> socket.socket:
    found = socket.socket(socket.AF_INET if to_port else socket.AF_UNIX)
    found.settimeout(30)
    host, _, port = running.url.removeprefix("http://").partition(":")
    found.connect((host, int(port)) if to_port else running.socket)
    return found


def read(client: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    data = b""
    try:
        while piece := client.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data


def dribble(client: socket.socket, data: bytes) -> None:
    """Sends a byte at a time, for as long as somebody takes it."""
    try:
        for number in range(len(data)):
            client.sendall(data[number : number + 1])
            time.sleep(0.05)
    except OSError:
        pass


@pytest.mark.parametrize("to_port", [True, False])
@pytest.mark.parametrize(
    ("first", "slowly", "answers"),
    [
        (b"", b"", 0),
        (HEAD, b"", 0),
        (b"", HEAD + b"X-Long: " + b"x" * 1000, 0),
        (HEAD + b"\r\n", b"", 1),
        (HEAD + b"\r\n", HEAD * 10, 1),
        (HEAD + b"\r\n" + HEAD + b"\r\n", b"", 2),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b"x" * 1000, 1),
    ],
    ids=["nothing", "a part of a head", "a slow head", "nothing more", "a slow second head", "two", "an unread body"],
)
def test_a_client_that_sends_no_request_in_time_is_let_go(
    first: bytes, slowly: bytes, answers: int, to_port: bool, hasty: Served
) -> None:
    with closing(connect(hasty, to_port=to_port)) as client:
        client.sendall(first)
        slow = threading.Thread(target=dribble, args=(client, slowly))
        slow.start()
        assert read(client).count(b"HTTP/1.1 200 OK") == answers
    slow.join()


@pytest.mark.parametrize(
    "rubbish", [b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", HEAD + b"X: " + b"x" * 40_000, HEAD + b"Host: two\r\n\r\n"]
)
def test_rubbish_is_refused_without_a_word_on_stderr(
    rubbish: bytes, hasty: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    with closing(connect(hasty)) as client:
        client.sendall(rubbish)
        assert read(client).startswith(b"HTTP/1.1 400 ")
    assert capfd.readouterr() == ("", "")


def test_a_crowd_at_the_port_leaves_the_user_his_own_connections(hasty: Served) -> None:
    crowd = [connect(hasty) for _ in range(3)]
    for each in crowd:
        each.sendall(HEAD)
    with closing(connect(hasty)) as one_more, closing(connect(hasty, to_port=False)) as own:
        assert read(one_more).startswith(b"HTTP/1.1 503 ")
        own.sendall(HEAD + b"\r\n")
        assert own.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    for each in crowd:
        assert read(each) == b""
        each.close()
    with closing(connect(hasty)) as later:
        later.sendall(HEAD + b"\r\n")
        assert later.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


@contextmanager
def answering(app: Callable[..., Any]) -> Iterator[int]:
    """The port at which this application answers."""
    config = uvicorn.Config(app, http=BoundedProtocol, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    server, listener = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    port = listener.getsockname()[1]
    thread.start()
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("is_reading", [False, True])
def test_a_client_that_reads_nothing_is_let_go_and_one_that_reads_slowly_is_not(
    is_reading: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNREAD_S", 0.5)
    sent: list[str] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await receive()
        sent.append((await receive())["type"])

    with answering(app) as port, closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client:
        client.sendall(HEAD + b"\r\n")
        pieces = 0
        if is_reading:
            while pieces < 200 * 100_000:
                pieces += len(client.recv(1_000_000))
                time.sleep(0.02)
        assert wait_for(lambda: bool(sent))
    assert sent == ["http.disconnect"]
    assert (pieces >= 200 * 100_000) == is_reading
