"""Describes the files that `vllava find` writes besides its lines, and the contract of those that take its hits.

Imports little, as the command line reads it for every command.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vllava_cli.nouns import Window


@dataclass(frozen=True, kw_only=True)
class Extracts:
    """The files that hits are to be written to."""

    folder: Path | None = None
    """The folder for parts that are cut out of the clips; None for none."""
    sheet: Path | None = None
    """The picture of the hits; None for none."""
    is_exact: bool = False
    """True if a part begins and ends where its hits do, so that it is coded again."""
    pad_s: float = 0.0
    """The time before and after hits that belongs to their part, too."""
    is_overwriting: bool = False

    @property
    def is_wanted(self) -> bool:
        return self.folder is not None or self.sheet is not None


class Seen(Protocol):
    """A window, or an image, that was looked at, as far as an extract needs it."""

    @property
    def path(self) -> str: ...
    @property
    def window(self) -> Window | None: ...
    @property
    def frame_times_s(self) -> tuple[float, ...] | None: ...
    @property
    def score(self) -> float: ...
    @property
    def query(self) -> str: ...


class HitTaker(Protocol):
    """Takes what was looked at, in the order of files and time, and writes files of the hits among it."""

    has_trouble: bool
    """True once something couldn't be written; it was told."""

    def look(self, seen: Seen, *, is_hit: bool) -> None:
        """Takes the next window or image. Errors: OutputError."""

    def finish(self) -> None:
        """Writes what isn't written yet, and says what was written. Errors: those of `look`."""

    def close(self) -> None:
        """Ends the processes that it uses."""
