"""Draws the hits of a search in one picture: for each a row of the frames that the model saw, with its time and score.

More hits than fit on a page go to further files: FILE-2.png, FILE-3.png, …
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.commands.sheets import check_free, form_of, title_of, write
from vllava_cli.errors import MediaError, UsageError, quoted
from vllava_cli.nouns import Framing, VideoRecipe, counted
from vllava_cli.screen import Screen
from vllava_cli.search.extracts import Extracts, Seen
from vllava_cli.times import span

if TYPE_CHECKING:
    from vllava_cli.media.contact_sheet import Strip
    from vllava_cli.media.decoder.client import DecoderClient

PER_PAGE = 12
_REMEDY = "Give --overwrite to replace it, or name another file."
_LATER_S = 0.0001
"""Times that were kept are rounded; the frame that is shown is looked for this much later."""


class HitSheet:
    """Collects hits, and draws them once the search is over."""

    def __init__(
        self, extracts: Extracts, queries: Sequence[str], screen: Screen, framing: Framing, recipe: VideoRecipe
    ) -> None:
        """Checks the file's name at once. Errors: UsageError for an ending; OutputError if the file is there."""
        self.has_trouble = False
        self._file, self._is_overwriting = extracts.sheet or Path(), extracts.is_overwriting
        self._queries, self._screen, self._recipe = queries, screen, recipe
        self._framing = replace(framing, start_s=None, end_s=None, at_s=())
        self._hits: list[Seen] = []
        form_of(self._file)
        if not self._is_overwriting:
            check_free(self._file, _REMEDY)

    def look(self, seen: Seen, *, is_hit: bool) -> None:
        if is_hit:
            self._hits.append(seen)

    def finish(self) -> None:
        """Reads the frames of the hits again and writes the pages. Errors: OutputError."""
        from vllava_cli.media.contact_sheet import strips_picture
        from vllava_cli.media.decoder.client import DecoderClient

        if not self._hits:
            self._screen.notice(f"There is no hit to draw, so {quoted(self._file)} isn't written.")
            return
        title = ", ".join(self._queries)
        with DecoderClient() as client, self._screen.waiting(f"Drawing {self._file.name}"):
            pages = [self._hits[first : first + PER_PAGE] for first in range(0, len(self._hits), PER_PAGE)]
            for number, hits in enumerate(pages, 1):
                facts = counted(len(self._hits), "hit") + (f", page {number} of {len(pages)}" if pages[1:] else "")
                if strips := list(self._strips(client, hits)):
                    data = strips_picture(title, facts, strips, form_of(self._file))
                    write(page_of(self._file, number), data, is_overwriting=self._is_overwriting)

    def close(self) -> None:
        """Does nothing: its process ends with `finish`."""

    def _strips(self, client: DecoderClient, hits: Sequence[Seen]) -> Iterator[Strip]:
        from vllava_cli.media.contact_sheet import Strip, clock

        for hit in hits:
            at_s = tuple(time_s + _LATER_S for time_s in dict.fromkeys(hit.frame_times_s or ()))
            try:
                framing = replace(self._framing, at_s=at_s, start_s=None, end_s=None)
                if hit.window and not at_s:  # found in what is said
                    framing = hit.window.framing(self._framing)
                frames = client.sample(Path(hit.path), framing, tiles=self._recipe)
            except (MediaError, UsageError) as exc:
                self.has_trouble = True
                self._screen.error(str(exc))
                continue
            labels = tuple(clock(time_s) if hit.window else "" for time_s in frames.times_s)
            yield Strip(text=self._text(hit), tiles=frames.pixels, labels=labels)

    def _text(self, hit: Seen) -> str:
        """Writes the line above a hit's frames: "a.mp4  00:01:10-00:01:20  0.93"."""
        times = f"  {span(hit.window.start_s, hit.window.end_s)}" if hit.window else ""
        several = f"  {hit.query}" if len(self._queries) > 1 else ""
        return f"{title_of(Path(hit.path))}{times}  {hit.score:.2f}{several}"


def page_of(file: Path, number: int) -> Path:
    """Names a page: (hits.png, 1) → hits.png, (hits.png, 2) → hits-2.png."""
    return file if number == 1 else file.with_name(f"{file.stem}-{number}{file.suffix}")
