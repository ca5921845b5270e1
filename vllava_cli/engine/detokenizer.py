"""The text of an answer while its ids arrive, without what the model strews in.

The published checkpoint sometimes says a stray "Ъ" and goes on behind it. It belongs to no word, so it is left out of
the text and of the answer's ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllava_cli.engine.tokenizer import HARD_SIGN, Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CLOSE_TOKENS = 12
"""Three strays within so many tokens are a loop."""
_SIGNS = re.compile(rf"\s*{HARD_SIGN}+")


@dataclass(kw_only=True)
class Detokenizer:
    """Turns ids into text that grows.

    What may still change is held back: a run of bytes, of which none are kept as they are once one makes no character,
    and, with `drops_strays`, a "Ъ" that may still begin a Cyrillic word.
    """

    tokenizer: Tokenizer
    drops_strays: bool = True
    ids: list[int] = field(default_factory=list)
    """Those of `text`, and the bytes that are held back."""
    text: str = ""
    produced: int = 0
    """How many ids came, whatever became of them."""
    _open: list[int] = field(default_factory=list)
    """The last ids, which don't make a whole character yet."""
    _signs: list[int] = field(default_factory=list)
    """Ids in front of those whose "Ъ" are stray or begin a word."""
    _signs_at: list[int] = field(default_factory=list)
    _strays_at: list[int] = field(default_factory=list)
    """How many ids had been produced with each "Ъ" that waits, and with each that was left out."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, ids: Sequence[int], *, drops_strays: bool = True) -> Detokenizer:
        """The state behind these ids. Without a "Ъ" among them their text is made at once."""
        made = cls(tokenizer=tokenizer, drops_strays=drops_strays)
        if ids and not (drops_strays and made.may_stray(ids)):
            made.produced, made._open = len(ids) - 1, list(ids[:-1])
            ids = ids[-1:]
        for token in ids:
            made.push(token)
        return made

    def push(self, token: int) -> str:
        """Adds an id and returns the text that it completed, which may be ""."""
        self.produced += 1
        self._open.append(token)
        whole = self._whole()
        if whole.endswith(REPLACEMENT):
            return ""
        if self.drops_strays and (self._signs or self.may_stray([token])):
            if self._is_sign(whole):
                return ""
            whole = self._whole()
        self._accept()
        return self._advance(whole) if self.tokenizer.ends_bytes(token) else ""

    def rest(self) -> str:
        """What was still held back when the answer ended; a "Ъ" at its end is stray."""
        self._drop_signs()
        self._accept()
        return self._advance(self._whole())

    def may_stray(self, ids: Sequence[int]) -> bool:
        """Whether one of these ids may end a "Ъ"."""
        return not self.tokenizer.hard_sign_ids.isdisjoint(ids)

    @property
    def likely_ids(self) -> list[int]:
        """All ids that came but those that are or may be stray."""
        return self.ids + self._open

    @property
    def stray_tokens(self) -> int:
        """How many "Ъ" were left out."""
        return len(self._strays_at)

    @property
    def is_straying(self) -> bool:
        """Whether the last three "Ъ" that are or may be stray came within a few tokens."""
        last = [*self._strays_at, *self._signs_at][-3:]
        return len(last) == 3 and last[-1] - last[0] < CLOSE_TOKENS

    def _whole(self) -> str:
        return self.tokenizer.decode(self.ids + self._signs + self._open)

    def _is_sign(self, whole: str) -> bool:
        """Holds back a new "Ъ" that no Cyrillic letter is in front of; else decides on those that were held back."""
        known = self.tokenizer.decode(self.ids + self._signs)
        new = whole[len(known) :]
        if _SIGNS.fullmatch(new) and not _is_cyrillic(whole.rstrip(HARD_SIGN)[-1:]):
            self._signs += self._open
            self._signs_at.append(self.produced)
            self._open = []
            return True
        if _is_cyrillic(new[:1]):
            self.ids += self._signs
            self._signs, self._signs_at = [], []
        self._drop_signs()
        return False

    def _drop_signs(self) -> None:
        self._strays_at += self._signs_at
        self._signs, self._signs_at = [], []

    def _accept(self) -> None:
        self.ids += self._signs + self._open
        self._open = []

    def _advance(self, whole: str) -> str:
        before, self.text = self.text, whole
        return whole[len(before) :]


def _is_cyrillic(letter: str) -> bool:
    return "\u0400" <= letter <= "\u04ff"
