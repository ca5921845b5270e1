"""The page in a headless Chromium: what it shows, what it sends, and that it reaches nothing but its server."""

from __future__ import annotations

import asyncio
import io
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.engine.engines import engine_of
from tests.server.browser import chromium, page_at
from tests.server.fake_protocol import PIECES, PROBABILITIES, FakeProtocol
from tests.server.serving import Served, served
from vllava_cli import demo
from vllava_cli.choices import shares
from vllava_cli.nouns import DEMO_MODEL, Wishes
from vllava_cli.server.page import PAGE, routes
from vllava_cli.server.serve_settings import ServeSettings

CLIP: FilePayload = {"name": "<img src=x onerror=alert(1)>.mp4", "mimeType": "video/mp4", "buffer": b"clip"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@contextmanager
def faked(demo_served: Served, fake: FakeProtocol) -> Iterator[str]:
    """Serves the page with the fake routes; yields the URL."""
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    config = uvicorn.Config(fake.app(routes(demo_served.service)), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[port])), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def fake() -> FakeProtocol:
    return FakeProtocol()


@pytest.fixture
def url(demo_served: Served, fake: FakeProtocol) -> Iterator[str]:
    with faked(demo_served, fake) as found:
        yield found


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with page_at(browser, url, faults=("status of 400", "status of 401")) as found:
        yield found


def ask(page: Page, question: str, choices: str = "") -> None:
    page.get_by_label("Choices").fill(choices)
    page.get_by_label("Question").fill(question)
    page.keyboard.press("Enter")


def drop(page: Page, clip: FilePayload) -> None:
    transfer = page.evaluate_handle(
        """name => { const files = new DataTransfer(); files.items.add(new File(["clip"], name)); return files; }""",
        clip["name"],
    )
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})


def video(text: str) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "video_url", "video_url": {"url": "file-1"}}, {"type": "text", "text": text}],
    }


def test_a_dropped_clip_shows_the_frames_and_times_that_the_server_tells(page: Page, fake: FakeProtocol) -> None:
    drop(page, CLIP)
    captions = ["0:00.00", "0:00.50", "0:01.00", "0:01.50", "0:02.00", "1:00.00", "1:01.50", "1:02:03.25"]
    expect(page.locator("figcaption")).to_have_text(captions)
    names = [f"Frame {place} of 8 at {time}" for place, time in enumerate(captions, 1)]
    assert [image.get_attribute("alt") for image in page.locator("figure img").all()] == names
    assert page.evaluate("[...document.images].every(image => image.naturalWidth === 8)")
    expect(page.get_by_role("status")).to_have_text("What the model sees. Dark.")
    expect(page.locator("#name")).to_have_text(str(CLIP["name"]))
    expect(page.get_by_label("Question")).to_be_focused()
    assert (fake.names, fake.bodies) == ([CLIP["name"]], [{"clip": "file-1"}])


def test_answers_stream_as_text_and_the_conversation_goes_on(page: Page, fake: FakeProtocol) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "file"
    page.set_input_files("#file", CLIP)
    expect(page.locator("figure")).to_have_count(8)
    whole = "".join(PIECES)
    ask(page, "What <b>moves</b>?")
    expect(page.locator(".answer")).to_have_text([whole], use_inner_text=True)
    ask(page, "wait")
    expect(page.locator(".answer")).to_have_text([whole, PIECES[0]])
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    assert fake.hung_up.wait(10), "the server kept on answering"
    ask(page, "And then?")
    expect(page.locator(".answer")).to_have_text([whole, PIECES[0], whole])
    spoken = [
        video("What <b>moves</b>?"), {"role": "assistant", "content": whole},
        {"role": "user", "content": [{"type": "text", "text": "wait"}]}, {"role": "assistant", "content": PIECES[0]},
        {"role": "user", "content": [{"type": "text", "text": "And then?"}]},
    ]  # fmt: skip
    assert fake.bodies[1:] == [{"model": "demo", "stream": True, "messages": spoken[:end]} for end in (1, 3, 5)]
    page.get_by_role("button", name="New conversation").click()
    ask(page, "Again?")
    expect(page.locator(".answer")).to_have_text([whole])
    assert fake.bodies[-1]["messages"] == [video("Again?")]


