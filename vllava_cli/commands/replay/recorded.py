"""Rows of ask, chat and batch as what it takes to make their answers again; each field is distrusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from vllava_cli.commands.provenance import MADE_WITH, Making, ShownClip, is_drawn, read_making
from vllava_cli.errors import ReplayError
from vllava_cli.nouns import Sampling, StopReason
from vllava_cli.plural import counted
from vllava_cli.storage.fields import Fields


@dataclass(frozen=True, kw_only=True)
class RecordedClip:
    """A clip as a row names it."""

    path: str
    times_s: tuple[float, ...] | None
    """Of its frames, to four digits; None for an image."""
    shown: ShownClip


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a row says of its answer and of all that it follows from."""

    question: str
    answer: str
    stop_reason: StopReason
    probabilities: Mapping[str, float]
    """Of each choice; none where nothing was to be chosen."""
    stray: int
    clips: tuple[RecordedClip, ...]
    making: Making
    earlier: tuple[Recorded, ...] = ()
    """The turns before it, in a chat."""

    @property
    def sampling(self) -> Sampling:
        """An answer that Ctrl-C stopped is made again as far as it went."""
        sampling = self.making.sampling
        if self.stop_reason != "interrupted":
            return sampling
        return replace(sampling, max_new_tokens=max(1, len(self.making.answer_ids) + self.stray))

    @property
    def new_clips(self) -> tuple[RecordedClip, ...]:
        """Those that came with this question."""
        return self.clips[len(self.earlier[-1].clips) :] if self.earlier else self.clips


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the file; without `recorded` there is a `reason` why it can't be replayed."""

    number: int
    """From 1."""
    id: str | None = None
    recorded: Recorded | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        return self.id or f"row {self.number}"


def entries(rows: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    """One for each row, in their order; what came before a turn of a chat is taken from the rows before it."""
    talks: dict[str, list[Entry]] = {}
    for number, row in enumerate(rows, 1):
        id = row.get("id")
        entry = Entry(number=number, id=id if isinstance(id, str) else None)
        fields = Fields(row, f"row {number}", error=ReplayError)
        try:
            found = replace(entry, recorded=_recorded(row, fields, talks))
        except ReplayError as exc:
            found = replace(entry, reason=str(exc))
        _note(row, found, talks)
        yield found


def _recorded(row: Mapping[str, Any], fields: Fields, talks: Mapping[str, list[Entry]]) -> Recorded:
    if (error := row.get("error")) is not None:
        kind = error.get("kind") if isinstance(error, dict) else error
        raise ReplayError(f"the row is an error ({kind}), which has no answer")
    if not fields.has(MADE_WITH):
        raise ReplayError(f"{MADE_WITH} is missing: an older vllava wrote the row, or it isn't an answer's")
    making = read_making(
        fields.inside(MADE_WITH), model=fields.filled("model"), revision=fields.maybe("revision", fields.filled)
    )
    found = Recorded(
        question=fields.text("question"),
        answer=fields.text("answer"),
        stop_reason=fields.one_of("stop_reason", get_args(StopReason)),
        probabilities=_probabilities(fields, making.sampling.choices),
        stray=fields.whole("stray"),
        clips=_clips(fields, making),
        making=making,
        earlier=_earlier(fields, talks) if fields.has("turn") else (),
    )
    _check(found)
    return found


def _check(found: Recorded) -> None:
    """Errors: ReplayError."""
    sampling = found.making.sampling
    if is_drawn(sampling) and sampling.seed is None:
        raise ReplayError("its tokens were drawn, and no seed is written down")
    if sampling.choices and found.stop_reason == "interrupted":
        raise ReplayError("it was interrupted before one of the choices was taken")
    if found.earlier and found.clips[: len(found.earlier[-1].clips)] != found.earlier[-1].clips:
        raise ReplayError("its clips don't begin with those of the turn before it")


def _clips(fields: Fields, making: Making) -> tuple[RecordedClip, ...]:
    """A batch's row has one clip in itself, the others have a list. Errors: ReplayError."""
    if fields.has("clips"):
        named = fields.each("clips", lambda clips, place: _named(clips.inside(place)))
    else:
        named = (_named(fields),)
    if len(named) != len(making.clips):
        raise ReplayError(f"it names {counted(len(named), 'clip')}, and {MADE_WITH} has {len(making.clips)}")
    return tuple(
        RecordedClip(path=path, times_s=times_s, shown=shown)
        for (path, times_s), shown in zip(named, making.clips, strict=True)
    )


def _named(fields: Fields) -> tuple[str, tuple[float, ...] | None]:
    times_s = fields.maybe("frame_times_s", lambda key: fields.each(key, Fields.number))
    return fields.name("path"), times_s


def _probabilities(fields: Fields, choices: tuple[str, ...]) -> dict[str, float]:
    if not choices or fields.one_of("stop_reason", get_args(StopReason)) == "interrupted":
        return {}
    parts = fields.inside("probabilities")
    return {choice: parts.number(choice, least=0, most=1) for choice in choices}


def _earlier(fields: Fields, talks: Mapping[str, list[Entry]]) -> tuple[Recorded, ...]:
    """The turns before this one. Errors: ReplayError where one isn't in the file or can't be used."""
    turn, session = fields.whole("turn", least=1), fields.maybe("session", fields.text)
    before = talks.get(session or "", [])[: turn - 1]
    if len(before) < turn - 1:
        raise ReplayError(f"turn {len(before) + 1} of its conversation isn't among the rows before it")
    for number, entry in enumerate(before, 1):
        if entry.recorded is None:
            raise ReplayError(f"turn {number} of its conversation can't be used: {entry.reason}")
    return tuple(entry.recorded for entry in before if entry.recorded)


def _note(row: Mapping[str, Any], entry: Entry, talks: dict[str, list[Entry]]) -> None:
    """A turn replaces that of its number and all behind it: these were undone."""
    turn, session = row.get("turn"), row.get("session")
    if isinstance(turn, int) and isinstance(session, str):
        talk = talks.setdefault(session, [])
        if 1 <= turn <= len(talk) + 1:
            talk[turn - 1 :] = [entry]
