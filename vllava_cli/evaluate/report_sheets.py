"""The contact sheets of a report: made side by side in bounded processes, and kept in a folder until the page is whole.

A report that was interrupted goes on: a sheet that is in the folder already isn't made again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli import __version__
from vllava_cli.batch.rows import JobError
from vllava_cli.commands.sheets import make_folder
from vllava_cli.errors import OutputError, VllavaError, quoted
from vllava_cli.evaluate.report_sections import Shot
from vllava_cli.media.remote.policy import scheme_of
from vllava_cli.nouns import DEFAULT_MODEL, STDIN, DecodeLimits, VideoRecipe
from vllava_cli.screen import Screen
from vllava_cli.storage.files import as_output_error

if TYPE_CHECKING:
    from vllava_cli.media.decoder.pool import Pool

PAGE_BYTES = 24_000_000
"""All sheets of a page take about so much, before base64 makes them larger by a third."""
LEAST_BYTES, MOST_BYTES = 6_000, 48_000
GONE = "The clip isn't here any more."
_MOST_READS = 64
_NAME = re.compile(r"[0-9a-f]{64}\.webp")
_BEGINNING = b"RIFF"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A sheet to be made: the file in which it is kept, and the clip that it shows."""

    shot: Shot
    file: Path


@dataclass(kw_only=True)
class SheetFolder:
    """The folder beside a report that holds its sheets as long as the page isn't whole."""

    folder: Path
    most_bytes: int
    notes: dict[Shot, str] = field(default_factory=dict)
    """Why a clip has no sheet."""
    recipes: dict[str, VideoRecipe] = field(default_factory=dict)
    """The recipe of each model, by its name."""
    states: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    """The size and the time of change of each file, by its path."""

    @classmethod
    def beside(cls, output: Path, shots: int) -> SheetFolder:
        """Names the folder beside a page: report.html → report.html.sheets; the more shots, the smaller the sheets."""
        most_bytes = min(MOST_BYTES, max(LEAST_BYTES, PAGE_BYTES // max(1, shots)))
        return cls(folder=output.with_name(f"{output.name}.sheets"), most_bytes=most_bytes)

    def make(self, shots: Iterable[Shot], screen: Screen, *, decoders: int | None, limits: DecodeLimits) -> None:
        """Makes the sheets that aren't in the folder yet. Errors: OutputError."""
        if self.folder.is_symlink():
            raise OutputError(f"{quoted(self.folder)} is a link. Remove it, or name another file with -o.")
        make_folder(self.folder)
        wanted = [Wanted(shot=shot, file=self.file(shot)) for shot in shots if self._is_readable(shot)]
        missing = [each for each in wanted if not _is_whole(each.file)]
        if not missing:
            return
        from vllava_cli.hardware import cpu_cores
        from vllava_cli.media.decoder.pool import Pool, default_workers

        workers = min(decoders or default_workers(cpu_cores()), len(missing))
        done = len(wanted) - len(missing)
        with Pool(workers, limits) as pool:
            self._draw(missing, pool, screen, done=done)

    def _draw(self, missing: list[Wanted], pool: Pool, screen: Screen, *, done: int) -> None:
        total, drawn = done + len(missing), 0
        files = ((each, Path(each.shot.path), each.shot.framing, self._recipe(each.shot)) for each in missing)
        ahead = pool.sheets(list(files), self.most_bytes)
        with screen.progress(lambda: [f"Drawing frames: {done + drawn:,}/{total:,} clips"], is_shared=False):
            while reads := ahead.take(_MOST_READS, is_waiting=True):
                for read in reads:
                    drawn += 1
                    if read.found:
                        _put(read.key.file, read.found)
                    elif read.fault:
                        self.notes[read.key.shot] = JobError.of(read.fault, Path(read.key.shot.path)).message

    def read(self, shot: Shot) -> bytes | None:
        """Returns a sheet as a WebP file; None if there is none, and then there is a note."""
        if shot in self.notes:
            return None
        try:
            return self.file(shot).read_bytes()
        except OSError as exc:
            self.notes[shot] = f"The sheet is gone: {exc.strerror or exc}."
            return None

    def file(self, shot: Shot) -> Path:
        """Names the file of a sheet by all that it depends on, so that a clip that has changed gets another one."""
        facts = (__version__, os.path.realpath(shot.path), self.state(shot), shot.framing, self._recipe(shot))
        return (
            self.folder / f"{hashlib.sha256(repr((facts, self.most_bytes)).encode(errors='replace')).hexdigest()}.webp"
        )

    def state(self, shot: Shot) -> tuple[int, int] | None:
        """Returns the size and the time of change of the clip's file or folder; None if it is missing."""
        if shot.path not in self.states:
            self.states[shot.path] = None
            with suppress(OSError, ValueError):
                facts = Path(shot.path).stat()
                self.states[shot.path] = facts.st_size, facts.st_mtime_ns
        return self.states[shot.path]

    def has_changed(self, shot: Shot) -> bool:
        """True if the file isn't the one that the row is about, by its size and time of change."""
        return shot.state is not None and shot.state != self.state(shot)

    def remove(self) -> None:
        """Removes the sheets, and the folder if nothing else is in it."""
        with suppress(OSError):
            for file in self.folder.iterdir():
                if _NAME.fullmatch(file.name.removesuffix(".part")):
                    file.unlink()
            self.folder.rmdir()

    def _is_readable(self, shot: Shot) -> bool:
        """Returns False, and notes why, for a clip that no file has."""
        if "://" in shot.path and scheme_of(shot.path):
            self.notes[shot] = "The clip is at a URL; a report fetches nothing."
        elif shot.path in ("", STDIN):
            self.notes[shot] = "The clip came from stdin and isn't kept."
        elif self.state(shot) is None:
            self.notes[shot] = GONE
        return shot not in self.notes

    def _recipe(self, shot: Shot) -> VideoRecipe:
        if shot.model not in self.recipes:
            self.recipes[shot.model] = recipe_here(shot.model)
        return self.recipes[shot.model]


def recipe_here(model: str) -> VideoRecipe:
    """Returns the recipe of a model whose files are on this disk, else that of the default model; fetches nothing."""
    from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT

    if model != DEFAULT_MODEL:
        from vllava_cli.engine.hub import find_here
        from vllava_cli.media.preprocess import read_video_recipe

        with suppress(VllavaError, OSError, ValueError):
            if source := find_here(model):
                return read_video_recipe(source.folder)
    return DEFAULT_CHECKPOINT.video_recipe


def _is_whole(file: Path) -> bool:
    """True if a sheet was written to its end; after a power cut a file may be empty."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(_BEGINNING)) == _BEGINNING
    except OSError:
        return False


def _put(file: Path, picture: bytes) -> None:
    part = file.with_name(f"{file.name}.part")
    with as_output_error(file):
        part.write_bytes(picture)
        part.replace(file)
