"""Which part of a prompt the KV cache already holds, so that no token is prefilled twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllava_cli.nouns import Fit, Frames

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(kw_only=True)
class Memory:
    """One KV cache and what it stands for: the ids it has seen, in order, and the media among them."""

    cache: DynamicCache
    media: tuple[Frames, ...] = ()
    fit: Fit = "crop"
    ids: list[int] = field(default_factory=list)

    def covers(self, ids: Sequence[int], media: Sequence[Frames], starts: Sequence[int], *, fit: Fit) -> int:
        """How many first ids of a prompt need no prefill: at most all but one.

        `starts` has the position of each medium's first placeholder: equal ids mean equal features only as far as the
        media themselves are the same.
        """
        shared = _shared(self.ids, ids[:-1])
        for old, new, start in zip(self.media, media, starts, strict=False):
            if old is not new or self.fit != fit:
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
