"""What a session file says, as values and as rows: `rows_of` writes them, `folded` reads them and distrusts each field.

A turn's row replaces the turn of its number and all behind it, an undo's row forgets them: a file is only appended to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from vllava_cli import __version__
from vllava_cli.errors import SessionError
from vllava_cli.nouns import FRAMES_PER_CLIP, Fit, Framing, MediaKind, Sampling, Stats, StopReason
from vllava_cli.storage.fields import Fields

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class MediumRecord:
    """A clip as it was shown: where it was, what it was, which moments of it the model saw."""

    path: Path
    """Absolute."""
    kind: MediaKind
    bytes: int
    sha256: str
    framing: Framing
    """Its fit is the session's."""
    times_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TurnRecord:
    """One question, the answer as it was shown and as the model gave it, and how it came about."""

    number: int
    """From 1."""
    question: str
    answer: str
    answer_ids: tuple[int, ...]
    stop_reason: StopReason
    media: tuple[MediumRecord, ...]
    """Attached to this question; the first one has the clips that the session was opened with."""
    sampling: Sampling
    stats: Stats
    ended_at: str
    """UTC, to the second: 2026-11-22T19:40:05Z."""
    probabilities: tuple[float, ...] = ()
    """Of each of the sampling's choices."""


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """A session: its model, its turns, those undone or replaced left out, and what comes with the next question."""

    model: str
    revision: str | None
    fit: Fit
    started_at: str
    adapter: str | None = None
    turns: tuple[TurnRecord, ...] = ()
    attached: tuple[MediumRecord, ...] = ()


def rows_of(record: SessionRecord) -> Iterator[dict[str, object]]:
    """The header, then the turns, then, as an undo of nothing, what is attached."""
    yield {
        "type": "session",
        "version": VERSION,
        "vllava": __version__,
        "model": record.model,
        "revision": record.revision,
        **({"adapter": record.adapter} if record.adapter else {}),
        "fit": record.fit,
        "started_at": record.started_at,
    }
    yield from map(turn_row, record.turns)
    if record.attached:
        yield undo_row(len(record.turns) + 1, record.attached)


def turn_row(turn: TurnRecord) -> dict[str, object]:
    return {
        "type": "turn",
        "number": turn.number,
        "question": turn.question,
        "answer": turn.answer,
        "answer_ids": list(turn.answer_ids),
        "stop_reason": turn.stop_reason,
        "probabilities": list(turn.probabilities),
        "media": [_medium_row(medium) for medium in turn.media],
        "sampling": asdict(turn.sampling) | {"choices": list(turn.sampling.choices)},
        "stats": asdict(turn.stats),
        "ended_at": turn.ended_at,
    }


def undo_row(number: int, attached: Sequence[MediumRecord] = ()) -> dict[str, object]:
    """`attached` are the media that come with the next question from then on."""
    return {"type": "undo", "number": number, "media": list(map(_medium_row, attached))}


def folded(rows: Iterable[Mapping[str, Any]]) -> SessionRecord:
    """The session that rows tell of. Errors: SessionError, a fragment: "line 3: answer_ids is missing"."""
    turns: list[TurnRecord] = []
    attached: tuple[MediumRecord, ...] = ()
    header: SessionRecord | None = None
    for line, row in enumerate(rows, 1):
        fields = Fields(row, f"line {line}", error=SessionError)
        if header is None:
            header = _header(fields)
            continue
        kind = fields.one_of("type", ("turn", "undo"))
        number = fields.whole("number", least=1)
        if number > len(turns) + 1:
            fields.refuse("number", f"{number}, but only {len(turns)} turns came before")
        if kind == "turn":
            turns[number - 1 :], attached = [_turn(fields, header.fit)], ()
        else:
            turns[number - 1 :], attached = [], _media(fields, header.fit)
    if header is None:
        raise SessionError("it is empty")
    return replace(header, turns=tuple(turns), attached=attached)


