"""The page at /: one HTML file that loads nothing from elsewhere, for people who have a clip and a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from vllava_cli.server.service import Service

PAGE = Path(__file__).with_name("page.html")


def routes(service: Service) -> list[BaseRoute]:
    """Serves the page. It needs no token, because it holds nothing; the browser asks the user for one."""
    del service
    html = PAGE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": policy(html),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    async def page(_request: Request) -> Response:
        return HTMLResponse(html, headers=headers)

    return [Route("/", page)]


def policy(html: str) -> str:
    """Returns the Content-Security-Policy of a page: its own script and style run, and it reaches its server alone."""
    return (
        f"default-src 'none'; script-src {_digest(html, 'script')}; style-src {_digest(html, 'style')}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _digest(html: str, element: str) -> str:
    """Returns the source expression of an element's text: 'sha256-…'."""
    (text,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
