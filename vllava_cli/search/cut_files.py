"""Cuts hits out of their clips: a file for each, and one for hits that follow each other.

A file appears under its name once it is whole. The same search makes the same names, and leaves files that are there.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.commands.sheets import make_folder, name_of
from vllava_cli.errors import LockedError, MediaError, UsageError, quoted
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.timeline.parts import ENDINGS, Cut, Cutting, form_for
from vllava_cli.nouns import Clip, DecodeLimits, counted
from vllava_cli.screen import Screen
from vllava_cli.search.extracts import Extracts, Seen
from vllava_cli.storage.files import Part, as_output_error, is_locked
from vllava_cli.times import span

_LEFTOVER = re.compile(r"\..+-\d\d+\.\d\d\.\d\d(\.\d+)?-\d\d+\.\d\d\.\d\d(\.\d+)?\.(mp4|mov|mkv|webm)\.part")

_TOUCHING_S = 1e-6


@dataclass(kw_only=True)
class PendingPart:
    """Hits of a clip that follow each other, with the time around them; more may follow."""

    path: str
    start_s: float
    end_s: float


class CutFiles:
    """Writes each part as soon as the next window shows that it is complete."""

    def __init__(self, extracts: Extracts, paths: Iterable[str], screen: Screen, limits: DecodeLimits) -> None:
        """`paths` are all clips of the search, in order. Errors: OutputError if the folder can't be made."""
        self.folder = extracts.folder or Path()
        self.has_trouble = False
        self._extracts, self._screen = extracts, screen
        self._stems = stems_of(paths)
        self._pending: PendingPart | None = None
        self._headers: tuple[str, Clip] | None = None
        self._counts: Counter[str] = Counter()
        self._told: set[str] = set()
        self._client = DecoderClient(limits)
        make_folder(self.folder)
        remove_leftovers(self.folder)

    def look(self, seen: Seen, *, is_hit: bool) -> None:
        """Takes the next window. Errors: OutputError."""
        window, pad_s = seen.window, self._extracts.pad_s
        start_s = max(0.0, window.start_s - pad_s) if window else 0.0
        if (pending := self._pending) and self._is_complete(pending, seen, start_s, is_hit=is_hit):
            self._write(pending)
            self._pending = pending = None
        if not is_hit:
            return
        if window is None:
            self._counts["pictures"] += 1
        elif pending:
            pending.end_s = max(pending.end_s, window.end_s + pad_s)
        else:
            self._pending = PendingPart(path=seen.path, start_s=start_s, end_s=window.end_s + pad_s)

    def _is_complete(self, pending: PendingPart, seen: Seen, start_s: float, *, is_hit: bool) -> bool:
        """Returns True if neither this window nor a later one belongs to the part; later ones begin after this one."""
        most_s = pending.end_s + (_TOUCHING_S if is_hit else -_TOUCHING_S)
        return seen.window is None or seen.path != pending.path or start_s > most_s

    def finish(self) -> None:
        """Writes the last part, and says how many were written and how many were left as they are."""
        if self._pending:
            self._write(self._pending)
            self._pending = None
        counts, folder = self._counts, quoted(self.folder)
        if counts["written"]:
            self._screen.notice(f"{counted(counts['written'], 'part')} written to {folder}.")
        if counts["left"]:
            left = counted(counts["left"], "part")
            self._screen.notice(f"{left} left as before in {folder}. Give --overwrite to cut again.")
        if counts["pictures"]:
            self._screen.notice(f"{counted(counts['pictures'], 'hit')} in pictures, of which nothing is cut out.")

    def close(self) -> None:
        self._client.close()

    def _write(self, pending: PendingPart) -> None:
        path = Path(pending.path)
        try:
            clip = self._header(pending.path)
            end_s = min(pending.end_s, max(clip.duration_s or pending.end_s, pending.end_s - self._extracts.pad_s))
            form = form_for(clip)
            target = self.folder / part_name(self._stems[pending.path], pending.start_s, end_s, ENDINGS[form])
            if os.path.lexists(target) and not self._extracts.is_overwriting:
                self._counts["left"] += 1
                return
            cutting = Cutting(start_s=pending.start_s, end_s=end_s, form=form, is_exact=self._extracts.is_exact)
            with self._screen.waiting(f"Cutting {target.name}"), Part(target) as part:
                found = self._filled(part, target, path, cutting)
        except (MediaError, UsageError, LockedError) as exc:
            self.has_trouble = True
            self._tell(str(exc), is_error=True)
            return
        self._counts["written"] += 1
        self._screen.detail(f"{quoted(target)}: {found.start_s:.3f} s to {found.end_s:.3f} s of {quoted(path)}.")
        for note in found.notes:
            self._tell(note)

    def _filled(self, part: Part, target: Path, path: Path, cutting: Cutting) -> Cut:
        with as_output_error(target), part.path.open("r+b") as file:
            return self._client.cut(path, cutting, file)

    def _header(self, path: str) -> Clip:
        if self._headers is None or self._headers[0] != path:
            self._headers = path, self._client.header(Path(path))
        return self._headers[1]

    def _tell(self, sentence: str, *, is_error: bool = False) -> None:
        """Says a sentence once, though it may hold for many parts of a clip."""
        if sentence not in self._told:
            self._told.add(sentence)
            (self._screen.error if is_error else self._screen.notice)(sentence)


def stems_of(paths: Iterable[str]) -> dict[str, str]:
    """Names the parts of each clip; clips of one name are numbered in their order.

    ["a/x.mp4", "b/X.mkv", "c/y.mp4"] → x, X-2, y; names that differ in case only are the same on some disks.
    """
    stems, taken = dict[str, str](), set[str]()
    for path in dict.fromkeys(paths):
        plain, number = name_of(Path(path)), 1
        stem = plain
        while stem.casefold() in taken:
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem.casefold())
        stems[path] = stem
    return stems


def part_name(stem: str, start_s: float, end_s: float, ending: str) -> str:
    """Names a part: ("talk", 70, 80.5, ".mp4") → "talk-00.01.10-00.01.20.500.mp4"."""
    start, end = span(start_s, end_s).replace(":", ".").split("-")
    return f"{stem}-{start}-{end}{ending}"


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed run began to write, unless another run is writing it now."""
    for entry in folder.iterdir():
        if _LEFTOVER.fullmatch(entry.name) and not is_locked(entry):
            entry.unlink(missing_ok=True)
