"""When an answer ends where the model itself goes on; the same for an answer alone and for one of many. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vllava_cli.engine.repetition import is_looping
from vllava_cli.nouns import Sampling, StopReason


def stop_of(
    ids: Sequence[int], sampling: Sampling, *, produced: int, room_tokens: int, is_straying: bool
) -> StopReason | None:
    """Why an answer of these ids ends here, if it does.

    `produced` counts stray ones too, which the ids lack; `room_tokens` is what the context leaves behind the prompt.
    """
    if sampling.has_guard and (is_straying or is_looping(ids)):
        return "repetition"
    if produced >= sampling.max_new_tokens:
        return "length"
    return "context" if produced >= room_tokens else None