def _medium_row(medium: MediumRecord) -> dict[str, object]:
    framing = medium.framing
    return {
        "path": os.fspath(medium.path),
        "kind": medium.kind,
        "bytes": medium.bytes,
        "sha256": medium.sha256,
        "framing": {"start_s": framing.start_s, "end_s": framing.end_s, "at_s": list(framing.at_s)},
        "times_s": list(medium.times_s),
    }


def _header(fields: Fields) -> SessionRecord:
    fields.one_of("type", ("session",))
    version = fields.whole("version", least=1)
    if version > VERSION:
        raise SessionError(f"it is of version {version}, and this vllava reads up to {VERSION}: update vllava")
    return SessionRecord(
        model=fields.filled("model"),
        revision=fields.maybe("revision", fields.filled),
        fit=fields.one_of("fit", get_args(Fit)),
        started_at=fields.moment("started_at"),
        adapter=fields.filled("adapter") if fields.has("adapter") else None,
    )


def _turn(fields: Fields, fit: Fit) -> TurnRecord:
    sampling = read_sampling(fields.inside("sampling"))
    return TurnRecord(
        number=fields.whole("number", least=1),
        question=fields.text("question"),
        answer=fields.text("answer"),
        answer_ids=fields.each("answer_ids", Fields.whole),
        stop_reason=fields.one_of("stop_reason", get_args(StopReason)),
        media=_media(fields, fit),
        sampling=sampling,
        stats=_stats(fields.inside("stats")),
        ended_at=fields.moment("ended_at"),
        probabilities=_probabilities(fields, len(sampling.choices)),
    )


def _probabilities(fields: Fields, count: int) -> tuple[float, ...]:
    """Files from before there were choices have none."""
    if not fields.has("probabilities"):
        return ()
    found = fields.each("probabilities", lambda parts, place: parts.number(place, least=0, most=1.0))
    if len(found) not in (0, count):
        fields.refuse("probabilities", f"{len(found)} numbers for {count} choices")
    return found


def _media(fields: Fields, fit: Fit) -> tuple[MediumRecord, ...]:
    return fields.each("media", lambda media, place: _medium(media.inside(place), fit))


def _medium(fields: Fields, fit: Fit) -> MediumRecord:
    framing = fields.inside("framing")
    return MediumRecord(
        path=fields.path("path"),
        kind=fields.one_of("kind", get_args(MediaKind)),
        bytes=fields.whole("bytes"),
        sha256=fields.sha256("sha256"),
        framing=Framing(
            start_s=framing.maybe("start_s", framing.number),
            end_s=framing.maybe("end_s", framing.number),
            at_s=framing.each("at_s", Fields.number, most=FRAMES_PER_CLIP),
            fit=fit,
        ),
        times_s=fields.each("times_s", Fields.number),
    )


def read_sampling(fields: Fields) -> Sampling:
    """Of a session's or an answer's row. Errors: those of `fields`."""
    return Sampling(
        max_new_tokens=fields.whole("max_new_tokens", least=1),
        temperature=fields.number("temperature", least=0, most=100.0),
        top_p=fields.number("top_p", least=0, most=1.0),
        seed=fields.maybe("seed", fields.whole),
        has_guard=fields.truth("has_guard"),
        choices=fields.each("choices", Fields.text) if fields.has("choices") else (),
        is_calibrated=fields.truth("is_calibrated") if fields.has("is_calibrated") else False,
    )


def _stats(fields: Fields) -> Stats:
    return Stats(
        prompt_tokens=fields.whole("prompt_tokens"),
        reused_tokens=fields.whole("reused_tokens"),
        new_tokens=fields.whole("new_tokens"),
        stray_tokens=fields.whole("stray_tokens") if fields.has("stray_tokens") else 0,
        tower_calls=fields.whole("tower_calls"),
        first_token_s=fields.seconds("first_token_s"),
        decode_s=fields.seconds("decode_s"),
        frames_s=fields.seconds("frames_s"),
        load_s=fields.seconds("load_s"),
        peak_bytes=fields.maybe("peak_bytes", fields.whole),
    )
