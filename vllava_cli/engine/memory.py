"""Which part of a prompt the KV cache already holds, so that no token is prefilled twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllava_cli.nouns import Conversation, Fit, Frames

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(kw_only=True)
class Memory:
    """One KV cache and what it stands for: the ids it has seen, in order, and the media among them."""

    cache: DynamicCache
    media: tuple[Frames, ...] = ()
    fit: Fit = "crop"
    ids: list[int] = field(default_factory=list)

    def covers(self, conversation: Conversation, ids: list[int], *, media_end: int) -> int:
        """How many first ids of a prompt need no prefill: at most all but one, and either all media tokens or none.

        `media_end` is the position behind the last placeholder. Another clip or fit → 0.
        """
        if self.fit != conversation.fit or not _same(self.media, conversation.media):
            return 0
        shared = _shared(self.ids, ids[:-1])
        return shared if shared >= media_end else 0

    def crop(self, length: int) -> None:
        """Forgets everything behind the first `length` ids."""
        surplus = len(self.ids) - length
        if surplus > 0:
            self.cache.crop(-surplus)
            del self.ids[length:]


def _same(left: tuple[Frames, ...], right: tuple[Frames, ...]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _shared(left: list[int], right: list[int]) -> int:
    """The length of the common beginning: [1, 2, 3], [1, 2, 9] → 2."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
