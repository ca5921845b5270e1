"""When an answer ends where the model itself goes on; the same for an answer alone and for one of many. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vllava_cli.engine.repetition import is_looping
from vllava_cli.nouns import Sampling, StopReason


def stop_of(ids: Sequence[int], sampling: Sampling, *, room_tokens: int, has_stray: bool) -> StopReason | None:
    """Why an answer of these ids ends here, if it does.

    `room_tokens` is what the context leaves behind the prompt; `has_stray` says that the text has a stray letter.
    """
    if sampling.has_guard and (has_stray or is_looping(ids)):
        return "repetition"
    if len(ids) >= sampling.max_new_tokens:
        return "length"
    return "context" if len(ids) >= room_tokens else None