def test_a_new_clip_ends_the_answer_and_the_conversation_about_the_one_before(page: Page, fake: FakeProtocol) -> None:
    drop(page, CLIP)
    expect(page.locator("figure")).to_have_count(8)
    ask(page, "wait")
    expect(page.locator(".answer")).to_have_text([PIECES[0]])
    drop(page, {**CLIP, "name": "second.mp4"})
    assert fake.hung_up.wait(10), "the server kept on answering"
    expect(page.locator("#name")).to_have_text("second.mp4")
    expect(page.locator("li")).to_have_count(0)
    expect(page.locator("figure")).to_have_count(8)
    ask(page, "What?")
    expect(page.locator(".answer")).to_have_text(["".join(PIECES)])
    assert [len(body["messages"]) for body in fake.bodies if "messages" in body] == [1, 1]
    assert fake.bodies[-1]["messages"][0]["content"][0]["video_url"] == {"url": "file-2"}
    assert fake.deleted == ["file-1"]


def test_choices_are_bars_with_the_likeliest_first(page: Page, fake: FakeProtocol) -> None:
    """Their shares are those that the command line tells."""
    told = shares(tuple(PROBABILITIES), tuple(PROBABILITIES.values()))
    assert told == "no 12%, left <1%, yes 87%, none 0%, sure >99%"
    drop(page, CLIP)
    expect(page.locator("figure")).to_have_count(8)
    ask(page, "Is it red?", "yes, no")
    expect(page.locator(".bar")).to_have_text(["sure>99%", "yes87%", "no12%", "left<1%", "none0%"])
    bars = page.get_by_role("progressbar").all()
    assert [(bar.get_attribute("aria-label"), bar.get_attribute("value")) for bar in bars] == [
        ("sure", "0.9999"),
        ("yes", "0.8749"),
        ("no", "0.125"),
        ("left", "0.0001"),
        ("none", "0"),
    ]
    assert fake.bodies[1] == {"model": "demo", "messages": [video("Is it red?")], "choices": ["yes", "no"]}


def test_a_refusal_is_shown_as_the_server_words_it_and_the_question_stays(page: Page) -> None:
    drop(page, CLIP)
    expect(page.locator("figure")).to_have_count(8)
    ask(page, "nonsense")
    expect(page.get_by_role("alert")).to_have_text("<i>No</i> sense in it.")
    expect(page.get_by_label("Question")).to_have_value("nonsense")
    ask(page, "sense")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("li")).to_have_count(1)


def test_a_token_is_asked_for_once_and_what_was_refused_goes_on(page: Page, fake: FakeProtocol) -> None:
    expect(page.locator("#model")).to_have_text("demo")
    expect(page.get_by_label("Token")).to_be_hidden()
    drop(page, CLIP)
    expect(page.locator("figure")).to_have_count(8)
    fake.token = "secret"
    ask(page, "What?")
    expect(page.get_by_role("alert")).to_have_text("This server wants its token.")
    expect(page.get_by_label("Token")).to_be_focused()
    page.get_by_label("Token").fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_text(["".join(PIECES)])
    expect(page.get_by_label("Token")).to_be_hidden()
    expect(page.get_by_label("Question")).to_have_value("")
    page.reload()
    expect(page.locator("#model")).to_have_text("demo")
    assert page.evaluate("[sessionStorage.token, localStorage.length, document.cookie]") == ["secret", 0, ""]


