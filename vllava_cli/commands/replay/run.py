"""`vllava replay`: makes the answers of rows again and says which are the same."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.commands.provenance import Loaded, others
from vllava_cli.commands.replay.clips import STDIN, Clips
from vllava_cli.commands.replay.engines import Engines
from vllava_cli.commands.replay.recorded import Entry, Recorded, entries
from vllava_cli.commands.replay.verdict import Verdict, compared, refused
from vllava_cli.errors import OutputError, ReplayError, UsageError, VllavaError
from vllava_cli.media.inputs import piped
from vllava_cli.nouns import Answer, Conversation, DecodeLimits, Frames, Stats, Turn
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of, read_rows, rows_in

if TYPE_CHECKING:
    from vllava_cli.engine.tokens import Tokens

SAME, DIFFERS, CANNOT = 0, 1, 2
"""Exit codes, the worst of all rows."""
_NO_STATS = Stats(prompt_tokens=0, reused_tokens=0, new_tokens=0, first_token_s=0.0, decode_s=0.0)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What one `vllava replay` was told."""

    rows: str
    """A file of JSON lines, or "-" for stdin."""
    ids: tuple[str, ...] = ()
    """Only these rows; none are all."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    is_json: bool = False


def run(replay: Replay, screen: Screen) -> int:
    """Returns 0 where all answers are the same, 1 where some differ, 2 where some can't be made again.

    Errors: UsageError where there is nothing to replay; those of stdout.
    """
    from vllava_cli.media.decoder.stdin_file import Reader

    chosen = _grouped(_chosen(replay))
    counts: Counter[str] = Counter()
    told: set[str] = set()
    with Reader(replay.limits) as reader:
        replaying = Replaying(clips=Clips(reader), engines=Engines(screen=screen), screen=screen, total=len(chosen))
        for entry in chosen:
            verdict = replaying.verdict(entry)
            counts[verdict.kind] += 1
            for other in verdict.others:
                if other not in told:
                    screen.notice(f"vllava: when these rows were made, {other}.")
                told.add(other)
            screen.answer(json_of(verdict.row()) + "\n" if replay.is_json else verdict.lines())
    screen.notice(_summary(counts))
    return CANNOT if counts["cannot"] else DIFFERS if counts["differs"] else SAME


@dataclass(kw_only=True)
class Replaying:
    """What a run has in hand."""

    clips: Clips
    engines: Engines
    screen: Screen
    total: int
    done: int = 0

    def verdict(self, entry: Entry) -> Verdict:
        """Errors: none of a single row; KeyboardInterrupt."""
        self.done += 1
        recorded = entry.recorded
        if recorded is None:
            return refused(entry, entry.reason)
        releases = others(recorded.making.loaded)
        try:
            return compared(entry, recorded, self._turn(recorded), releases)
        except VllavaError as exc:
            return refused(entry, str(exc), releases)

    def _turn(self, recorded: Recorded) -> Turn:
        """The answer as it is made now. Errors: any VllavaError."""
        with self.screen.waiting(f"{self.done:,}/{self.total:,} Reading frames"):
            frames = self.clips.of(recorded)
        conversation = conversation_of(recorded, frames)
        engine = self.engines.engine(recorded.making.loaded, {each.kind for each in frames} or {"video"})
        if not all(engine.tokens.can_hold(turn.answer_ids) for turn in conversation.turns):
            raise ReplayError("an earlier answer has ids that are no text of this model")
        conversation.dropped = dropped(conversation, recorded, engine.tokens)
        with self.screen.waiting(f"{self.done:,}/{self.total:,} Answering"):
            Answer.of(engine.stream(conversation, recorded.question, recorded.sampling))
        return conversation.turns[-1]


def conversation_of(recorded: Recorded, frames: Sequence[Frames]) -> Conversation:
    """The conversation before the question: the answers of earlier turns are those of their rows."""
    left = list(frames)
    turns = []
    for each in recorded.earlier:
        count = len(each.new_clips)
        media, left = left[:count], left[count:]
        turns.append(
            Turn(
                question=each.question,
                answer=each.answer,
                answer_ids=each.making.answer_ids,
                media=tuple(media),
                stop_reason=each.stop_reason,
                sampling=each.making.sampling,
                stats=_NO_STATS,
            )
        )
    return Conversation(attached=tuple(left), fit=recorded.making.fit, turns=turns)


def dropped(conversation: Conversation, recorded: Recorded, tokens: Tokens) -> int:
    """How many turns were no longer in the context: so many that the prompt is the one of the row.

    Errors: ReplayError where none is.
    """
    from vllava_cli.engine.tokens import digest_of

    for gone in range(len(conversation.turns) + 1):
        ids = tokens.unchecked_ids(replace(conversation, dropped=gone), recorded.question)
        if digest_of(ids) == recorded.making.prompt_sha256:
            return gone
    raise ReplayError("the prompt's tokens are others here: the tokenizer's files have changed, or the row has")


def _chosen(replay: Replay) -> list[Entry]:
    """Errors: UsageError."""
    name = "stdin" if replay.rows == STDIN else f"'{replay.rows}'"
    every = [entry for entry in entries(_rows(replay.rows)) if not replay.ids or entry.id in replay.ids]
    if unknown := set(replay.ids) - {entry.id for entry in every}:
        raise UsageError(f"No row of {name} has the id {min(unknown)}: jq -r .id lists them.")
    if not every:
        raise UsageError(f"{name} has no rows. Name what ask --json, chat --json or batch wrote.")
    return every


def _rows(name: str) -> Iterator[Mapping[str, Any]]:
    """Errors: UsageError."""
    try:
        if name == STDIN:
            stdin = sys.stdin.buffer if sys.stdin else None
            yield from rows_in(piped(stdin, "… | vllava replay -, or name a file"), Path("stdin"))
        else:
            yield from read_rows(Path(name))
    except OutputError as exc:
        raise UsageError(str(exc)) from exc


def _grouped(chosen: Sequence[Entry]) -> list[Entry]:
    """Those of one engine together, in the order in which engines come first; what needs none stays where it is."""
    order: dict[Loaded, int] = {}
    last = 0
    keyed = []
    for entry in chosen:
        if entry.recorded:
            last = order.setdefault(replace(entry.recorded.making.loaded, versions=()), len(order))
        keyed.append((last, entry))
    return [entry for _, entry in sorted(keyed, key=lambda pair: pair[0])]


def _summary(counts: Counter[str]) -> str:
    kinds = (("same", "same"), ("differs", "other"), ("cannot", "that can't be made again"))
    parts = [f"{counts[kind]:,} {told}" for kind, told in kinds if counts[kind]]
    answers = "1 answer" if counts.total() == 1 else f"{counts.total():,} answers"
    return f"vllava: of {answers}: {', '.join(parts)}."
