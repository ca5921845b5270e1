"""`vllava replay`: makes the answers of rows again and says which are the same."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.answers import (
    Agreeing,
    Agreement,
    Conversation,
    Turn,
)
from vllava_cli.choices import by_choice, shares
from vllava_cli.commands.provenance import Loaded, ShownClip, others, rounded_times
from vllava_cli.commands.recorded import Entry, Recorded, entries
from vllava_cli.commands.start import start
from vllava_cli.errors import MediaError, OutputError, ReplayError, UsageError, VllavaError, quoted
from vllava_cli.imports import gc_paused
from vllava_cli.media.fingerprint import Fingerprint, differs, resized
from vllava_cli.media.inputs import piped
from vllava_cli.media.remote.policy import scheme_of, without_secrets
from vllava_cli.nouns import (
    STDIN,
    DecodeLimits,
    Frames,
    MediaKind,
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

EXIT_CODES = {"same": 0, "differs": 1, "cannot": 2}
"""The exit code of each verdict; a run ends with the highest one."""
TOLERANCE = 1e-4
"""The most by which the probability of a choice may differ."""


def run(name: str, screen: Screen, *, limits: DecodeLimits, ids: Collection[str] = (), is_json: bool = False) -> int:
    """Returns 0 if all answers are the same, 1 if some differ, 2 if some can't be made again.

    `name` is that of a file of JSON lines, or "-" for stdin. With `ids`, only the rows of these ids are replayed.
    Errors: UsageError if there is nothing to replay; those of stdout.
    """
    from vllava_cli.media.decoder.stdin_file import Reader

    chosen = _grouped(_chosen(name, ids))
    counts: Counter[str] = Counter()
    noticed: set[str] = set()
    with Reader(limits) as reader:
        replayer = Replayer(reader, screen, len(chosen))
        for entry in chosen:
            verdict = replayer.verdict(entry)
            counts[verdict["verdict"]] += 1
            for other in verdict["others"]:
                if other not in noticed:
                    screen.notice(f"vllava: when these rows were made, {other}.")
                noticed.add(other)
            screen.answer(json_of(verdict) + "\n" if is_json else verdict_lines(verdict))
    kinds = (("same", "same"), ("differs", "other"), ("cannot", "that can't be made again"))
    parts = ", ".join(f"{counts[kind]:,} {words}" for kind, words in kinds if counts[kind])
    screen.notice(f"vllava: of {counted(counts.total(), 'answer')}: {parts}.")
    return max(map(EXIT_CODES.__getitem__, counts))


class Replayer:
    """Makes the answers of rows again, one by one; holds one engine, and the frames of the last row's clips."""

    def __init__(self, reader: Reader, screen: Screen, total: int) -> None:
        self._reader, self._screen, self._total = reader, screen, total
        self._done = 0
        self._frames: dict[ShownClip, Frames] = {}
        self._change = cache(_change)  # so that each file is hashed once
        self._wanted: Loaded | None = None
        self._engine: Engine | None = None
        self._fault = ""
        """The reason why the wanted engine can't be loaded."""

    def verdict(self, entry: Entry) -> dict[str, Any]:
        """Returns the object that --json prints for a row; an error of the row becomes the object's `reason`.

        `token` is the number of the first token that differs, from 1; None if only the text or a probability differs.
        """
        self._done += 1
        now, reason, then = None, entry.reason, entry.recorded.turn if entry.recorded else None
        before = after = None
        if entry.recorded:
            try:
                now, after = self._turn(entry.recorded)
                before = entry.recorded.agreement
            except VllavaError as exc:
                reason = str(exc)
        kind, token = "cannot", None
        if then and now:
            token = None if then.probabilities else first_other(then, now)
            is_agreed = before is None or (after is not None and before.answers == after.answers)
            kind = "same" if token is None and is_agreed and _is_same(then, now) else "differs"
        return {
            "row": entry.number,
            "id": entry.id,
            "verdict": kind,
            "token": token,
            "then": _answer_row(then, before) if then and now else None,
            "now": _answer_row(now, after if before else None) if now else None,
            "reason": reason or None,
            "others": list(others(entry.recorded.making.loaded)) if entry.recorded else [],
        }

    def _turn(self, recorded: Recorded) -> tuple[Turn, Agreement | None]:
        """Answers the row's question again and returns the new turn. Errors: any VllavaError."""
        clips, agreeing = samples_of(recorded), recorded.making.agreeing
        with self._screen.waiting(f"{self._done:,}/{self._total:,} Reading frames"):
            for clip in recorded.making.clips:
                self._check(clip)
            known = self._frames  # clips of the row before aren't decoded again
            self._frames = {clip: known.get(clip) or _sampled(clip, self._reader) for clip in clips}
        frames = [self._frames[clip] for clip in clips]
        if agreeing:
            return self._agreed(recorded, agreeing, frames)
        for clip, each in zip(clips, frames, strict=True):
            _check_times(Path(clip.path), [clip.times_s], [each])
        conversation = conversation_of(recorded, frames)
        engine = self._loaded(recorded.making.loaded, {each.kind for each in frames} or {"video"})
        if not all(engine.tokens.can_hold(turn.answer_ids) for turn in conversation.turns):
            raise ReplayError("an earlier answer has token ids that this model can't produce")
        conversation.dropped = dropped(conversation, recorded.turn, engine.tokens)
        with self._screen.waiting(f"{self._done:,}/{self._total:,} Answering"):
            for _ in engine.stream(conversation, recorded.turn.question, recorded.sampling):
                pass
        return conversation.turns[-1], None

    def _agreed(
        self, recorded: Recorded, agreeing: Agreeing, samples: Sequence[Frames]
    ) -> tuple[Turn, Agreement | None]:
        """Answers the row's question about each sample of its clip again, and joins the answers."""
        from vllava_cli.engine.agreement import agreed, answers_about, distinct

        clip, then = recorded.making.clips[0], recorded.agreement
        samples = list(distinct(dict(enumerate(samples))).values())
        _check_times(Path(clip.path), then.times_s if then else [clip.times_s], samples)
        question, sampling, fit = recorded.turn.question, recorded.turn.sampling, recorded.making.fit
        engine = self._loaded(recorded.making.loaded, {samples[0].kind})
        dropped(Conversation(attached=(samples[0],), fit=fit), recorded.turn, engine.tokens)
        with self._screen.waiting(f"{self._done:,}/{self._total:,} Answering"):
            answers = answers_about(engine, samples, question, sampling, fit)
        times_s, kind = [frames.times_s for frames in samples], samples[0].kind
        number, answer = agreed(answers, times_s, agreeing, sampling, kind=kind)
        return answer.turn(question, (samples[number],), sampling), answer.agreement

    def _check(self, clip: ShownClip) -> None:
        """Checks that a clip's file is still what it was. Errors: ReplayError."""
        if clip.path == STDIN:
            raise ReplayError("its clip came from stdin and wasn't saved")
        if "://" in clip.path and scheme_of(clip.path):
            url = without_secrets(clip.path)
            raise ReplayError(f"its clip is the URL {url}: save it, and put that path in the row")
        if change := self._change(Path(clip.path), clip.bytes, clip.sha256):
            raise ReplayError(change)

    def _loaded(self, wanted: Loaded, kinds: Collection[MediaKind]) -> Engine:
        """Returns the engine that a row asks for; the last engine is reused if it is the same. Errors: ReplayError."""
        wanted = replace(wanted, versions=())
        if wanted != self._wanted:
            self._wanted = wanted
            if self._engine:
                from vllava_cli.engine.forward import free

                device, self._engine = self._engine.plan.device, None
                free(device)
            try:
                self._engine = _load(wanted, kinds, self._screen)
            except VllavaError as exc:
                self._fault = str(exc)
        if self._engine is None:
            raise ReplayError(self._fault)
        return self._engine


