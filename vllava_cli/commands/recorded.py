"""Rows of ask, chat and batch as values that their answers can be made again from, and what became of each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from vllava_cli.choices import by_choice, shares
from vllava_cli.commands.provenance import MADE_WITH, Making, ShownClip, is_drawn, read_making
from vllava_cli.errors import ReplayError
from vllava_cli.nouns import Sampling, StopReason, Turn, counted
from vllava_cli.storage.fields import Fields

TOLERANCE = 1e-4
"""The probability of a choice may differ by this much."""


@dataclass(frozen=True, kw_only=True)
class RecordedClip:
    """A clip as a row names it."""

    path: str
    times_s: tuple[float, ...] | None
    """The times of its frames, to four digits; None for an image."""
    shown: ShownClip


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """An answer as its row has it, with all that it follows from."""

    question: str
    answer: str
    stop_reason: StopReason
    probabilities: Mapping[str, float]
    """The probability of each choice; none where nothing was to be chosen."""
    stray: int
    clips: tuple[RecordedClip, ...]
    making: Making
    earlier: tuple[Recorded, ...] = ()
    """The turns before it, in a chat."""

    @property
    def sampling(self) -> Sampling:
        """The sampling of the replay: an answer that Ctrl-C stopped is made again as far as it went."""
        sampling = self.making.sampling
        if self.stop_reason != "interrupted":
            return sampling
        return replace(sampling, max_new_tokens=max(1, len(self.making.answer_ids) + self.stray))

    @property
    def new_clips(self) -> tuple[RecordedClip, ...]:
        """The clips that came with this question."""
        return self.clips[len(self.earlier[-1].clips) :] if self.earlier else self.clips


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the file; without `recorded` there is a `reason` why it can't be replayed."""

    number: int
    """The row's number, from 1."""
    id: str | None = None
    recorded: Recorded | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        return self.id or f"row {self.number}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome for a row: the same answer, another one from some token on, or none, for a reason."""

    entry: Entry
    kind: Literal["same", "differs", "cannot"]
    then: Recorded | None = None
    now: Turn | None = None
    token: int | None = None
    """The first that is another, from 1; None where only the text or a probability is."""
    reason: str = ""
    others: tuple[str, ...] = ()
    """Libraries that have other releases now."""

    @classmethod
    def of(cls, entry: Entry, then: Recorded, now: Turn, others: tuple[str, ...]) -> Verdict:
        """Compares the answer of a row with the one that was made now."""
        token = None if then.probabilities else first_other(then, now)
        is_same = token is None and _is_text_same(then, now) and _are_close(then.probabilities, _chances(now))
        kind: Literal["same", "differs"] = "same" if is_same else "differs"
        return cls(entry=entry, kind=kind, then=then, now=now, token=token, others=others)

    def row(self) -> dict[str, Any]:
        """The object of --json."""
        return {
            "row": self.entry.number,
            "id": self.entry.id,
            "verdict": self.kind,
            "token": self.token,
            "then": _answer_row(self.then, self.then.probabilities) if self.then else None,
            "now": _answer_row(self.now, _chances(self.now)) if self.now else None,
            "reason": self.reason or None,
            "others": list(self.others),
        }

    def lines(self) -> str:
        """Write lines of text, with both answers where they differ; a break inside of a text becomes a space."""
        return "".join(" ".join(line.splitlines()) + "\n" for line in self._lines())

    def _lines(self) -> tuple[str, ...]:
        name = self.entry.name
        if self.kind == "cannot":
            return (f"{name}: can't: {self.reason.removesuffix('.')}",)
        if self.kind == "same" or not (self.then and self.now):
            return (f"{name}: same",)
        at = f" at token {self.token}" if self.token else ""
        then, now = _answer_line(self.then, self.then.probabilities), _answer_line(self.now, _chances(self.now))
        return (f"{name}: differs{at}", f"  then: {then}", f"  now:  {now}")


def entries(rows: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    """Yields one for each row, in their order; the turns before a turn of a chat are taken from the rows before it."""
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
    """Read the clips: a batch's row has one in itself, other rows have a list. Errors: ReplayError."""
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
    """Find the turns before this one. Errors: ReplayError where one isn't in the file or can't be used."""
    turn, session = fields.whole("turn", least=1), fields.maybe("session", fields.text)
    before = talks.get(session or "", [])[: turn - 1]
    if len(before) < turn - 1:
        raise ReplayError(f"turn {len(before) + 1} of its conversation isn't among the rows before it")
    for number, entry in enumerate(before, 1):
        if entry.recorded is None:
            raise ReplayError(f"turn {number} of its conversation can't be used: {entry.reason}")
    return tuple(entry.recorded for entry in before if entry.recorded)


def _note(row: Mapping[str, Any], entry: Entry, talks: dict[str, list[Entry]]) -> None:
    """Keep a turn; it replaces that of its number and all behind it, which were undone."""
    turn, session = row.get("turn"), row.get("session")
    if isinstance(turn, int) and isinstance(session, str):
        talk = talks.setdefault(session, [])
        if 1 <= turn <= len(talk) + 1:
            talk[turn - 1 :] = [entry]


def first_other(then: Recorded, now: Turn) -> int | None:
    """Counts to the first token that is another, from 1; one behind the last where only the end is."""
    old, new = then.making.answer_ids, now.answer_ids
    if then.stop_reason == "interrupted":
        new = new[: len(old)]
    same = _shared(old, new)
    is_end_same = then.stop_reason in ("interrupted", now.stop_reason)
    return None if same == len(old) == len(new) and is_end_same else same + 1


def _is_text_same(then: Recorded, now: Turn) -> bool:
    """Compares the texts; that of an answer that Ctrl-C stopped may lack its end."""
    return then.answer == now.answer or (then.stop_reason == "interrupted" and now.answer.startswith(then.answer))


def _are_close(then: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return all(abs(part - now.get(choice, -1.0)) <= TOLERANCE for choice, part in then.items())


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((place for place, (old, new) in enumerate(pairs) if old != new), min(len(left), len(right)))


def _chances(turn: Turn) -> dict[str, float]:
    return by_choice(turn.sampling.choices, turn.probabilities)


def _answer_row(said: Recorded | Turn, chances: Mapping[str, float]) -> dict[str, Any]:
    row = {"answer": said.answer, "stop_reason": said.stop_reason}
    return {**row, "probabilities": dict(chances)} if chances else row


def _answer_line(said: Recorded | Turn, chances: Mapping[str, float]) -> str:
    """ "A red circle. (end)", "yes (yes 93%, no 7%)" """
    return f"{said.answer} ({shares(tuple(chances), tuple(chances.values())) or said.stop_reason})"
