"""The clips that requests bring: from the URL that a request names to the frames that the model sees."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from vllava_cli.errors import MediaError
from vllava_cli.nouns import Frames, Framing, MediaKind
from vllava_cli.server.service import Service


@dataclass(frozen=True, kw_only=True)
class ClipWanted:
    """A clip that a request names by a URL or by the id of an uploaded file."""

    url: str
    kind: MediaKind | None
    """What the request says that it is; None where it doesn't say."""
    framing: Framing


async def read_clips(service: Service, wanted: Sequence[ClipWanted]) -> tuple[Frames, ...]:
    """Reads the frames of clips, in their order. Errors: MediaError, UsageError."""
    return tuple([await run_in_threadpool(_read, service, each) for each in wanted])


def _read(service: Service, wanted: ClipWanted) -> Frames:
    head, comma, data = wanted.url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise MediaError("This server reads clips from data: URIs alone. Send the clip as one.")
    with tempfile.NamedTemporaryFile() as file:
        file.write(base64.b64decode(data))
        file.flush()
        return service.shelf.frames(Path(file.name), wanted.framing)