def samples_of(recorded: Recorded) -> tuple[ShownClip, ...]:
    """Returns the clips of a row, or all samples of its one clip, without times, if it was sampled several times."""
    clips, agreeing = recorded.making.clips, recorded.making.agreeing
    if not agreeing:
        return clips
    (shown,) = clips
    framings = [replace(shown.framing, shift=shift) for shift in agreeing.shifts(shown.framing)]
    return tuple(replace(shown, framing=framing, times_s=None) for framing in framings)


def _answer_row(turn: Turn, agreement: Agreement | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"answer": turn.answer, "stop_reason": turn.stop_reason}
    if agreement:
        row["answers"] = list(agreement.answers)
    chances = by_choice(turn.sampling.choices, turn.probabilities)
    return row | {"probabilities": chances} if chances else row


def verdict_lines(verdict: Mapping[str, Any]) -> str:
    """Writes a verdict as lines, with both answers if they differ; a line break inside a text becomes a space."""
    kind, name = verdict["verdict"], verdict["id"] or f"row {verdict['row']}"
    lines = [f"{name}: can't: {verdict['reason'].removesuffix('.')}" if kind == "cannot" else f"{name}: {kind}"]
    if kind == "differs":
        lines[0] += f" at token {verdict['token']}" if verdict["token"] else ""
        for when in ("then", "now"):
            said, chances = verdict[when], verdict[when].get("probabilities", {})
            end = shares(tuple(chances), tuple(chances.values())) or said["stop_reason"]
            samples = f"; samples: {' | '.join(said['answers'])}" if "answers" in said else ""
            lines.append(f"  {when + ':':<5} {said['answer']} ({end}{samples})")
    return "".join(" ".join(line.splitlines()) + "\n" for line in lines)


