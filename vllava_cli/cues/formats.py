"""The forms of cues: lines for people, SubRip (.srt), WebVTT (.vtt), and chapters as FFmpeg's metadata (.ffmeta)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from vllava_cli.cues.cue import Cue, CueMaker
from vllava_cli.times import span, stamp, whole_ms

CueFormat = Literal["srt", "vtt", "ffmeta"]
CueForm = CueFormat | Literal["lines"]
CUE_FORMATS: tuple[CueFormat, ...] = get_args(CueFormat)
_TAG = re.compile(r"<(\s*/?\s*[A-Za-z][^<>]*)>")
_OVERRIDE = re.compile(r"\{(?=\\|[A-Za-z]:)")
_SPECIAL = re.compile(r"([=;#\\\n])")


def line(_: int, cue: Cue) -> str:
    """Writes "00:00:30-00:01:00  A dog runs."; a text of several lines is put on one."""
    return f"{span(cue.start_s, cue.end_s)}  {' '.join(cue.text.split())}\n"


def srt(number: int, cue: Cue) -> str:
    """Writes a cue of SubRip, which knows no escapes: what players would take for a tag or a time gets other signs.

    "-->" → "→", "{\\an8}" → "{ \\an8}", and the angle brackets of "<b>" → single quotation marks of that shape
    """
    text = _OVERRIDE.sub("{ ", _TAG.sub("\u2039\\1\u203a", cue.text.replace("-->", "→")))
    return f"{number}\n{stamp(cue.start_s, ',')} --> {stamp(cue.end_s, ',')}\n{text}\n\n"


def vtt(_: int, cue: Cue) -> str:
    text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{stamp(cue.start_s)} --> {stamp(cue.end_s)}\n{text}\n\n"


def ffmeta(_: int, cue: Cue) -> str:
    title = _SPECIAL.sub(r"\\\1", cue.text)
    if title.endswith("\\"):  # FFmpeg joins a line that ends with a backslash to the next, also if that is escaped
        title += " "
    return f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={whole_ms(cue.start_s)}\nEND={whole_ms(cue.end_s)}\ntitle={title}\n"


_WRITERS: dict[str, tuple[str, Callable[[int, Cue], str]]] = {
    "lines": ("", line),
    "srt": ("", srt),
    "vtt": ("WEBVTT\n\n", vtt),
    "ffmeta": (";FFMETADATA1\n", ffmeta),
}


@dataclass(kw_only=True)
class CueText:
    """Turns the rows of a clip, in time order, into the text of a file, piece by piece."""

    format: CueForm
    is_merging: bool = True
    _count: int = 0
    _maker: CueMaker = field(init=False)

    def __post_init__(self) -> None:
        self._maker = CueMaker(is_merging=self.is_merging)

    def lines(self, rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
        """Yields the whole text of a file."""
        yield from self.header()
        yield from map(self.line, rows)
        yield self.end()

    def header(self) -> list[str]:
        """Returns the text before the first cue, in a list."""
        return [_WRITERS[self.format][0]]

    def line(self, row: Mapping[str, object]) -> str:
        """Takes the next row; returns the text of the cue that is complete now, else ""."""
        return self._written(self._maker.add(row))

    def end(self) -> str:
        """Returns the text of the last cue, after all rows."""
        return self._written(self._maker.end())

    def _written(self, cue: Cue | None) -> str:
        if cue is None:
            return ""
        self._count += 1
        return _WRITERS[self.format][1](self._count, cue)
