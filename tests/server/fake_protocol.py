"""Stands for the routes that the page asks: it remembers what it was sent, and answers what a test can know."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

PIECES = ("A red ", "circle\n", "<b>moves</b> ", "left 日本.")
PROBABILITIES = {"no": 0.125, "left": 0.0001, "yes": 0.8749, "none": 0.0, "sure": 0.9999}
TIMES = (0.0, 0.5, 1.0, 1.5, 2.0, 59.996, 61.5, 3723.25)


def picture(shade: int) -> str:
    """Returns a data URI of a small grey picture."""
    file = io.BytesIO()
    Image.new("L", (8, 8), shade).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(kw_only=True)
class FakeProtocol:
    """What the server was asked, and the token without which it says nothing."""

    token: str = ""
    names: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)

    def app(self, routes: list[BaseRoute]) -> Starlette:
        routes = [
            *routes,
            Route("/v1/models", self.models),
            Route("/v1/files", self.files, methods=["POST"]),
            Route("/v1/files/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/frames", self.frames, methods=["POST"]),
            Route("/v1/chat/completions", self.answer, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    def refusal(self, request: Request) -> Response | None:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return JSONResponse({"error": {"message": "This server wants its token."}}, 401)
        return None

    async def models(self, request: Request) -> Response:
        return self.refusal(request) or JSONResponse({"data": [{"id": "demo"}]})

    async def files(self, request: Request) -> Response:
        form = await request.form()
        assert form["purpose"] == "user_data"
        self.names.append(str(getattr(form["file"], "filename", "")))
        return self.refusal(request) or JSONResponse({"id": f"file-{len(self.names)}"})

    async def delete(self, request: Request) -> Response:
        self.deleted.append(request.path_params["id"])
        return JSONResponse({"deleted": True})

    async def frames(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        found = {
            "kind": "video",
            "times_s": TIMES,
            "pictures": [*map(picture, range(0, 240, 30))],
            "remarks": ["Dark."],
        }
        return self.refusal(request) or JSONResponse(found)

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if refusal := self.refusal(request):
            return refusal
        if "nonsense" in json.dumps(body["messages"][-1]):
            return JSONResponse({"error": {"message": "<i>No</i> sense in it."}}, 400)
        if "choices" in body:
            found = {"choices": [{"message": {"content": "yes"}}], "vllava": {"probabilities": PROBABILITIES}}
            return JSONResponse(found)
        return StreamingResponse(
            self.stream("wait" in json.dumps(body["messages"][-1])), media_type="text/event-stream"
        )

    async def stream(self, is_waiting: bool) -> AsyncIterator[bytes]:
        """Sends the pieces with both of the line ends that are usual, in two parts that meet inside a letter."""
        chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in PIECES]
        events = [f"data: {json.dumps(chunk, ensure_ascii=False)}" for chunk in chunks]
        text = "\r\n\r\n".join([": begins", *events, "data: [DONE]", ""]).replace("\r\n", "\n", 2).encode()
        middle = text.index("日".encode()) + 1
        try:
            if is_waiting:
                yield text[: text.index(b"circle")]
                await asyncio.sleep(60)
            yield text[:middle]
            await asyncio.sleep(0.1)
            yield text[middle:]
        finally:
            self.hung_up.set()
