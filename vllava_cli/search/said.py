"""Finds the queries that are said in the windows of clips, by their subtitles; no model takes part in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.timeline.sidecars import Sidecars
from vllava_cli.media.timeline.spoken import matches, within
from vllava_cli.nouns import DecodeLimits, Subtitles, Window
from vllava_cli.search.query import ARTICLES


class Said:
    """Reads the subtitles of one clip after another: a file beside it, else a track of text in it."""

    def __init__(self, queries: Sequence[str], limits: DecodeLimits, notice: Callable[[str], object]) -> None:
        self._words, self._notice = {query: _without_articles(query) for query in queries}, notice
        self._decoder, self._sidecars = DecoderClient(limits), Sidecars()
        self._clip: tuple[str, Subtitles] | None = None

    def queries_in(self, path: str, window: Window | None) -> frozenset[str]:
        """Returns the queries whose words are said in a window; an image, which has no window, says nothing."""
        if window is None:
            return frozenset()
        lines = within(self._subtitles(path).lines, window.start_s, window.end_s)
        return frozenset(query for query, words in self._words.items() if matches(words, lines))

    def close(self) -> None:
        self._decoder.close()

    def _subtitles(self, path: str) -> Subtitles:
        if self._clip is None or self._clip[0] != path:
            beside = self._sidecars.beside(path)
            found = self._decoder.subtitles(Path(path), Path(beside) if beside else None)
            for fault in found.faults:
                self._notice(fault)
            self._clip = path, found
        return self._clip[1]


def _without_articles(query: str) -> str:
    """Leaves out articles, which a speaker may leave out or change: "a red circle" → "red circle"; "The" stays."""
    return " ".join(word for word in query.split() if word.lower() not in ARTICLES) or query