def test_it_is_light_or_dark_as_the_system_is_and_fits_a_narrow_screen(page: Page) -> None:
    drop(page, CLIP)
    expect(page.locator("figure")).to_have_count(8)
    page.set_viewport_size({"width": 320, "height": 640})
    grounds = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        shot = Image.open(io.BytesIO(page.screenshot())).convert("L")
        grounds[scheme] = shot.getpixel((2, 2))
    assert grounds["light"] > 200 and grounds["dark"] < 60
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_the_page_may_neither_reach_another_place_nor_run_another_script(browser: Browser, url: str) -> None:
    with page_at(browser, url, faults=("Content Security Policy", "Trusted", "TrustedHTML")) as page:
        reached = page.evaluate(
            """url => {
              const element = (tag, more) => Object.assign(document.createElement(tag), more);
              const refused = (begin) => new Promise((done) => {
                addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective), { once: true });
                try { begin(); } catch {}
              });
              return [
                () => fetch("https://example.org/").catch(() => {}),
                () => element("img", { src: "https://example.org/a.png" }),
                () => document.body.append(element("iframe", { src: url })),
                () => document.body.append(element("style", { textContent: "main { display: none }" })),
                () => document.body.append(element("script", { src: `${url}/health` })),
                () => { document.body.innerHTML = "<b>"; },
              ].reduce(async (before, begin) => [...(await before), await refused(begin)], []);
            }""",
            url,
        )
    trusted = "require-trusted-types-for"
    assert reached == ["connect-src", "img-src", "frame-src", "style-src-elem", trusted, trusted]


def test_it_is_one_short_file_in_which_nothing_is_taken_for_markup(demo_served: Served) -> None:
    response = httpx.get(f"{demo_served.url}/")
    assert (response.status_code, response.text) == (200, PAGE.read_text())
    assert len(PAGE.read_text().splitlines()) <= 300
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|https?://|\bon\w+=|\bstyle=", response.text)
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


def test_the_page_and_the_server_understand_each_other(browser: Browser, demo_served: Served) -> None:
    clip, question, answer = demo.QUESTIONS[0]
    with page_at(browser, demo_served.url, faults=("status of 400",)) as page:
        page.set_input_files("#file", demo.CLIPS / clip)
        expect(page.locator("figcaption")).to_have_text(
            ["0:00.00", "0:00.29", "0:00.63", "0:00.92", "0:01.25", "0:01.54", "0:01.88", "0:02.17"]
        )
        ask(page, question)
        expect(page.locator(".answer")).to_have_text([answer])
        ask(page, "Which way does it move?", "right,left")
        expect(page.locator(".bar span")).to_have_text(["left", "right"])
        ask(page, "Is it?", "yes")
        expect(page.get_by_role("alert")).to_contain_text("'yes' is only one choice")
        page.get_by_label("Choices").fill("")
        page.set_input_files("#file", demo.CLIPS / "yellow-star.png")
        expect(page.locator("figure")).to_have_text([""])
        ask(page, "What shape is it?")
        expect(page.locator(".answer")).to_have_text(["Star."])
        page.set_input_files("#file", PAGE)
        expect(page.get_by_role("alert")).to_contain_text("page.html")


def test_behind_a_token_the_browser_asks_for_it_and_everything_works(browser: Browser, tmp_path: Path) -> None:
    """What is refused is told in a sentence where the page would be."""
    clip, question, answer = demo.QUESTIONS[0]
    settings = ServeSettings(wishes=Wishes(model=DEMO_MODEL), token="0123456789abcdef")
    with served(engine_of(demo.CHECKPOINT), tmp_path, settings) as guarded:
        with page_at(browser, guarded.url, token=settings.token) as page:
            page.set_input_files("#file", demo.CLIPS / clip)
            expect(page.locator("figure")).to_have_count(8)
            ask(page, question)
            expect(page.locator(".answer")).to_have_text([answer])
            ask(page, "Which way does it move?", "right,left")
            expect(page.locator(".bar span")).to_have_text(["left", "right"])
            expect(page.get_by_label("Token")).to_be_hidden()
            expect(page.get_by_role("alert")).to_be_hidden()
        for login in (None, ("", "wrong")):
            refused = httpx.get(guarded.url, headers={"Accept": "text/html"}, auth=login)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Basic realm="vllava"')
            assert refused.json()["error"]["message"].startswith("The token is missing or wrong")
