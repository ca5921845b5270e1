"""A real HTTP server in a thread: each path answers as a test says, and every request is counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Site:
    port: int
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    """ "GET /a.mp4" → how many."""
    headers: dict[str, str] = field(default_factory=dict)
    """Those of the last request."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set in the end: what keeps a client waiting ends then."""

    def url(self, path: str, *, host: str = "127.0.0.1", login: str = "") -> str:
        return f"http://{login}{host}:{self.port}{path}"


@contextmanager
def open_site() -> Iterator[Site]:
    site = Site(port=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests[f"{self.command} {self.path}"] += 1
            site.headers = dict(self.headers)
            site.answers.get(self.path.partition("?")[0], status(404))(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.over.set()
        server.shutdown()
        server.server_close()


def content(body: bytes, *, promised: int | None = None, **headers: str) -> Answer:
    """A file; `promised` is another Content-Length, -1 for none. Content_Encoding="gzip" is a header."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if promised != -1:
            handler.send_header("Content-Length", str(len(body) if promised is None else promised))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(target: str) -> Answer:
    return status(302, Location=target)


def in_turn(*answers: Answer) -> Answer:
    """Each request takes the next one, the last one stays."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)