def first_other(then: Turn, now: Turn) -> int | None:
    """Returns the number of the first token that differs, from 1; None if no token and no stop reason differs.

    If one answer only ends earlier, or for another reason, the number is that after the last common token. An answer
    that Ctrl-C stopped is compared up to its last token.
    """
    old, new = then.answer_ids, now.answer_ids
    is_end_same = then.stop_reason == now.stop_reason
    if then.stop_reason == "interrupted":
        new, is_end_same = new[: len(old)], True
    if old == new and is_end_same:
        return None
    pairs = zip(old, new, strict=False)
    return next((place for place, (left, right) in enumerate(pairs, 1) if left != right), min(len(old), len(new)) + 1)


def _is_same(then: Turn, now: Turn) -> bool:
    """Compares texts and probabilities; the text of an answer that Ctrl-C stopped may lack its end."""
    is_cut = then.stop_reason == "interrupted" and now.answer.startswith(then.answer)
    is_near = len(then.probabilities) == len(now.probabilities) and all(
        abs(old - new) <= TOLERANCE for old, new in zip(then.probabilities, now.probabilities, strict=True)
    )
    return (is_cut or then.answer == now.answer) and is_near


@gc_paused()
def _load(wanted: Loaded, kinds: Collection[MediaKind], screen: Screen) -> Engine:
    """Loads the engine that a row asks for.

    Errors: ReplayError, before a weight is read, if the engine would differ from the row's; any VllavaError.
    """
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
    # `check` does nothing: a prompt that a shorter context can't hold is refused when its row is replayed.
    return start(wishes, tokens, kinds, screen.log, Stopwatch(), check=lambda _: None)[0]


def conversation_of(recorded: Recorded, frames: Sequence[Frames]) -> Conversation:
    """Makes the conversation as it was before the row's question; earlier turns have the answers of their rows."""
    left = list(frames)
    turns = []
    for each in recorded.earlier:
        count = len(each.making.clips) - (len(frames) - len(left))  # the clips that came with this turn
        media, left = left[:count], left[count:]
        turns.append(replace(each.turn, media=tuple(media)))
    return Conversation(attached=tuple(left), fit=recorded.making.fit, turns=turns)


