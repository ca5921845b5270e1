"""Clients of a server over plain sockets, good ones and bad ones: a library wouldn't let them misbehave."""

from __future__ import annotations

import asyncio
import base64
import json
import mimetypes
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

PATIENCE_S = 400.0
_BUFFER_BYTES = 2048
"""What a slow reader lets the system keep for it; the rest waits in the server."""

_LETTER = re.compile(rb'"content": ?"[^"]')


class ReplyError(Exception):
    """A reply that isn't one."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The answer in a chat completion, streamed or whole. Errors: ReplyError."""
        if self.status != 200:
            raise ReplyError(f"status {self.status}: {self.body[:200].decode(errors='replace')}")
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return str(json.loads(self.body)["choices"][0]["message"]["content"])
        events = [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]
        if not events or events[-1] != "[DONE]":
            raise ReplyError(f"a stream that ends early: {self.body[-200:].decode(errors='replace')}")
        deltas = [choice["delta"] for event in events[:-1] for choice in json.loads(event)["choices"]]
        return "".join(str(delta.get("content") or "") for delta in deltas)


@dataclass(frozen=True, kw_only=True)
class Known:
    """A question about a clip, and the answer that the model gives to it when nothing else is asked."""

    clip: Path
    question: str
    answer: str
    choices: tuple[str, ...] = ()


def completion(known: Known, url: str, *, is_streaming: bool = False, **more: object) -> dict[str, Any]:
    """Returns the body of a request about the clip at a URL."""
    kind = "image_url" if known.clip.suffix == ".png" else "video_url"
    content = [{"type": kind, kind: {"url": url}}, {"type": "text", "text": known.question}]
    body: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": content}], "stream": is_streaming}
    return body | ({"choices": known.choices} if known.choices else {}) | more


@cache
def data_uri(clip: Path) -> str:
    return uri_of(clip.read_bytes(), clip)


def fresh_uri(clip: Path, random: Random) -> str:
    """Returns the data URI of a file with the same frames that the server hasn't seen: with a box that players skip."""
    box = b"\0\0\0\x18free" + random.randbytes(16) if clip.suffix == ".mp4" else random.randbytes(16)
    return uri_of(clip.read_bytes() + box, clip)


def uri_of(data: bytes, clip: Path) -> str:
    return f"data:{mimetypes.guess_type(clip)[0]};base64,{base64.b64encode(data).decode()}"


def request(path: str, body: bytes, *headers: str, kind: str = "application/json", length: int | None = None) -> bytes:
    head = (
        f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Content-Type: {kind}",
        f"Content-Length: {len(body) if length is None else length}", *headers, "", "",
    )  # fmt: skip
    return "\r\n".join(head).encode() + body


def chat(body: dict[str, Any], *headers: str) -> bytes:
    return request("/v1/chat/completions", json.dumps(body).encode(), *headers)


def upload(clip: Path) -> bytes:
    parts = {
        'name="purpose"': b"user_data",
        f'name="file"; filename="{clip.name}"\r\nContent-Type: {mimetypes.guess_type(clip)[0]}': clip.read_bytes(),
    }
    texts = [b"--part\r\nContent-Disposition: form-data; " + name.encode() + b"\r\n\r\n" + value + b"\r\n"
             for name, value in parts.items()]  # fmt: skip
    return request("/v1/files", b"".join(texts) + b"--part--\r\n", kind="multipart/form-data; boundary=part")


async def exchange(address: tuple[str, int], sent: bytes, *, pause_s: float = 0.0) -> Reply:
    """Sends a request and reads the reply; with a pause, in small bites. Errors: ReplyError, OSError, TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await _connected(address, is_slow=pause_s > 0)
        try:
            writer.write(sent)
            with suppress(ConnectionError):  # a refused body isn't read to its end; the reply has come before that
                await writer.drain()
            return await _reply(reader, pause_s)
        finally:
            writer.transport.abort()


async def first_letter_s(address: tuple[str, int], sent: bytes) -> float:
    """Measures the seconds from asking for a stream to the first letter of its answer. Errors: ReplyError."""
    started_s, data = time.perf_counter(), b""
    reader, writer = await _connected(address)
    try:
        writer.write(sent)
        while not _LETTER.search(data):
            if not (bite := await reader.read(1 << 16)):
                raise ReplyError(f"a stream without an answer: {data[-200:].decode(errors='replace')}")
            data += bite
        found_s = time.perf_counter() - started_s
        while await reader.read(1 << 16):  # the next question shall not find this one at work
            pass
        return found_s
    finally:
        writer.transport.abort()


async def hang_up(address: tuple[str, int], sent: bytes, random: Random) -> None:
    """Sends a request, or half of it, and goes away: at once, after a moment, or at the first byte of the reply."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await _connected(address)
            writer.write(sent[: random.choice((len(sent) // 2, len(sent), len(sent)))])
            when = random.randrange(3)
            if when == 1:
                await asyncio.sleep(random.random())
            elif when == 2:
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 5)
            writer.transport.abort()


def rubbish(known: Known, random: Random) -> bytes:
    """Makes a request that no server can answer."""
    noise = random.randbytes(2000)
    cut = bytearray(known.clip.read_bytes())
    cut[: len(cut) // 2] = noise[: len(cut) // 2].ljust(len(cut) // 2, b"\xff")
    about = data_uri(known.clip)
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: noise,
        lambda: b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * 200_000,
        lambda: request("/v1/chat/completions", b'{"messages": [' * 500),
        lambda: request("/v1/chat/completions", noise),
        lambda: request("/v1/chat/completions", b"{", length=10**12),
        lambda: chat(completion(known, uri_of(noise, known.clip))),
        lambda: chat(completion(known, uri_of(bytes(cut), known.clip))),
        lambda: chat(completion(known, "file-doesnotexist")),
        lambda: chat(completion(known, Path("/etc/hostname").as_uri())),
        lambda: chat(completion(known, "http://127.0.0.1:1/clip.mp4")),
        lambda: chat(completion(known, about), "Origin: https://example.org"),
        lambda: chat(completion(known, about, temperature="hot")),
        lambda: chat(completion(known, about) | {"messages": [{"role": "user", "content": "words " * 20_000}]}),
        lambda: request("/v1/files", noise, kind="multipart/form-data; boundary=part"),
    )
    return random.choice(kinds)()


async def _connected(
    address: tuple[str, int], *, is_slow: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket()
    try:
        if is_slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, address)
        return await asyncio.open_connection(sock=connection, limit=_BUFFER_BYTES if is_slow else 1 << 20)
    except BaseException:
        connection.close()
        raise


async def _reply(reader: asyncio.StreamReader, pause_s: float) -> Reply:
    """Reads to the end of the connection."""
    data = bytearray()
    while bite := await reader.read(1024 if pause_s else 1 << 20):
        data += bite
        await asyncio.sleep(pause_s)
    head, found, body = bytes(data).partition(b"\r\n\r\n")
    if not found:
        raise ReplyError("the connection was closed without a reply")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _joined(body)
    elif len(body) != int(headers.get("content-length", len(body))):
        raise ReplyError("a body that ends early")
    return Reply(status=int(first.split()[1]), headers=headers, body=body)


def _joined(body: bytes) -> bytes:
    """Joins the chunks of a body. Errors: ReplyError if the last is missing."""
    parts: list[bytes] = []
    while True:
        size, found, body = body.partition(b"\r\n")
        if not found:
            raise ReplyError("a body that ends early")
        if not (length := int(size, 16)):
            return b"".join(parts)
        parts.append(body[:length])
        body = body[length + 2 :]
