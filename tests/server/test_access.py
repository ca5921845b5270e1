"""Who may ask: tables of requests that are answered and that are refused, at the port and at the Unix socket."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tests.engine.engines import engine_of
from tests.server.serving import Served, served
from vllava_cli import demo
from vllava_cli.client.place import ServerState
from vllava_cli.nouns import Wishes
from vllava_cli.server.app import make_app
from vllava_cli.server.life import gate
from vllava_cli.server.life.access import PRIVATE, Rules
from vllava_cli.server.life.gate import Gate
from vllava_cli.server.life.life import Life
from vllava_cli.server.serve_settings import ServeSettings
from vllava_cli.server.service import Service

TOKEN = "0123456789abcdef"
WISHES = Wishes(model="demo")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo's model behind a token, and known by another name."""
    settings = ServeSettings(wishes=WISHES, token=TOKEN, names=("Films.example",))
    with served(engine_of(demo.CHECKPOINT), tmp_path_factory.mktemp("guarded"), settings) as running:
        yield running


def at(running: Served) -> dict[str, httpx.Client]:
    over_socket = httpx.HTTPTransport(uds=running.socket)
    return {
        "port": httpx.Client(base_url=running.url),
        "socket": httpx.Client(base_url="http://localhost", transport=over_socket),
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost"}, 200),
        ({"host": "LOCALHOST:9000"}, 200),
        ({"host": "127.0.0.1:1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "films.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8000"}, 403),
        ({"host": "10.0.0.1"}, 403),
        ({"host": "evil@localhost"}, 403),
        ({"host": "localhost:80:80"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "localhost", "origin": "https://LOCALHOST"}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:3000"}, 403),
        ({"host": "localhost", "origin": "http://127.0.0.1"}, 403),
        ({"host": "localhost", "origin": "http://evil.example"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
        ({"host": "localhost", "origin": "file://"}, 403),
        ({"host": "localhost", "sec-fetch-site": "same-origin"}, 200),
        ({"host": "localhost", "sec-fetch-site": "none"}, 200),
        ({"host": "localhost", "sec-fetch-site": "same-site"}, 403),
        ({"host": "localhost", "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_only_the_servers_own_names_and_pages_are_answered(
    headers: dict[str, str], status: int, demo_served: Served
) -> None:
    for client in at(demo_served).values():
        response = client.get("/vllava/engine", headers=headers)
        assert response.status_code == status
        assert ("error" in response.json()) == (status == 403)
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_no_page_elsewhere_is_told_that_it_may_ask(demo_served: Served) -> None:
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    for path in ("/", "/health", "/v1/chat/completions"):
        response = httpx.options(demo_served.url + path, headers=asked)
        assert response.status_code == 405
        assert not [name for name in response.headers if name.startswith("access-control")]


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ((), 401),
        (("Bearer",), 401),
        ((f"Bearer {TOKEN}x",), 401),
        ((f"Bearer {TOKEN[:-1]}",), 401),
        ((f"Bearer {TOKEN.upper()}",), 401),
        ((f"Digest {TOKEN}",), 401),
        ((TOKEN,), 401),
        (("Bearer caf\xe9",), 401),
        ((f"Bearer {TOKEN}", "Bearer x"), 401),
        ((basic("x"),), 401),
        (("Basic !",), 401),
        ((f"Bearer {TOKEN}",), 200),
        ((f"bearer  {TOKEN}",), 200),
        ((basic(TOKEN),), 200),
    ],
)
def test_at_a_port_with_a_token_it_must_be_right(given: Sequence[str], status: int, guarded: Served) -> None:
    headers = [(b"Authorization", value.encode("latin-1")) for value in given]
    response = httpx.get(f"{guarded.url}/vllava/engine", headers=headers)
    assert response.status_code == status
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert TOKEN not in response.text


def test_no_route_answers_without_the_token(guarded: Served) -> None:
    paths = [route.path for route in make_app(guarded.service).routes if isinstance(route, Route)]
    assert "/health" in paths
    for path in (*paths, "/no/such/path"):
        for method in ("GET", "POST", "PUT", "DELETE"):
            response = httpx.request(method, guarded.url + path.replace("{", "").replace("}", ""))
            assert (response.status_code, set(response.json())) == (401, {"error"}), path


def test_a_browser_asks_for_the_token_and_the_sockets_rights_are_enough(guarded: Served) -> None:
    page = httpx.get(guarded.url, headers={"accept": "text/html,*/*"})
    assert (page.status_code, page.headers["www-authenticate"]) == (401, 'Basic realm="vllava"')
    assert at(guarded)["socket"].get("/vllava/status").status_code == 200
    assert at(guarded)["socket"].get("/vllava/status", headers={"host": "films.example:443"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/vllava/ask",
        "/vllava/keep",
        "/vllava/status",
        "/vllava/stop",
        "/vllava/%73top",
        "/vllava/stop%0a",
        "/vllava/stop/",
        "//vllava/stop",
    ],
)
def test_what_opens_paths_or_ends_the_server_is_out_of_reach_at_a_port(path: str, guarded: Served) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    request = httpx.Request("POST", guarded.url, headers=headers)
    request.url = request.url.copy_with(raw_path=path.encode())
    response = httpx.Client().send(request)
    assert response.status_code in (403, 404, 307)
    assert not guarded.service.life.is_ending
    assert (response.status_code == 403) == (unquote(path) in PRIVATE)


def service_of(**settings: Any) -> Service:
    """A service without a model, whose state has a token as where there are no Unix sockets."""
    state = ServerState(
        pid=1, version="1", wishes=WISHES, device="cpu", precision="fp32", attention="sdpa", token="private-token"
    )
    resident: Any = SimpleNamespace(tokens=SimpleNamespace(checkpoint=None))
    shelf: Any = SimpleNamespace(fit_to=str)
    return Service(
        settings=ServeSettings(wishes=WISHES, **settings), resident=resident, shelf=shelf, state=state, say=SAID.append
    )


SAID: list[str] = []


@pytest.mark.parametrize(
    ("settings", "path", "token", "status"),
    [
        ({}, "/health", "", 401),
        ({}, "/health", "private-token", None),
        ({}, "/vllava/stop", "private-token", None),
        ({"port": 1}, "/health", "", None),
        ({"port": 1}, "/vllava/stop", "", 403),
        ({"port": 1}, "/vllava/stop", "private-token", None),
        ({"port": 1, "token": TOKEN}, "/health", "", 401),
        ({"port": 1, "token": TOKEN}, "/health", TOKEN, None),
        ({"port": 1, "token": TOKEN}, "/vllava/stop", TOKEN, 403),
        ({"port": 1, "token": TOKEN}, "/vllava/stop", "private-token", None),
    ],
)
def test_without_unix_sockets_a_private_token_takes_their_place(
    settings: dict[str, Any], path: str, token: str, status: int | None
) -> None:
    scope = scope_of(path, host="localhost", **({"authorization": f"Bearer {token}"} if token else {}))
    refusal = Rules.of(service_of(**settings)).refusal(scope)
    assert (refusal and refusal.status) == status


@pytest.mark.parametrize(
    ("host", "name", "is_answered"),
    [
        ("0.0.0.0", "192.0.2.7:80", True),
        ("0.0.0.0", "[2001:db8::1]", True),
        ("0.0.0.0", "evil.example", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8::1", "[2001:db8::1]:80", True),
        ("films.local", "films.local:8000", True),
    ],
)
def test_a_server_on_all_addresses_is_known_by_each(host: str, name: str, is_answered: bool) -> None:
    rules = Rules.of(service_of(host=host, port=1))
    assert (rules.refusal(scope_of("/health", host=name)) is None) == is_answered


def scope_of(path: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {
        "type": "http", "method": method, "path": path, "headers": pairs, "server": ("127.0.0.1", 1),
        "query_string": b"", "state": {},
    }  # fmt: skip


async def echo(request: Request) -> Response:
    return JSONResponse(len(await request.body()))


async def careless(request: Request) -> Response:
    try:
        await request.body()
    except Exception:
        return JSONResponse("all is well")
    return JSONResponse("whole")


async def broken(request: Request) -> Response:
    request.state.question = "Why?\n\x1b[2J"
    raise KeyError("nothing\nhere")


async def page(_request: Request) -> Response:
    return HTMLResponse("<p>", headers={"Cache-Control": "no-cache"})


ROUTES = [
    Route(path, route, methods=["GET", "POST"])
    for path, route in (("/echo", echo), ("/v1/files", echo), ("/careless", careless), ("/broken", broken), ("/", page))
]


def answered(scope: dict[str, Any], *pieces: bytes, is_silent: bool = False, **settings: Any) -> tuple[int, Any, Any]:
    """The status, the headers and the body with which an application behind the checks answers these pieces."""
    service = service_of(port=1, **settings)
    app = Starlette(routes=ROUTES, middleware=[Middleware(Gate, service=service)])
    asked = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if not is_silent:
        asked.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def receive() -> Any:
        if asked:
            return asked.pop(0)
        return await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert not service.life.running
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(each.get("body", b"") for each in sent[1:])


@pytest.mark.parametrize("path", ["/echo", "/careless", "/v1/files"])
@pytest.mark.parametrize(
    ("headers", "pieces", "is_too_large"),
    [
        ({}, [b"x" * 50, b"x" * 50], False),
        ({}, [b"x" * 50, b"x" * 51], True),
        ({"content_length": "101"}, [], True),
        ({"content_length": "\xb2"}, [b"x"], False),
        ({"content_length": "9" * 5000}, [], True),
    ],
)
def test_a_body_is_bounded_however_it_is_sent_but_for_uploads(
    path: str, headers: dict[str, str], pieces: list[bytes], is_too_large: bool
) -> None:
    scope = scope_of(path, "POST", host="localhost", **headers)
    status, found, body = answered(scope, *pieces, most_body_bytes=100)
    if is_too_large and path != "/v1/files":
        assert (status, json.loads(body)["error"]["code"], found["connection"]) == (413, "too_large", "close")
    else:
        assert status == 200


@pytest.mark.parametrize("path", ["/echo", "/careless", "/v1/files"])
def test_a_body_that_does_not_come_is_not_awaited_for_ever(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "PATIENCE_S", 0.05)
    status, headers, body = answered(scope_of(path, "POST", host="localhost"), b"x", is_silent=True)
    assert (status, json.loads(body)["error"]["code"], headers["connection"]) == (408, "too_slow", "close")


@pytest.mark.parametrize("path", ["/echo", "/v1/files"])
def test_a_body_that_stops_is_given_up_however_much_has_come(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "SILENCE_S", 0.05)
    status, _, body = answered(scope_of(path, "POST", host="localhost"), b"x" * (10 << 20), is_silent=True)
    assert (status, json.loads(body)["error"]["code"]) == (408, "too_slow")


def test_all_bodies_together_are_bounded_until_their_requests_end() -> None:
    """Ten bodies of ten bytes fill the room of one upload of 20 bytes and of eight bodies."""
    app = Starlette(
        routes=[Route("/hold", echo, methods=["POST"])],
        middleware=[Middleware(Gate, service=service_of(port=1, most_upload_bytes=20, most_body_bytes=10))],
    )
    found: list[list[Any]] = []

    async def asked(is_held: asyncio.Event) -> list[Any]:
        sent: list[Any] = []
        pieces = [b"x" * 10]

        async def receive() -> Any:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(), "more_body": True}
            await is_held.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope_of("/hold", "POST", host="localhost"), receive, send)
        return sent

    async def scenario() -> None:
        end, now = asyncio.Event(), asyncio.Event()
        now.set()
        holders = [asyncio.create_task(asked(end)) for _ in range(10)]
        await asyncio.sleep(0)
        while len(holders) != sum(not holder.done() for holder in holders):
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        found.append(await asked(now))
        end.set()
        assert [sent[1]["body"] for sent in await asyncio.gather(*holders)] == [b"10"] * 10
        found.append(await asked(now))

    asyncio.run(scenario())
    (start, body), (later, _) = found
    headers = dict(start["headers"])
    assert (start["status"], headers[b"retry-after"], headers[b"connection"]) == (429, b"1", b"close")
    assert json.loads(body["body"])["error"] == {
        "message": "The requests that run now have 100 bytes together, and no more fit: try again in a moment.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert later["status"] == 200


def test_the_reason_of_a_bug_may_have_a_question_in_it_and_is_told_with_log_alone() -> None:
    del SAID[:]
    answered(scope_of("/broken", host="localhost"))
    (bug,) = SAID
    assert bug.startswith("vllava: /broken failed by a bug in vllava: KeyError at test_access.py:")
    assert bug.endswith(". Please report it; --log tells the reason.")


def test_a_fault_of_ours_is_one_line_and_tells_the_client_nothing() -> None:
    del SAID[:]
    status, _, body = answered(scope_of("/broken", host="localhost"), is_logging=True)
    assert (status, json.loads(body)["error"]["code"]) == (500, "bug")
    bug, line = SAID
    assert bug.startswith("vllava: /broken failed by a bug in vllava: KeyError at test_access.py:")
    assert line.endswith(" s: Why? \x1b[2J") and " GET /broken 500 " in line
    assert "\n" not in bug + line


def test_no_question_is_logged_unless_that_is_asked_for() -> None:
    del SAID[:]
    answered(scope_of("/echo", host="localhost"))
    assert SAID == []


def test_a_page_may_load_nothing_from_elsewhere_and_be_framed_nowhere() -> None:
    _, headers, _ = answered(scope_of("/", host="localhost"))
    policy = headers["content-security-policy"]
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))
    assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")
    assert headers["cache-control"] == "no-cache", "a route's own headers stay"
    assert "content-security-policy" not in answered(scope_of("/echo", host="localhost"))[1]


def test_the_end_waits_for_running_requests_but_not_for_the_one_that_ends_the_server() -> None:
    life = Life()
    with life.request("/v1/models") as is_taken, life.request("/vllava/stop") as is_stopping:
        life.end()
        assert (is_taken, is_stopping, life.running) == (True, True, 1)
    with life.request("/v1/models") as is_taken, life.request("/vllava/stop") as is_stopping:
        assert (is_taken, is_stopping, life.running) == (False, True, 0)


def test_a_server_that_ends_takes_no_request(demo_served: Served) -> None:
    life = Life()
    service = replace(demo_served.service, life=life)
    life.end()
    app = make_app(service)

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            return [(await client.get(path)).status_code for path in ("/v1/models", "/health", "/metrics")]

    assert asyncio.run(statuses()) == [503, 200, 200]
