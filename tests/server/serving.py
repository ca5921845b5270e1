"""A server of the demo model in this process, for tests: a thread runs uvicorn on a socket and on a port."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vllava_cli import __version__
from vllava_cli.client.place import ServerState
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.resident.resident_engine import ResidentEngine
from vllava_cli.nouns import DEMO_MODEL, Wishes
from vllava_cli.server.clips.media_shelf import MediaShelf
from vllava_cli.server.life.connections import web_server
from vllava_cli.server.serve_settings import ServeSettings
from vllava_cli.server.service import Service


@dataclass(frozen=True, kw_only=True)
class Served:
    service: Service
    url: str
    socket: str


@contextmanager
def served(engine: Engine, folder: Path, settings: ServeSettings | None = None) -> Iterator[Served]:
    """Serves an engine on FOLDER/vllava.sock and on a port of loopback until the end of the block."""
    settings = settings or ServeSettings(wishes=Wishes(model=DEMO_MODEL))
    path = str(folder / "vllava.sock")
    own, port = socket.socket(socket.AF_UNIX), socket.socket(proto=socket.IPPROTO_TCP)  # asyncio reads the protocol
    own.bind(path)
    port.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{port.getsockname()[1]}"
    plan = engine.plan
    state = ServerState(
        pid=0, version=__version__, wishes=settings.wishes, device=plan.device, precision=plan.precision,
        attention=plan.attention, socket=path, url=url,
    )  # fmt: skip
    resident = ResidentEngine(engine=engine, most_rows=settings.most_rows, most_waiting=settings.most_waiting)
    service = Service(
        settings=replace(settings, port=port.getsockname()[1]),
        resident=resident,
        shelf=MediaShelf(limits=settings.limits, decoders=settings.decoders),
        state=state,
    )
    server = web_server(service, grace_s=5)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[own, port])), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Served(service=service, url=url, socket=path)
    finally:
        server.should_exit = True
        thread.join()
        service.close()
        resident.close()
