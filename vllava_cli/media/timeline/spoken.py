"""Lines of subtitles: those of a part of a clip, where their text may be cut, and what is said in them. Pure."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from vllava_cli.nouns import Framing, SpokenLine

_TOUCHING_S = 0.1
_LEAST_ROLLED = 3
"""So many words that end one line and begin the next are the same words, shown twice; fewer may be said twice."""
_SENTENCE_END = re.compile("[.!?\u2026]+[\"'\u201d\u2019\xbb)\\]]*(?=\\s|$)|[\u3002\uff01\uff1f]")
_WORD_END = re.compile(r"\S(?=\s|$)")
_UNSPACED = "\u2e80"
"""From this character on come scripts that put no spaces between words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """The part of a clip whose lines are wanted, and the subtitle file to read; None reads the clip's own track."""

    sidecar: Path | None
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """The subtitles of a clip that went into a prompt; the times are those of the first and the last line."""

    source: str = ""
    """The same as in `Subtitles`."""
    text: str = ""
    start_s: float | None = None
    end_s: float | None = None
    cut: int = 0
    """The number of characters that were left out for lack of room."""

    def row(self) -> dict[str, object] | None:
        """Returns the object that a row has under "subs"; None where no subtitles were found."""
        times = {"start_s": self.start_s, "end_s": self.end_s}
        rounded = {name: None if time_s is None else round(time_s, 4) for name, time_s in times.items()}
        counts = {"characters": len(self.text), "cut": self.cut}
        return {"source": self.source, **rounded, **counts} if self.source else None


def span_of(framing: Framing) -> tuple[float, float]:
    """Returns the start and the end in seconds of what a framing shows; the end of a whole clip is infinite."""
    if framing.at_s:
        return min(framing.at_s), math.nextafter(max(framing.at_s), math.inf)
    return framing.start_s or 0.0, math.inf if framing.end_s is None else framing.end_s


def within(lines: Iterable[SpokenLine], start_s: float, end_s: float) -> tuple[SpokenLine, ...]:
    """Returns the lines that are shown at some time from `start_s` to `end_s`, each whole; `end_s` isn't part of it."""
    return tuple(line for line in lines if line.start_s < end_s and (line.end_s > start_s or line.start_s == start_s))


def text_of(lines: Iterable[SpokenLine]) -> str:
    return " ".join(line.text for line in lines)


def unrolled(lines: Sequence[SpokenLine]) -> list[SpokenLine]:
    """Leaves out what a line only repeats because the text of the line before it stays on the screen.

    The rows of a text are separated by new lines here, and by spaces in what is returned. "one", "one\\ntwo three",
    "two three\\nfour", shown without a pause → "one", "two three", "four"; a line that says nothing new is left out.
    """
    found: list[SpokenLine] = []
    before: list[str] = []
    until_s = -math.inf
    for line in lines:
        words = line.text.split()
        known = _repeated(before, line.text) if line.start_s - until_s <= _TOUCHING_S else 0
        if words[known:]:
            found.append(SpokenLine(start_s=line.start_s, end_s=line.end_s, text=" ".join(words[known:])))
        before, until_s = words, line.end_s
    return found


def _repeated(before: Sequence[str], text: str) -> int:
    """Counts the first words of a text that the line before it ends with: rows, a whole line, or several words."""
    words = text.split()
    whole = {len(before), *accumulate(len(row.split()) for row in text.split("\n"))}
    counts = range(min(len(before), len(words)), 0, -1)
    is_told = (count for count in counts if list(before[-count:]) == words[:count])
    return next((count for count in is_told if count >= _LEAST_ROLLED or count in whole), 0)


def sentence_ends(text: str) -> list[int]:
    """Returns where the sentences of a text end: "Yes. No?" → [4, 8]; "3.5" has no end."""
    return [match.end() for match in _SENTENCE_END.finditer(text)]


def word_ends(text: str) -> list[int]:
    """Returns where the words of a text end: "Yes. No?" → [4, 8]."""
    return [match.end() for match in _WORD_END.finditer(text)]


def matches(query: str, lines: Iterable[SpokenLine]) -> bool:
    """Returns True if each word of the query is said in the lines; case and accents don't matter.

    "cafe RED" is said in "A red Café."; "art" isn't said in "party". A query without a word is never said.
    """
    said = _folded(text_of(lines))
    wanted, heard = _words(_folded(query)), set(_words(said))
    return bool(wanted) and all(word in heard or (max(word) >= _UNSPACED and word in said) for word in wanted)


def _folded(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in parts if not unicodedata.combining(char))


def _words(text: str) -> list[str]:
    return re.findall("\\w+(?:['\u2019]\\w+)*", text)
