"""Reads rows of ask, chat and batch for replay, which makes their answers again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

from vllava_cli.answers import MOST_SAMPLES, Agreement, Sampling, Stats, StopReason, Turn
from vllava_cli.commands.provenance import AGREEMENT_KEYS, MADE_WITH, Making, ShownClip, is_drawn, read_making
from vllava_cli.errors import ReplayError
from vllava_cli.nouns import counted
from vllava_cli.prompt import MOST_LETTERS, heard, lettered
from vllava_cli.storage.fields import Fields


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """An answer that was read from a row, with all that the answer depends on."""

    turn: Turn
    """The turn, without media; of its stats, only the stray tokens are in the row."""
    making: Making
    """The making, whose clips also have their paths and times."""
    earlier: tuple[Recorded, ...] = ()
    """The turns before this one in the same conversation of a chat."""
    agreement: Agreement | None = None
    """How the answers about the samples of its clip agree; None where nothing was compared."""

    @property
    def sampling(self) -> Sampling:
        """The sampling for replay. If Ctrl-C stopped the answer, its number of tokens becomes the limit."""
        if self.turn.stop_reason != "interrupted":
            return self.turn.sampling
        made = len(self.turn.answer_ids) + self.turn.stats.stray_tokens
        return replace(self.turn.sampling, max_new_tokens=max(1, made))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a file: its answer in `recorded`, or the `reason` why the row can't be replayed."""

    number: int
    """The row's number, from 1."""
    id: str | None = None
    recorded: Recorded | None = None
    reason: str = ""


def entries(rows: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    """Yields an Entry for each row, in order; the earlier turns of a chat are taken from the rows before it."""
    talks: dict[str, list[Entry]] = {}
    for number, row in enumerate(rows, 1):
        id, turn, session = row.get("id"), row.get("turn"), row.get("session")
        entry = Entry(number=number, id=id if isinstance(id, str) else None)
        try:
            entry = replace(entry, recorded=_recorded(row, Fields(row, f"row {number}", error=ReplayError), talks))
        except ReplayError as exc:
            entry = replace(entry, reason=str(exc))
        if isinstance(turn, int) and isinstance(session, str):
            talk = talks.setdefault(session, [])
            if 1 <= turn <= len(talk) + 1:
                talk[turn - 1 :] = [entry]  # the turn that this row replaces, and those behind it, were undone
        yield entry


def _recorded(row: Mapping[str, Any], fields: Fields, talks: Mapping[str, list[Entry]]) -> Recorded:
    """Reads the answer of a row. Errors: ReplayError if the answer can't be made again."""
    if (error := row.get("error")) is not None:
        kind = error.get("kind") if isinstance(error, dict) else error
        raise ReplayError(f"the row is an error ({kind}), which has no answer")
    if row.get("of") == "texts":
        raise ReplayError("it is a summary of texts that the row doesn't have")
    if not fields.has(MADE_WITH):
        raise ReplayError(f"{MADE_WITH} is missing: the row is from an older vllava, or isn't an answer")
    making = read_making(
        fields.inside(MADE_WITH), model=fields.filled("model"), revision=fields.maybe("revision", fields.filled)
    )
    turn = _read_turn(fields, making)
    if is_drawn(turn.sampling) and turn.sampling.seed is None:
        raise ReplayError("its tokens were sampled, and the row has no seed")
    if turn.sampling.choices and turn.stop_reason == "interrupted":
        raise ReplayError("Ctrl-C stopped it before the likeliest choice was found")
    making = replace(making, clips=_named_clips(fields, making.clips))
    if making.agreeing and (len(making.clips) != 1 or fields.has("turn")):
        raise ReplayError("only an answer about one clip can be that of several samples")
    earlier = _earlier(fields, talks) if fields.has("turn") else ()
    known = earlier[-1].making.clips if earlier else ()
    if making.clips[: len(known)] != known:
        raise ReplayError("its clips don't begin with those of the turn before it")
    agreement = _read_agreement(fields) if making.agreeing else None
    return Recorded(turn=turn, making=making, earlier=earlier, agreement=agreement)


def _read_agreement(fields: Fields) -> Agreement | None:
    """Reads what `agreement_row` wrote. Errors: ReplayError."""
    return fields.maybe(AGREEMENT_KEYS[0], lambda key: _agreement(fields.inside(key)))


def _agreement(fields: Fields) -> Agreement:
    return Agreement(
        share=fields.number("share", least=0, most=1),
        answers=fields.each("answers", Fields.text, most=MOST_SAMPLES),
        times_s=fields.each("frame_times_s", lambda samples, place: samples.each(place, Fields.number)),
    )


def _read_turn(fields: Fields, making: Making) -> Turn:
    """Reads the turn of a row, without media; its question is the text that the model read. Errors: ReplayError."""
    choices, stop_reason = making.sampling.choices, fields.one_of("stop_reason", get_args(StopReason))
    parts = fields.inside("probabilities") if choices and stop_reason != "interrupted" else None
    stray, question = fields.whole("stray"), fields.text("question")
    if making.has_letters:
        question = lettered(question, _texts(fields, len(choices)))
    return Turn(
        question=heard(making.spoken.text if making.spoken else "", question),
        answer=fields.text("answer"),
        answer_ids=making.answer_ids,
        stop_reason=stop_reason,
        sampling=making.sampling,
        stats=Stats(
            prompt_tokens=0, reused_tokens=0, new_tokens=0, stray_tokens=stray, first_token_s=0.0, decode_s=0.0
        ),
        probabilities=tuple(parts.number(choice, least=0, most=1) for choice in choices) if parts else (),
        prompt_sha256=making.prompt_sha256,
    )


def _texts(fields: Fields, count: int) -> tuple[str, ...]:
    """Reads the texts of the choices whose letters were compared. Errors: ReplayError."""
    texts = fields.each("choices", Fields.text, most=MOST_LETTERS)
    if len(texts) != count:
        fields.refuse("choices", f"{counted(len(texts), 'text')} for {counted(count, 'letter')}")
    return texts


def _named_clips(fields: Fields, shown: Sequence[ShownClip]) -> tuple[ShownClip, ...]:
    """Adds paths and times to the clips: a batch's row has those of its one clip, other rows have a list of clips.

    Errors: ReplayError.
    """
    has_list = fields.has("clips")
    named = fields.each("clips", lambda clips, place: clips.inside(place)) if has_list else (fields,)
    found = [(each.name("path"), each.maybe("frame_times_s", partial(each.each, read=Fields.number))) for each in named]
    if len(found) != len(shown):
        raise ReplayError(f"it names {counted(len(found), 'clip')}, and {MADE_WITH} has {len(shown)}")
    pairs = zip(shown, found, strict=True)
    return tuple(replace(clip, path=path, times_s=times_s) for clip, (path, times_s) in pairs)


def _earlier(fields: Fields, talks: Mapping[str, list[Entry]]) -> tuple[Recorded, ...]:
    """Finds the turns before the row's turn. Errors: ReplayError if one isn't in the file or can't be used."""
    turn, session = fields.whole("turn", least=1), fields.maybe("session", fields.text)
    before = talks.get(session or "", [])[: turn - 1]
    if len(before) < turn - 1:
        raise ReplayError(f"turn {len(before) + 1} of its conversation isn't among the rows before it")
    for number, entry in enumerate(before, 1):
        if entry.recorded is None:
            raise ReplayError(f"turn {number} of its conversation can't be used: {entry.reason}")
    return tuple(entry.recorded for entry in before if entry.recorded)
