"""Which part of a prompt the KV cache already holds, so that no token is prefilled twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllava_cli.nouns import Fit, Frames

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A prompt, or the beginning of one, with the media that it has placeholders for."""

    ids: tuple[int, ...] = ()
    media: tuple[Frames, ...] = ()
    fit: Fit = "crop"


@dataclass(kw_only=True)
class Memory:
    """One KV cache and what it stands for: the ids it has seen, in order, and the prompt whose media are among them."""

    cache: DynamicCache
    shown: Shown = Shown()
    ids: list[int] = field(default_factory=list)

    def covers(self, shown: Shown, starts: Sequence[int]) -> int:
        """How many first ids of a prompt need no prefill: at most all but one.

        `starts` has the position of each medium's first placeholder: equal ids mean equal features only as far as the
        media themselves are the same.
        """
        shared = _shared(self.ids, shown.ids[:-1])
        for old, new, start in zip(self.shown.media, shown.media, starts, strict=False):
            if old is not new or self.shown.fit != shown.fit:
                return min(shared, start)
        return shared

    def crop(self, length: int) -> None:
        """Forgets everything behind the first `length` ids."""
        surplus = len(self.ids) - length
        if surplus > 0:
            self.cache.crop(-surplus)
            del self.ids[length:]


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """The length of the common beginning: [1, 2, 3], [1, 2, 9] → 2."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
