"""`SubtitleShelf` keeps the subtitles of the last few clips, so that the windows of a clip read them once."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.media.timeline.spoken import Passage, within
from vllava_cli.nouns import Frames, Subtitles

if TYPE_CHECKING:
    from vllava_cli.media.decoder.client import DecoderClient

MOST_KEPT = 16
"""The clips whose subtitles are kept: twice as many as there are decoding processes at most."""


class SubtitleShelf:
    """Reads the subtitles of clips; threads that want those of one clip wait for the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[Path, Path | None], Future[Subtitles]] = {}

    def heard(self, client: DecoderClient, frames: Frames, path: Path, passage: Passage | None) -> Frames:
        """Returns the frames with the lines of their passage; an image has none, nor has a clip without a passage.

        Whoever reads the subtitles first gets their faults, too. Errors: those of `DecoderClient.subtitles`.
        """
        if passage is None or frames.kind == "image":
            return replace(frames, subtitles=Subtitles()) if passage else frames
        whole, faults = self._whole(client, path, passage.sidecar)
        lines = within(whole.lines, passage.start_s, passage.end_s)
        return replace(frames, subtitles=replace(whole, lines=lines, faults=faults))

    def _whole(self, client: DecoderClient, path: Path, sidecar: Path | None) -> tuple[Subtitles, tuple[str, ...]]:
        key = (path, sidecar)
        with self._lock:
            known, mine = self._known.get(key), Future[Subtitles]()
            if known is None:
                self._known[key] = mine
                for oldest in list(self._known)[:-MOST_KEPT]:
                    del self._known[oldest]
        if known:
            return known.result(), ()
        try:
            mine.set_result(client.subtitles(path, sidecar))
        except BaseException as exc:
            mine.set_exception(exc)
            raise
        return mine.result(), mine.result().faults
