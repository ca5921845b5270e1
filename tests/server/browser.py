"""A headless Chromium for tests, and a page in it that can't reach anything but the server that it came from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, HttpCredentials, Page, Route, sync_playwright

QUIET = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts the system's Chromium; skips the test where there is none."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium is installed here")
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*QUIET, *["--no-sandbox"] * is_root])
        yield browser
        browser.close()


@contextmanager
def page_at(browser: Browser, url: str, *, faults: tuple[str, ...] = (), token: str = "") -> Iterator[Page]:
    """Opens a page; no request may leave for elsewhere, and only the console messages that have `faults` may come.

    A browser that is asked for a password is given `token`.
    """
    login: HttpCredentials | None = {"username": "", "password": token} if token else None
    context = browser.new_context(viewport={"width": 800, "height": 900}, http_credentials=login)
    page = context.new_page()
    outside: list[str] = []
    said: list[str] = []

    def watch(route: Route) -> None:
        if route.request.url.startswith((f"{url}/", "data:")):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(fault in message.text for fault in faults):
            said.append(message.text)

    page.route("**/*", watch)
    page.on("console", listen)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{url}/")
    try:
        yield page
    finally:
        context.close()
    assert (outside, said) == ([], [])


@contextmanager
def file_page(browser: Browser, file: Path, **settings: Any) -> Iterator[Page]:
    """Opens a file as a page that may load nothing else, and say nothing on the console."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | settings))
    page = context.new_page()
    loaded: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    try:
        yield page
    finally:
        context.close()
    assert ([url for url in loaded if not url.startswith("data:")], said) == ([file.as_uri()], [])