def dropped(conversation: Conversation, then: Turn, tokens: Tokens) -> int:
    """Finds how many of the oldest turns weren't in the context: without these turns, the prompt is that of the row.

    Errors: ReplayError if no number of dropped turns gives that prompt.
    """
    from vllava_cli.engine.tokens import digest_of

    for gone in range(len(conversation.turns) + 1):
        ids = tokens.unchecked_ids(replace(conversation, dropped=gone), then.question)
        if digest_of(ids) == then.prompt_sha256:
            return gone
    raise ReplayError("the prompt's tokens differ here: the tokenizer's files have changed, or the row has")


def _sampled(clip: ShownClip, reader: Reader) -> Frames:
    """Reads the frames of a clip. Errors: ReplayError."""
    from vllava_cli.media.select import spread

    try:
        return spread(reader.sample(Path(clip.path), clip.framing), clip.framing.fit)
    except (MediaError, UsageError) as exc:
        raise ReplayError(str(exc)) from exc


def _check_times(path: Path, then: Sequence[tuple[float, ...] | None], now: Sequence[Frames]) -> None:
    """Raises a ReplayError if the frames are at other times than those of the row, a tuple for each sample."""
    found = [rounded_times(frames) for frames in now]
    if len(found) != len(then):
        samples = counted(len(then), "sample")
        raise ReplayError(f"{samples} of {quoted(path)} differed then, and {len(found)} differ now")
    for old, new in zip(then, found, strict=True):
        if old != new:
            times = f"{_seconds(old)} then, {_seconds(new)} now"
            raise ReplayError(f"the frames of {quoted(path)} are at other times: {times}")


def _change(path: Path, size_bytes: int | None, sha256: str | None) -> str | None:
    """Says how a clip's file differs from the size and hash in the row; None if it doesn't, or the row has neither."""
    if size_bytes is None:
        return f"the row has no size of {quoted(path)} beside its SHA-256" if sha256 else None
    return differs(path, Fingerprint(bytes=size_bytes, sha256=sha256)) if sha256 else resized(path, size_bytes)


def _chosen(rows: str, ids: Collection[str]) -> list[Entry]:
    """Reads the rows to replay. Errors: UsageError if there are none, or an id is in no row."""
    name = "stdin" if rows == STDIN else f"'{rows}'"
    every = [entry for entry in entries(_rows(rows)) if not ids or entry.id in ids]
    if unknown := set(ids) - {entry.id for entry in every}:
        raise UsageError(f"No row of {name} has the id {min(unknown)}: jq -r .id lists them.")
    if not every:
        raise UsageError(f"{name} has no rows. Name what ask --json, chat --json or batch wrote.")
    return every


def _rows(name: str) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a file, or those on stdin if `name` is "-". Errors: UsageError."""
    try:
        if name == STDIN:
            stdin = sys.stdin.buffer if sys.stdin else None
            yield from rows_in(piped(stdin, "… | vllava replay -, or name a file"), Path("stdin"))
        else:
            yield from read_rows(Path(name))
    except OutputError as exc:
        raise UsageError(str(exc)) from exc


def _grouped(chosen: Sequence[Entry]) -> list[Entry]:
    """Puts the rows of each engine together, engines in order of their first row.

    A row that can't be replayed goes with the row before it.
    """
    order: dict[Loaded, int] = {}
    last = 0
    keyed = []
    for entry in chosen:
        if entry.recorded:
            last = order.setdefault(replace(entry.recorded.making.loaded, versions=()), len(order))
        keyed.append((last, entry))
    return [entry for _, entry in sorted(keyed, key=lambda pair: pair[0])]


def _seconds(times_s: Sequence[float] | None) -> str:
    return "no time" if times_s is None else ", ".join(f"{time_s:g}" for time_s in times_s) + " s"


def _worded(value: object) -> str:
    return "none" if value is None else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
