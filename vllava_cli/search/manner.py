"""The manner in which `vllava find` tells what it found: which windows are hits, and what is printed of them.

Imports little, as the command line reads it for every command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vllava_cli.errors import UsageError

EVERY_S = 10.0
"""The length of a window where nothing else is asked for."""
Form = Literal["hits", "names", "counts"]
Order = Literal["time", "score"]
HitClass = Literal["hit", "unsure", "none"]
Place = Literal["text", "picture"]
"""Where a query is looked for: in the words of the subtitles, or in what the frames show."""
PLACES: tuple[Place, ...] = ("text", "picture")


@dataclass(frozen=True, kw_only=True)
class Manner:
    """Says which windows are printed, and how. Options that grep has, too, mean the same here."""

    form: Form = "hits"
    is_json: bool = False
    is_null: bool = False
    """Whether names end with NUL: those on stdin, and those of -l."""
    order: Order = "time"
    threshold: float = 0.5
    unsure: tuple[float, float] | None = None
    """The scores from the first on and below the second are neither hits nor none."""
    is_inverted: bool = False
    needs_all: bool = False
    """Whether a window must show what all queries name; else one of them is enough."""
    most_hits: int | None = None
    """The most hits of a file."""
    is_first_only: bool = False
    """Whether the first hit ends the search."""
    is_silent: bool = False
    """Whether nothing is printed, and any hit ends the search."""
    is_mute: bool = False
    """Whether nothing is said about files that can't be read."""
    skips_still: bool = True
    places: tuple[Place, ...] = ("picture",)

    @property
    def is_text_only(self) -> bool:
        """True if the model isn't asked at all."""
        return "picture" not in self.places

    @property
    def limit(self) -> int | None:
        """The number of hits after which no more are looked for in a file; one hit is enough for a name."""
        return 1 if self.form == "names" else self.most_hits

    def class_of(self, score: float) -> HitClass:
        low, high = self.unsure or (self.threshold, self.threshold)
        return "hit" if score >= high else "unsure" if score >= low else "none"

    def is_wanted(self, score: float) -> bool:
        """True if a window with this score counts: it is a hit or, with -v, none."""
        return self.class_of(score) == ("none" if self.is_inverted else "hit")


def places_of(text: str) -> tuple[Place, ...]:
    """Reads --in: "text,picture" → ("text", "picture"). Errors: UsageError."""
    named = [part.strip() for part in text.split(",")]
    unknown = next((name for name in named if name not in PLACES), None)
    if unknown is not None:
        raise UsageError(f"{unknown!r} is no place to look in: give text, picture or text,picture.")
    return tuple(place for place in PLACES if place in named)


def unsure_of(text: str) -> tuple[float, float]:
    """Reads --unsure: "0.3,0.7" → (0.3, 0.7)."""
    parts = re.fullmatch(r"\s*(0?\.\d+|[01](?:\.\d*)?)\s*,\s*(0?\.\d+|[01](?:\.\d*)?)\s*", text, re.ASCII)
    low, high = (float(part) for part in parts.groups()) if parts else (1.0, 0.0)
    if not 0 <= low < high <= 1:
        raise UsageError(f"{text!r} is not a range of scores: give the lower and the upper end, like 0.3,0.7.")
    return low, high
