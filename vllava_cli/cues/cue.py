"""Cues, made of the rows of windows in time order: equal neighbours become one, and no cue reaches into the next."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vllava_cli.times import whole_ms


@dataclass(frozen=True, kw_only=True)
class Cue:
    """A text that holds from `start_s` to `end_s`; it has no control characters and no empty line."""

    start_s: float
    end_s: float
    text: str

    def is_like(self, other: Cue) -> bool:
        """True if the texts are equal but for case and space, and the times touch or overlap."""
        return other.start_s <= self.end_s and _folded(self.text) == _folded(other.text)


class CueMaker:
    """Makes cues of rows that come in time order. A row without an answer makes none, and parts its neighbours."""

    def __init__(self, *, is_merging: bool = True) -> None:
        self._is_merging = is_merging
        self._last: Cue | None = None
        """The last cue, which a later row may make longer or shorter."""
        self._is_parted = False
        """Whether a row without a cue came after it."""

    def add(self, row: Mapping[str, object]) -> Cue | None:
        """Takes the next row; returns the cue before it if that is complete now."""
        last, cue = self._last, cue_of(row)
        if cue is None:
            self._is_parted = True
            return None
        if last and self._is_merging and not self._is_parted and last.is_like(cue):
            self._last = replace(last, end_s=max(last.end_s, cue.end_s))
            return None
        self._last, self._is_parted = cue, False
        return _shown(replace(last, end_s=min(last.end_s, cue.start_s))) if last else None

    def end(self) -> Cue | None:
        """Returns the last cue, after all rows."""
        last, self._last = self._last, None
        return _shown(last) if last else None


def cue_of(row: Mapping[str, object]) -> Cue | None:
    """Returns the cue of a row; None for an error, for an empty answer and for a clip that has no time."""
    start_s, end_s, answer = row.get("start_s"), row.get("end_s"), row.get("answer")
    if not isinstance(start_s, float | int) or not isinstance(end_s, float | int) or not isinstance(answer, str):
        return None
    text = plain(answer)
    return Cue(start_s=start_s, end_s=end_s, text=text) if text else None


def plain(text: str) -> str:
    """Removes control characters, empty lines and the spaces around lines: " a\\r\\n\\n b\\x1b" → "a\\nb"."""
    lines = ("".join(map(_visible, line.replace("\t", " "))).strip() for line in text.splitlines())
    return "\n".join(filter(None, lines))


def _visible(character: str) -> str:
    """Returns the character, "" for a control character, and "?" for half of a surrogate pair."""
    category = unicodedata.category(character)
    return "?" if category == "Cs" else "" if category == "Cc" else character


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _shown(cue: Cue) -> Cue | None:
    """Returns the cue unless it is shorter than a millisecond, the finest step of any format."""
    return cue if whole_ms(cue.end_s) > whole_ms(cue.start_s) else None
