"""`vllava replay`: makes the answers of rows again and says which are the same."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.commands.provenance import Loaded, others
from vllava_cli.commands.recorded import Entry, Recorded, RecordedClip, Verdict, entries
from vllava_cli.commands.start import start
from vllava_cli.errors import MediaError, OutputError, ReplayError, UsageError, VllavaError, quoted
from vllava_cli.imports import gc_paused
from vllava_cli.media.fingerprint import Fingerprint, differs, resized
from vllava_cli.media.inputs import piped
from vllava_cli.media.remote.policy import scheme_of, without_secrets
from vllava_cli.nouns import (
    STDIN,
    Answer,
    Conversation,
    DecodeLimits,
    Frames,
    Framing,
    MediaKind,
    Stats,
    Turn,
    Wishes,
    counted,
)
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of, read_rows, rows_in
from vllava_cli.times import Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine
    from vllava_cli.engine.tokens import Tokens
    from vllava_cli.media.decoder.stdin_file import Reader

SAME, DIFFERS, CANNOT = 0, 1, 2
"""Exit codes, the worst of all rows."""
_NO_STATS = Stats(prompt_tokens=0, reused_tokens=0, new_tokens=0, first_token_s=0.0, decode_s=0.0)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The request of one `vllava replay`."""

    rows: str
    """A file of JSON lines, or "-" for stdin."""
    ids: tuple[str, ...] = ()
    """The ids of the rows to replay; none means all rows."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    is_json: bool = False


def run(replay: Replay, screen: Screen) -> int:
    """Returns 0 where all answers are the same, 1 where some differ, 2 where some can't be made again.

    Errors: UsageError where there is nothing to replay; those of stdout.
    """
    from vllava_cli.media.decoder.stdin_file import Reader

    chosen = _grouped(_chosen(replay))
    counts: Counter[str] = Counter()
    noticed: set[str] = set()
    with Reader(replay.limits) as reader:
        replayer = Replayer(reader, screen, len(chosen))
        for entry in chosen:
            verdict = replayer.verdict(entry)
            counts[verdict.kind] += 1
            for other in verdict.others:
                if other not in noticed:
                    screen.notice(f"vllava: when these rows were made, {other}.")
                noticed.add(other)
            screen.answer(json_of(verdict.row()) + "\n" if replay.is_json else verdict.lines())
    screen.notice(_summary(counts))
    return CANNOT if counts["cannot"] else DIFFERS if counts["differs"] else SAME


class Replayer:
    """Makes the answers of rows again, one after the other: holds the clips of the last row, and one engine."""

    def __init__(self, reader: Reader, screen: Screen, total: int) -> None:
        self._reader, self._screen, self._total = reader, screen, total
        self._done = 0
        self._frames: dict[RecordedClip, Frames] = {}
        self._changes: dict[RecordedClip, str | None] = {}
        """The change of each file since its row was made: each is hashed once."""
        self._wanted: Loaded | None = None
        self._engine: Engine | None = None
        self._fault = ""
        """The reason why the wanted engine can't be loaded."""

    def verdict(self, entry: Entry) -> Verdict:
        """Errors: none of a single row; KeyboardInterrupt."""
        self._done += 1
        recorded = entry.recorded
        if recorded is None:
            return Verdict(entry=entry, kind="cannot", reason=entry.reason)
        releases = others(recorded.making.loaded)
        try:
            return Verdict.of(entry, recorded, self._turn(recorded), releases)
        except VllavaError as exc:
            return Verdict(entry=entry, kind="cannot", reason=str(exc), others=releases)

    def _turn(self, recorded: Recorded) -> Turn:
        """Makes the answer as it is made now. Errors: any VllavaError."""
        with self._screen.waiting(f"{self._done:,}/{self._total:,} Reading frames"):
            frames = self._clips(recorded)
        conversation = conversation_of(recorded, frames)
        engine = self._loaded(recorded.making.loaded, {each.kind for each in frames} or {"video"})
        if not all(engine.tokens.can_hold(turn.answer_ids) for turn in conversation.turns):
            raise ReplayError("an earlier answer has ids that are no text of this model")
        conversation.dropped = dropped(conversation, recorded, engine.tokens)
        with self._screen.waiting(f"{self._done:,}/{self._total:,} Answering"):
            Answer.of(engine.stream(conversation, recorded.question, recorded.sampling))
        return conversation.turns[-1]

    def _clips(self, recorded: Recorded) -> tuple[Frames, ...]:
        """Reads the frames of a row's clips; those that the row before showed aren't decoded again."""
        for clip in recorded.clips:
            self._check(clip)
        known = self._frames
        self._frames = {clip: known.get(clip) or _sampled(clip, self._reader) for clip in recorded.clips}
        return tuple(self._frames[clip] for clip in recorded.clips)

    def _check(self, clip: RecordedClip) -> None:
        """Errors: ReplayError for a clip that isn't what it was."""
        if clip.path == STDIN:
            raise ReplayError("its clip came from stdin, and nobody kept it")
        if "://" in clip.path and scheme_of(clip.path):
            url = without_secrets(clip.path)
            raise ReplayError(f"its clip is the URL {url}: save it, and put that path in the row")
        file = replace(clip, times_s=None, shown=replace(clip.shown, framing=Framing()))
        if file not in self._changes:
            self._changes[file] = _change(clip)
        if change := self._changes[file]:
            raise ReplayError(change)

    def _loaded(self, wanted: Loaded, kinds: Collection[MediaKind]) -> Engine:
        """Returns the engine that a row wants, loaded once for rows that want the same. Errors: ReplayError."""
        wanted = replace(wanted, versions=())
        if wanted != self._wanted:
            self._give_up()
            self._wanted = wanted
            try:
                self._engine = _load(wanted, kinds, self._screen)
            except VllavaError as exc:
                self._fault = str(exc)
        if self._engine is None:
            raise ReplayError(self._fault)
        return self._engine

    def _give_up(self) -> None:
        if self._engine is None:
            return
        from vllava_cli.engine.measuring.measured_tools import free

        device, self._engine = self._engine.plan.device, None
        free(device)


