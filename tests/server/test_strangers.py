"""Strangers get nothing: pages elsewhere in the user's browser, and whoever reads what the server writes on stderr."""

from __future__ import annotations

import base64
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from tests.batch.fork_server import Zygote
from tests.server.browser import chromium
from tests.server.serving import Served
from tests.waiting import wait_for
from vllava_cli import demo

TOKEN = "0123456789abcdef"
ASK = """async (server) => {
  const body = JSON.stringify({ messages: [{ role: "user", content: "Why?" }], max_tokens: 1 });
  const chat = `${server}/v1/chat/completions`;
  const element = (tag, more) => new Promise((done) => {
    const made = Object.assign(document.createElement(tag), more);
    made.onload = () => done("loaded");
    made.onerror = () => done("refused");
    document.body.append(made);
  });
  const socket = (made) => new Promise((done) => {
    made.onopen = () => done("loaded");
    made.onerror = () => done("refused");
  });
  const fetched = (url, more) => fetch(url, more).then(() => "loaded", () => "refused");
  const found = [
    await fetched(`${server}/v1/models`),
    await fetched(`${server}/v1/models`, { mode: "no-cors", credentials: "include" }),
    await fetched(chat, { method: "POST", body, headers: { "Content-Type": "application/json" } }),
    await fetched(chat, { method: "POST", body, mode: "no-cors" }),
    await fetched(chat, { method: "POST", body: new FormData(), mode: "no-cors" }),
    await element("img", { src: `${server}/v1/models` }),
    await element("script", { src: `${server}/v1/models` }),
    await socket(new EventSource(`${server}/v1/models`)),
    await socket(new WebSocket(`${server.replace("http", "ws")}/v1/chat/completions`)),
  ];
  navigator.sendBeacon(chat, body);
  return found;
}"""
FORM = """(server) => {
  const form = document.createElement("form");
  Object.assign(form, { method: "POST", enctype: "text/plain", action: `${server}/v1/chat/completions` });
  const field = document.createElement("input");
  Object.assign(field, { name: '{"max_tokens": 1, "messages": [{"role": "user", "content": "', value: 'Why?"}]}' });
  form.append(field);
  document.body.append(form);
  form.submit();
}"""


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def elsewhere() -> Iterator[int]:
    """The port of a server that has an empty page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Empty)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "evil.localhost"])
def test_a_page_elsewhere_in_the_users_browser_gets_nothing(host: str, browser: Browser, demo_served: Served) -> None:
    """A page at another port of this machine is as foreign as one of another machine; no answer is even begun."""
    service, server = demo_served.service, demo_served.url
    before = service.resident.figures.answers
    with elsewhere() as port, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://{host}:{port}/")
        assert page.evaluate(ASK, server) == ["refused"] * 9
        with page.expect_navigation():
            page.evaluate(FORM, server)
        assert json.loads(page.inner_text("body"))["error"]["code"] == "foreign_page"
        rebound = page.goto(f"{server.replace('127.0.0.1', 'evil.localhost')}/v1/models")
        assert rebound and rebound.status == 403
        assert rebound.json()["error"]["code"] == "unknown_host"
        own = page.goto(f"{server}/v1/models")
        assert own and own.status == 200
    assert service.resident.figures.answers == before


def test_without_log_a_server_writes_nothing_of_what_it_is_asked(vllava: Zygote, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    words = ("serve", "-m", "demo", "--port", "0", "--token-file", token_file, "--root", folder, "--allow", "https")
    server = vllava.start(*words, folder=folder)
    assert wait_for(lambda: "vllava: serving demo" in server.told)
    url = server.told.split()[-1]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 401
        clip = base64.b64encode(demo.clips()[0].read_bytes()).decode()
        for place, status in (
            (f"data:video/mp4;base64,{clip}", 200),
            (f"data:video/mp4;base64,{clip[:400]}", 400),
            ("file:../secret.mp4", 403),
            ("https://secret:secret@127.0.0.1/secret.mp4?secret=secret", 400),
        ):
            parts = [{"type": "text", "text": "secret?"}, {"type": "video_url", "video_url": {"url": place}}]
            body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}
            assert client.post("/v1/chat/completions", json=body).status_code == status
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        for form in (
            b"secret",
            b"--x\r\nsecret",
            b'--x\r\nContent-Disposition: form-data; name="secret"\r\n\r\na\r\n--x--ab',
        ):
            assert client.post("/v1/files", content=form, headers=kind).status_code == 400
            assert client.post("/v1/frames", content=form, headers=kind).status_code == 400
        for rubbish in (b"secret", b'{"secret": "secret"}', b"\xff", b"[" * 9999):
            assert client.post("/v1/chat/completions", content=rubbish).status_code == 400
            assert client.post("/vllava/answers", content=rubbish).status_code == 400
            assert client.put("/vllava/frames", content=rubbish).status_code == 400
    server.kill(signal.SIGTERM)
    ended = server.wait()
    assert (ended.code, ended.out) == (143, "")
    assert [line.partition(" at ")[0] for line in ended.err.splitlines()] == [
        "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality.",
        "vllava: serving demo (fp32 on cpu)",
    ]
