"""Reads the clips that a request names: data: and file: URLs, http(s):// URLs where they are allowed, and uploads.

Libraries that open media never see a request's content in this process: the decoding processes of the shelf read it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from vllava_cli.errors import (
    DownloadSizeError,
    FetchError,
    ForbiddenError,
    MediaError,
    ServerError,
    TooLargeError,
    VllavaError,
    quoted,
)
from vllava_cli.media.remote.fetch import Fetcher
from vllava_cli.media.remote.policy import Timeouts, scheme_of, without_secrets
from vllava_cli.nouns import Frames, Framing, MediaKind
from vllava_cli.server.clips.data_uris import data_of
from vllava_cli.server.clips.media_shelf import ClipContent, named_error
from vllava_cli.server.clips.root_files import root_file
from vllava_cli.server.clips.uploads import PREFIX

if TYPE_CHECKING:
    from vllava_cli.server.service import Service

TIMEOUTS = Timeouts(connect_s=10, silence_s=30, block_s=60, grace_s=30, least_bytes_per_s=128 << 10)
"""A client waits for the clip meanwhile, and only some are fetched at once."""
_WAITS_S = (1.0,)
ENDING_S = 5.0
"""How long a clip may still be on its way once the server is asked to end."""
_TICK_S = 0.1
_OPTION = re.compile(r"--(start|end|at|pick|fit)\b")
_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True)
class ClipWanted:
    """A clip that a request names, by a URL or by the id of an upload."""

    url: str
    kind: MediaKind | None = None
    """What the request says that it is; its content decides."""
    framing: Framing = field(default_factory=Framing)


async def read_clips(service: Service, wanted: Sequence[ClipWanted]) -> tuple[Frames, ...]:
    """Returns the frames of clips, which are read side by side; the same content gives the same objects.

    Errors: ForbiddenError for what this server doesn't open, TooLargeError, other MediaErrors, UsageError, BusyError,
    OutputError, ServerError; DecoderBugError.
    """
    tasks = [asyncio.ensure_future(_read(service, each)) for each in wanted]
    try:
        return tuple(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _read(service: Service, wanted: ClipWanted) -> Frames:
    url = wanted.url
    try:
        url.encode()
    except UnicodeEncodeError as exc:
        raise MediaError("A URL has letters that no text can have. Write them as codes, like %C3%A9.") from exc
    settings = service.settings
    if url.startswith(PREFIX):
        content, name = service.uploads.content(url)
        return await _shelved(service, content, quoted(name), wanted.framing)
    match url[:5].lower(), scheme_of(url):
        case "data:", _:
            data = await asyncio.to_thread(data_of, url, settings.most_upload_bytes)
            content = ClipContent(key=("sha256", data.sha256), opened=lambda: service.folder.file(data.content))
            return await _shelved(service, content, data.name, wanted.framing)
        case "file:", _:
            content, name = await asyncio.to_thread(root_file, url, settings.root, service.folder)
            return await _shelved(service, content, quoted(name), wanted.framing)
        case _, "http" | "https":
            return await _until_ending(service, _fetching(service, wanted), without_secrets(url))
    forms = "Give a data:, file:, http:// or https:// URL, or the id of an upload"
    raise MediaError(f"{without_secrets(url)[:200]!r} names no clip. {forms}.")


async def _shelved(service: Service, content: ClipContent, name: str, framing: Framing) -> Frames:
    try:
        return await _not_cancelled(service.shelf.begin(content, framing))
    except VllavaError as exc:
        raise _told(exc, name) from exc


async def _not_cancelled(future: Future[_Found]) -> _Found:
    """Waits for a future, which goes on if the request that waits is cancelled."""
    return await asyncio.shield(asyncio.wrap_future(future))


def _fetching(service: Service, wanted: ClipWanted) -> Future[Frames]:
    """Begins to fetch a clip, unless that is being done for another request. Call it in the server's loop."""
    fetching = service.fetching.get(wanted)
    if fetching is None or fetching.done():  # what is at the URL may have changed since
        fetching = service.fetching[wanted] = service.fetches.submit(_fetched, service, wanted)
    return fetching


async def _until_ending(service: Service, fetching: Future[Frames], name: str) -> Frames:
    """Waits for a clip that is fetched; once the server ends, for ENDING_S at most. Errors: those of `read_clips`."""
    waiting, left_s = asyncio.ensure_future(_not_cancelled(fetching)), ENDING_S
    try:
        while left_s > 0 and not waiting.done():
            await asyncio.wait({waiting}, timeout=_TICK_S)
            left_s -= _TICK_S if service.life.is_ending else 0
        if waiting.done():
            return waiting.result()
    except VllavaError as exc:  # other requests may have the same one
        raise type(exc)(*exc.args) from exc
    finally:
        waiting.cancel()
    raise ServerError(f"The server is ending, and {name} hasn't come yet. Ask again later.")


def _fetched(service: Service, wanted: ClipWanted) -> Frames:
    """Fetches a clip, and waits until its frames are read. Errors: those of `read_clips`."""
    url, settings = wanted.url, service.settings
    fetcher = Fetcher(
        allowed=settings.allowed, most_bytes=settings.most_upload_bytes, timeouts=TIMEOUTS, waits_s=_WAITS_S,
        folder=service.folder.path,
    )  # fmt: skip
    try:
        fetcher.check(url)
    except FetchError as exc:
        raise ForbiddenError(str(exc)) from exc
    with _sized(url, settings.most_upload_bytes), fetcher.fetched(url) as clip:
        content = ClipContent(key=("sha256", clip.fingerprint.sha256), opened=lambda: nullcontext(clip.path))
        try:
            return service.shelf.begin(content, wanted.framing).result()
        except VllavaError as exc:
            raise _told(exc, without_secrets(url)) from exc


@contextmanager
def _sized(url: str, most_bytes: int) -> Iterator[None]:
    try:
        yield
    except DownloadSizeError as exc:
        most = f"has more than the {most_bytes:,} bytes that are taken. Name a shorter clip."
        raise TooLargeError(f"{without_secrets(url)} {most}") from exc


def _told(error: VllavaError, name: str) -> VllavaError:
    """Makes an error of a nameless clip name it, and the fields of the request in place of the command's options."""
    return named_error(type(error)(_OPTION.sub(r"\1", str(error))), name)
