"""From a session's record back to a conversation: the clips are sampled again, the answers' ids are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.errors import MediaError
from vllava_cli.nouns import Conversation, Frames, Framing, StopReason, Turn
from vllava_cli.session.session_file import MediumRecord, SessionRecord, TurnRecord, difference

if TYPE_CHECKING:
    from vllava_cli.engine.tokens import Tokens

Clips = tuple[tuple[Path, Framing], ...]
_CUT: tuple[StopReason, ...] = ("repetition", "interrupted")
"""The text of such an answer may lack its end: a stray letter, half of a character."""


def clips_of(record: SessionRecord) -> Clips:
    """The clips of a session in their order, each once for a framing. Errors: MediaError for one that is gone."""
    for medium in _media(record):
        if not os.path.exists(medium.path):
            raise MediaError(f"{difference(medium)} The session is about it: put it back, or begin anew.")
    return tuple(dict.fromkeys((medium.path, _framing(medium, record)) for medium in _media(record)))


def changes(record: SessionRecord) -> list[str]:
    """A sentence for each clip that isn't what it was. Errors: StoppedError."""
    found = {medium.path: difference(medium) for medium in _media(record)}
    return [f"{change} The answers so far are about the old one." for change in found.values() if change]


def revived(
    record: SessionRecord, frames: Mapping[tuple[Path, Framing], Frames], tokens: Tokens, *, model: str
) -> tuple[Conversation, int]:
    """The conversation, and how many of its answers had to be tokenised anew.

    That are those of another model, and those that someone edited: their ids aren't what the text says.
    """
    renewed = 0
    waiting = tuple(frames[medium.path, _framing(medium, record)] for medium in record.attached)
    conversation = Conversation(attached=waiting, fit=record.fit)
    for turn in record.turns:
        media = tuple(frames[medium.path, _framing(medium, record)] for medium in turn.media)
        is_own = record.model == model and _is_own(turn, tokens)
        renewed += not is_own
        ids = turn.answer_ids if is_own else tokens.answer_ids(turn.answer)
        conversation.turns.append(_turn(turn, media, ids))
    return conversation, renewed


def _turn(turn: TurnRecord, media: tuple[Frames, ...], ids: tuple[int, ...]) -> Turn:
    return Turn(
        question=turn.question,
        answer=turn.answer,
        answer_ids=ids,
        media=media,
        stop_reason=turn.stop_reason,
        sampling=turn.sampling,
        stats=turn.stats,
        probabilities=turn.probabilities,
    )


def _is_own(turn: TurnRecord, tokens: Tokens) -> bool:
    """A choice needn't read as its ids do: a word of the prompt's own in it is parted before it is tokenised."""
    if turn.stop_reason == "choice" and turn.answer_ids == tokens.answer_ids(turn.answer):
        return True
    return tokens.are_of(turn.answer_ids, turn.answer, is_cut=turn.stop_reason in _CUT)


def _media(record: SessionRecord) -> list[MediumRecord]:
    return [*(medium for turn in record.turns for medium in turn.media), *record.attached]


def _framing(medium: MediumRecord, record: SessionRecord) -> Framing:
    return replace(medium.framing, fit=record.fit)
