"""Words of a line as a shell would part them, and names written so that they come out as one word again."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_PIECE = re.compile(
    r"""(?P<plain>[^\s'"\\]+)|\\(?P<escaped>.)|'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|"""
    r"""(?P<open>'(?P<open_single>[^']*)\Z|"(?P<open_double>(?:\\.|[^"\\])*)\\?\Z|\\\Z)""",
    re.DOTALL,
)
_IN_DOUBLE = re.compile(r'\\([\\"$`])')
_SPECIAL = re.compile(r"""([\s'"\\])""")


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word: `raw` as typed, from `start` of the line; `plain` without its quotes."""

    plain: str
    raw: str
    start: int
    is_open: bool = False
    """Whether a quote or a backslash at its end is without its other half."""

    @property
    def is_home(self) -> bool:
        """Whether it begins with a ~ that means a home."""
        return self.raw.startswith("~")

    @property
    def text(self) -> str:
        """What is meant: without quotes, ~ replaced by the home."""
        return expanded(self.plain) if self.is_home else self.plain

    @property
    def end(self) -> int:
        return self.start + len(self.raw)


def split(line: str) -> tuple[Word, ...]:
    r"""The words of a line; never fails. "a 'b c' d\ e" → a, b c, d e."""
    words: list[Word] = []
    position = _skip_space(line, 0)
    while position < len(line):
        words.append(_word(line, position))
        position = _skip_space(line, words[-1].end)
    return tuple(words)


def quoted(name: str) -> str:
    r"""A file name as `split` reads it: "my clip.mp4" → "my\ clip.mp4", "~a" → "\~a", "--a" → "./--a"."""
    escaped = _SPECIAL.sub(r"\\\1", name)
    if escaped.startswith("--"):
        return f"./{escaped}"
    return f"\\{escaped}" if escaped.startswith("~") else escaped


def expanded(name: str) -> str:
    """The name with its ~ or ~user replaced by that home; left alone where there is no such user."""
    return os.path.expanduser(name)  # noqa: PTH111  (Path.expanduser raises for an unknown user)


def _word(line: str, start: int) -> Word:
    texts: list[str] = []
    position, is_open = start, False
    while piece := _PIECE.match(line, position):
        position = piece.end()
        is_open = piece["open"] is not None
        texts.append(_text(piece))
    return Word(plain="".join(texts), raw=line[start:position], start=start, is_open=is_open)


def _text(piece: re.Match[str]) -> str:
    for name in ("double", "open_double"):
        if piece[name] is not None:
            return _IN_DOUBLE.sub(r"\1", piece[name])
    return piece["plain"] or piece["escaped"] or piece["single"] or piece["open_single"] or ""


def _skip_space(line: str, position: int) -> int:
    return len(line) - len(line[position:].lstrip())
