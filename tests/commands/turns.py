"""Turns of conversations, and the stdin of a command."""

from __future__ import annotations

import io
from typing import Any

from vllava_cli.answers import Sampling, Stats, Turn
from vllava_cli.nouns import Frames

STATS = Stats(prompt_tokens=20, reused_tokens=5, new_tokens=3, first_token_s=0.456, decode_s=0.5)


def turn(question: str, answer: str = "", *media: Frames, **fields: Any) -> Turn:
    """A turn that ended by itself, unless `fields` say otherwise."""
    plain = {"answer_ids": (), "stop_reason": "end", "sampling": Sampling(), "stats": STATS}
    return Turn(question=question, answer=answer, media=media, **(plain | fields))


class Piped(io.TextIOWrapper):
    """A pipe with these bytes."""

    def __init__(self, data: bytes | io.BytesIO = b"") -> None:
        super().__init__(io.BytesIO(data) if isinstance(data, bytes) else data)


class Terminal(Piped):
    def isatty(self) -> bool:
        return True