@gc_paused()
def _load(wanted: Loaded, kinds: Collection[MediaKind], screen: Screen) -> Engine:
    """Errors: ReplayError before a weight is read where anything is another here, any VllavaError."""
    from vllava_cli.engine.adapter import locate

    wishes = Wishes(
        model=wanted.model,
        revision=wanted.revision,
        adapter=wanted.adapter.name if wanted.adapter else None,
        device=wanted.device,
        precision=wanted.precision,
        attention=wanted.attention,
    )
    source = locate(wishes, screen.log)
    with screen.waiting("Reading the model's files"):
        from vllava_cli.engine.checkpoint import describe
        from vllava_cli.engine.device_speed import planned
        from vllava_cli.engine.tokens import read_tokens
        from vllava_cli.hardware import probe

        tokens = read_tokens(describe(source))
        plan = planned(wishes, probe(), tokens.checkpoint.seeing(kinds))
    here = replace(Loaded.of(plan, tokens.checkpoint), versions=())
    for each in fields(Loaded):
        then, now = getattr(wanted, each.name), getattr(here, each.name)
        if then != now:
            raise ReplayError(f"the {each.name} was {_worded(then)}, and is {_worded(now)} here")
    adapter = [f"with {wanted.adapter.name}"] if wanted.adapter else []
    model = ", ".join([wanted.model, *adapter, wanted.precision, wanted.attention])
    screen.notice(f"vllava: replaying on {wanted.device}, as the rows say: {model}.")
    # What doesn't fit into a shorter context is said when its row is replayed.
    return start(wishes, tokens, kinds, screen.log, Stopwatch(), check=lambda _: None)[0]


def conversation_of(recorded: Recorded, frames: Sequence[Frames]) -> Conversation:
    """Makes the conversation before the question: the answers of earlier turns are those of their rows."""
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
    """Finds how many turns were no longer in the context: so many that the prompt is the one of the row.

    Errors: ReplayError where none is.
    """
    from vllava_cli.engine.tokens import digest_of

    for gone in range(len(conversation.turns) + 1):
        ids = tokens.unchecked_ids(replace(conversation, dropped=gone), recorded.question)
        if digest_of(ids) == recorded.making.prompt_sha256:
            return gone
    raise ReplayError("the prompt's tokens are others here: the tokenizer's files have changed, or the row has")


def _sampled(clip: RecordedClip, reader: Reader) -> Frames:
    """Errors: ReplayError where the clip can't be read or its frames are at other times."""
    from vllava_cli.media.select import spread

    path = Path(clip.path)
    try:
        frames = spread(reader.sample(path, clip.shown.framing), clip.shown.framing.fit)
    except (MediaError, UsageError) as exc:
        raise ReplayError(str(exc)) from exc
    times_s = None if frames.kind == "image" else tuple(round(time_s, 4) for time_s in frames.times_s)
    if times_s != clip.times_s:
        then, now = _seconds(clip.times_s), _seconds(times_s)
        raise ReplayError(f"the frames of {quoted(path)} are others: at {then} then, at {now} now")
    return frames


def _change(clip: RecordedClip) -> str | None:
    """Says how the file differs from what it was, as far as the row knows that."""
    path, size, sha256 = Path(clip.path), clip.shown.bytes, clip.shown.sha256
    if size is None:
        return f"the row has no size of {quoted(path)} beside its SHA-256" if sha256 else None
    return differs(path, Fingerprint(bytes=size, sha256=sha256)) if sha256 else resized(path, size)


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
    """Puts those of one engine together, in the order in which engines come first; what needs none stays in place."""
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
    parts = [f"{counts[kind]:,} {words}" for kind, words in kinds if counts[kind]]
    return f"vllava: of {counted(counts.total(), 'answer')}: {', '.join(parts)}."


def _seconds(times_s: Sequence[float] | None) -> str:
    return "no time" if times_s is None else ", ".join(f"{time_s:g}" for time_s in times_s) + " s"


def _worded(value: object) -> str:
    return "none" if value is None else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
