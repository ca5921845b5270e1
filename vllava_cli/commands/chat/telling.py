"""Shows an answer while it comes, and says how it came about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vllava_cli.choices import shares
from vllava_cli.commands.chat.keeping import Keeping
from vllava_cli.commands.provenance import counts, report
from vllava_cli.nouns import Conversation, Delta, Turn, counted
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine

Output = Literal["stream", "whole", "json"]


@dataclass(frozen=True, kw_only=True)
class Telling:
    """Where answers go, and in which form."""

    engine: Engine
    screen: Screen
    keeping: Keeping
    output: Output = "stream"

    def show(self, pieces: Iterator[Delta]) -> None:
        """Takes all pieces; shows them as they come only where they are to be streamed."""
        with self.screen.waiting("Reading; Ctrl-C stops"):
            first = next(pieces)
        self._show(first)
        for piece in pieces:
            self._show(piece)

    def tell(self, conversation: Conversation, *, took: str) -> None:
        """Ends the last turn's answer, or prints it now; then the notices about it. `took` says where the time went."""
        turn, number = conversation.turns[-1], len(conversation.turns)
        if self.output == "json":
            self.screen.answer(json_of(self._row(conversation)) + "\n")
        else:
            if self.output == "whole":
                self.screen.answer(turn.answer)
            self.screen.answer("" if turn.answer else "\n")  # an answer, even an empty one, is a line
            self.screen.end_answer()
        if turn.probabilities and self.output != "json":
            self.screen.notice(shares(turn.sampling.choices, turn.probabilities))
        if notice := _notice(turn):
            self.screen.notice(notice)
        self.screen.detail(f"turn {number}: {_detail(turn)}; {took}")

    def _row(self, conversation: Conversation) -> dict[str, Any]:
        """Turn and session say which rows before this one are its conversation."""
        file = self.keeping.file
        place = {"turn": len(conversation.turns), "session": str(file.path) if file else None}
        return place | report(conversation, [self.keeping.shown(each) for each in conversation.media], self.engine)

    def _show(self, piece: Delta) -> None:
        if self.output == "stream":
            self.screen.answer(piece.text)


def _notice(turn: Turn) -> str:
    match turn.stop_reason:
        case "interrupted":
            return "Stopped. What was said is kept; /undo takes it back."
        case "length":
            return f"Cut off after {counted(turn.stats.new_tokens, 'token')}: /set max-new-tokens allows more."
        case "context":
            return "Cut off: the context is full."
        case _:
            return ""


def _detail(turn: Turn) -> str:
    return f"stopped: {turn.stop_reason}; {counts(turn.stats)}; clips looked at {turn.stats.tower_calls}"
