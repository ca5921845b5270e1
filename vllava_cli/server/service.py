"""Holds the values that all routes of the server share: the resident engine, the clips, and the figures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from vllava_cli.client.place import ServerState
from vllava_cli.server.clips.private_folder import PrivateFolder
from vllava_cli.server.clips.uploads import Uploads
from vllava_cli.server.life.life import Life
from vllava_cli.server.metrics import Metrics
from vllava_cli.server.own.interrupts import Interrupts
from vllava_cli.server.serve_settings import ServeSettings

if TYPE_CHECKING:
    from vllava_cli.engine.resident.resident_engine import ResidentEngine
    from vllava_cli.nouns import Frames
    from vllava_cli.server.clips.clip_requests import ClipWanted
    from vllava_cli.server.clips.media_shelf import MediaShelf

MOST_FETCHES = 8
"""The most URLs that are fetched at once."""


@dataclass(kw_only=True)
class Service:
    """A loaded model with all that its routes need."""

    settings: ServeSettings
    resident: ResidentEngine
    shelf: MediaShelf
    state: ServerState
    metrics: Metrics = field(default_factory=Metrics)
    life: Life = field(default_factory=Life)
    interrupts: Interrupts = field(default_factory=Interrupts)
    say: Callable[[str], object] = str
    """Writes a line on stderr, from any thread: a fault of ours, or an answer that was given."""
    folder: PrivateFolder = field(default_factory=PrivateFolder)
    """Where clips of requests are kept while they are read, and uploads."""
    fetches: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MOST_FETCHES, "fetch"))
    fetching: WeakValueDictionary[ClipWanted, Future[Frames]] = field(default_factory=WeakValueDictionary)
    """The clips that are being fetched: requests that name the same one meanwhile share it."""

    def __post_init__(self) -> None:
        self.folder.sweep()
        self.uploads = Uploads(self.folder, self.settings.most_upload_bytes)
        self.shelf.fit_to(self.resident.tokens.checkpoint)

    def keep(self, least_s: float) -> None:
        """Lets the server stay for so long after the last question, if it would end earlier."""
        idle_s = self.settings.idle_s
        if idle_s is not None and idle_s < least_s:
            self.settings = replace(self.settings, idle_s=least_s)

    def close(self) -> None:
        """Ends the decoding processes, and removes what requests have brought."""
        self.fetches.shutdown(wait=False, cancel_futures=True)
        self.shelf.close()
        self.folder.close()
