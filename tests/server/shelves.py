"""Services without a port, for tests of what a request's clips go through; they share the demo's engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.server.serving import Served
from vllava_cli.nouns import DEMO_MODEL, Frames, Framing, Wishes
from vllava_cli.server.clips.clip_requests import ClipWanted, read_clips
from vllava_cli.server.clips.media_shelf import MediaShelf
from vllava_cli.server.clips.private_folder import PrivateFolder
from vllava_cli.server.serve_settings import ServeSettings
from vllava_cli.server.service import Service


@contextmanager
def service_of(served: Served, within: Path, **settings: object) -> Iterator[Service]:
    """Makes a service with settings of its own; what requests bring is kept in a folder in WITHIN."""
    service = Service(
        settings=ServeSettings(wishes=Wishes(model=DEMO_MODEL), **settings),  # type: ignore[arg-type]
        resident=served.service.resident,
        shelf=MediaShelf(decoders=2),
        state=served.service.state,
        folder=PrivateFolder(within / "clips"),
    )
    try:
        yield service
    finally:
        service.close()


def read(service: Service, *urls: str, framing: Framing | None = None) -> tuple[Frames, ...]:
    """Reads clips as a route does."""
    wanted = [ClipWanted(url=url, framing=framing or Framing()) for url in urls]
    return asyncio.run(read_clips(service, wanted))
