"""`python -m benchmarks.serve_baseline`: transformers' generate behind the same HTTP, to compare `vllava serve` with.

It answers /v1/chat/completions about a video in a data: URI, as the documentation's snippet does, one request after the
other. Clips are decoded as vllava decodes them, and meanwhile: only the model waits for its turn.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.snippet_loop import Loaded, loaded
from vllava_cli import demo
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.select import spread
from vllava_cli.nouns import Framing

MAX_NEW_TOKENS = 512


@dataclass(kw_only=True)
class Baseline:
    """A model that answers one request at a time."""

    model: Loaded
    decoder: DecoderClient
    folder: Path
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    received: int = 0

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        video, text = body["messages"][0]["content"]
        self.received += 1
        path = self.folder / f"{self.received}.mp4"
        path.write_bytes(base64.b64decode(video["video_url"]["url"].partition(",")[2]))
        frames = await asyncio.to_thread(self.decoder.sample, path, Framing())
        path.unlink()
        async with self.turn:
            answer = await asyncio.to_thread(self.model.answer_about, spread(frames, "crop"), text["text"])
        return JSONResponse({"choices": [{"message": {"role": "assistant", "content": answer}}]})


def main() -> None:
    with (
        TemporaryDirectory() as folder,
        DecoderClient() as decoder,
        closing(socket.socket(proto=socket.IPPROTO_TCP)) as port,
    ):
        baseline = Baseline(model=loaded(demo.CHECKPOINT, MAX_NEW_TOKENS), decoder=decoder, folder=Path(folder))
        app = Starlette(routes=[Route("/v1/chat/completions", baseline.answer, methods=["POST"])])
        port.bind(("127.0.0.1", 0))
        port.listen(128)
        sys.stderr.write(f"http://127.0.0.1:{port.getsockname()[1]}\n")
        sys.stderr.flush()
        asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="error")).serve(sockets=[port]))


if __name__ == "__main__":
    main()
