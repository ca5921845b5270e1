"""What /show says: settings, plan, context, turns, and where it is all kept. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllava_cli.commands.chat.settings import Settings
from vllava_cli.commands.provenance import counts, first_token
from vllava_cli.nouns import Conversation, Turn

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine

Row = tuple[str, str]


def show_rows(engine: Engine, conversation: Conversation, settings: Settings, *, kept_in: str) -> list[Row]:
    """(name, sentence) rows, in the order in which they are asked for most."""
    checkpoint = engine.tokens.checkpoint
    return [
        ("context", _context(engine, conversation)),
        *_turns(conversation),
        ("looked at", f"{engine.vision.calls} clip{'s' * (engine.vision.calls != 1)} since the start"),
        *settings.rows(),
        ("model", checkpoint.name + (f", revision {checkpoint.revision}" if checkpoint.revision else "")),
        *((what, f"{choice}: {reason}") for what, choice, reason in engine.plan.reasons),
        ("kept in", kept_in),
    ]


def _context(engine: Engine, conversation: Conversation) -> str:
    """ "2104 of 4096 tokens used, 2056 of them by clips; 1992 left" """
    tokens = engine.tokens
    used = tokens.used(conversation)
    clips = sum(tokens.tokens_of(medium.kind) for medium in conversation.media)
    left = max(0, tokens.context_tokens - used)
    return f"{used} of {tokens.context_tokens} tokens used, {clips} of them by clips; {left} left"


def _turns(conversation: Conversation) -> Iterator[Row]:
    for number, turn in enumerate(conversation.turns, 1):
        yield f"turn {number}", _turn(turn, is_dropped=number <= conversation.dropped)


def _turn(turn: Turn, *, is_dropped: bool) -> str:
    said = f"{counts(turn.stats)}; {first_token(turn.stats, turn.stop_reason)}"
    if turn.stop_reason != "end":
        said += f"; {turn.stop_reason}"
    return said + ("; no longer in the context" if is_dropped else "")
