"""The file of a chat: a journal whose first row is the header, then a row for each turn and each undo.

Rows are only appended: a turn's row replaces the turn with its number and all later ones, an undo's row removes them. A
turn that was appended stays, whatever process dies. A file that can't be a session is refused with one sentence and
isn't changed. Each field is checked when it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from vllava_cli import __version__
from vllava_cli.answers import MOST_SAMPLES, Sampling, Turn
from vllava_cli.errors import OutputError, SessionError, quoted
from vllava_cli.media.fingerprint import Fingerprint
from vllava_cli.nouns import (
    FRAMES_PER_CLIP,
    WHITE,
    Fit,
    Framing,
    MediaKind,
)
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.files import as_output_error
from vllava_cli.storage.jsonl import Journal, read_rows

VERSION = 1
MAX_BYTES = 64 << 20
"""The largest session file that is read; a turn has some kB."""


@dataclass(frozen=True, kw_only=True)
class MediumRecord:
    """A clip as it was shown: its path, its fingerprint, and the times of the frames that the model saw."""

    path: Path
    """The absolute path."""
    kind: MediaKind
    fingerprint: Fingerprint
    framing: Framing
    """The framing; its fit is that of the session."""
    times_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TurnRecord:
    """A turn without its frames, and records of the clips that the frames came from."""

    turn: Turn
    media: tuple[MediumRecord, ...]
    """The clips attached to this question; the first turn has those that the session was opened with."""
    ended_at: str
    """UTC, to the second: 2026-11-22T19:40:05Z."""


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """A session: its model, its turns without those undone or replaced, and the clips for the next question."""

    model: str
    revision: str | None
    fit: Fit
    started_at: str
    adapter: str | None = None
    turns: tuple[TurnRecord, ...] = ()
    attached: tuple[MediumRecord, ...] = ()

    @property
    def media(self) -> tuple[MediumRecord, ...]:
        """All clips in the order in which the prompt shows them."""
        return tuple(medium for turn in self.turns for medium in turn.media) + self.attached

    @property
    def background(self) -> str:
        """The background of its last clip, which is that of the next."""
        return self.media[-1].framing.background if self.media else WHITE


def create(path: Path, record: SessionRecord) -> Journal:
    """Creates a session file for its user alone, and the missing folders above it. Errors: LockedError, OutputError.

    No other process may write to the file until the journal is closed.
    """
    missing = [parent for parent in path.absolute().parents if not os.path.lexists(parent)]
    with as_output_error(path):
        for parent in reversed(missing):
            parent.mkdir(0o700, exist_ok=True)
    _check_free(path)
    journal = Journal.open(path, is_private=True)
    is_new = journal.is_empty
    try:
        if not is_new:
            raise OutputError(_taken(path))
        journal.extend(rows_of(record))
    except BaseException:
        if is_new:
            with suppress(OSError):
                path.unlink()
        journal.close()
        raise
    return journal


def begin(folder: Path, record: SessionRecord, now: datetime) -> Journal:
    """Creates a session with a unique name, even if other sessions begin in the same second.

    Names sort by time: 2026-11-22T19-40-05Z.jsonl, then 2026-11-22T19-40-05Z_2.jsonl.
    """
    stem = now.astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for number in range(1, 1000):
        path = folder / (f"{stem}.jsonl" if number == 1 else f"{stem}_{number}.jsonl")
        try:
            return create(path, record)
        except OutputError:
            if not os.path.lexists(path):
                raise
    raise OutputError(f"{quoted(folder)} has no free name for a session. Try again.")


def resume(path: Path) -> tuple[Journal, SessionRecord]:
    """Opens a session that is to be continued, and reads it. Errors: SessionError, LockedError, OutputError."""
    read(path)  # before the journal may repair a file that isn't a session
    journal = Journal.open(path, is_private=True)
    try:
        return journal, read(path)
    except BaseException:
        journal.close()
        raise


def read(path: Path) -> SessionRecord:
    """Reads a session file that may be in use; a torn last row is left out. Errors: SessionError."""
    try:
        with suppress(OSError):
            if path.stat().st_size > MAX_BYTES:
                raise SessionError(f"it is larger than {MAX_BYTES >> 20} MiB")
        return _folded(read_rows(path))
    except SessionError as exc:
        raise SessionError(
            f"{quoted(path)} can't be used as a session: {exc}. Name another file, or start a new session."
        ) from exc
    except OutputError as exc:
        raise SessionError(str(exc)) from exc


def sessions_folder() -> Path:
    """Returns the folder for sessions without a path from the user: ~/.local/state/vllava/sessions on Linux."""
    from platformdirs import user_state_path

    return user_state_path("vllava", appauthor=False) / "sessions"


def sessions(folder: Path) -> Iterator[tuple[Path, SessionRecord]]:
    """Yields the sessions in a folder, the last written one first; unreadable ones are left out."""
    dated = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                if path.suffix == ".jsonl":
                    dated.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(dated, reverse=True):
        with suppress(SessionError):
            yield path, read(path)


def rows_of(record: SessionRecord) -> Iterator[dict[str, object]]:
    """Yields the rows of a session: its header, its turns, and, for attached clips, an undo that removes no turn."""
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
    for number, turn in enumerate(record.turns, 1):
        yield turn_row(number, turn)
    if record.attached:
        yield undo_row(len(record.turns) + 1, record.attached)


def turn_row(number: int, record: TurnRecord) -> dict[str, object]:
    """Returns the row of a turn, which replaces an earlier turn with this number and all later ones."""
    turn = record.turn
    return {
        "type": "turn",
        "number": number,
        "question": turn.question,
        "answer": turn.answer,
        "answer_ids": turn.answer_ids,
        "stop_reason": turn.stop_reason,
        "probabilities": turn.probabilities,
        "media": list(map(_medium_row, record.media)),
        "sampling": {name: value for name, value in asdict(turn.sampling).items() if name != "blank_choice" or value},
        "stats": asdict(turn.stats),
        "ended_at": record.ended_at,
    }


def undo_row(number: int, attached: Sequence[MediumRecord] = ()) -> dict[str, object]:
    """Returns the row that removes the turn with this number and all later ones, and then attaches clips."""
    return {"type": "undo", "number": number, "media": list(map(_medium_row, attached))}


def read_sampling(fields: Fields) -> Sampling:
    """Reads the sampling in a session's or an answer's row. Errors: those of `fields`."""
    return fields.build(
        Sampling,
        max_new_tokens=fields.whole("max_new_tokens", least=1),
        temperature=fields.number("temperature", least=0, most=100.0),
        top_p=fields.number("top_p", least=0, most=1.0),
    )


def framing_row(framing: Framing) -> dict[str, object]:
    """Returns the object that `read_framing` reads, without the fit and without wishes that older releases lack."""
    row = asdict(framing) | {"at_s": list(framing.at_s)}
    new = {"background": WHITE, "is_as_stored": False, "shift": 0.0, "pick": "uniform"}
    return {key: value for key, value in row.items() if key != "fit" and (key not in new or value != new[key])}


def read_framing(fields: Fields, fit: Fit) -> Framing:
    """Reads the framing in a session's or an answer's row. Errors: those of `fields`."""
    background = fields.text("background") if fields.has("background") else WHITE
    if not re.fullmatch("#[0-9a-f]{6}", background):
        fields.refuse("background", f"{background!r}, not a colour like {WHITE}")
    at_s = fields.each("at_s", Fields.seconds, most=FRAMES_PER_CLIP)
    shift = fields.number("shift", least=0, most=1 - 1 / MOST_SAMPLES) if fields.has("shift") else 0.0
    return fields.build(Framing, at_s=at_s, fit=fit, background=background, shift=shift)


def _medium_row(medium: MediumRecord) -> dict[str, object]:
    return {
        "path": os.fspath(medium.path),
        "kind": medium.kind,
        **asdict(medium.fingerprint),
        "framing": framing_row(medium.framing),
        "times_s": medium.times_s,
    }


def _folded(rows: Iterable[Mapping[str, Any]]) -> SessionRecord:
    """Builds a session from its rows. Errors: SessionError with a fragment: "line 3: answer_ids is missing"."""
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


def _header(fields: Fields) -> SessionRecord:
    fields.one_of("type", ("session",))
    version = fields.whole("version", least=1)
    if version > VERSION:
        raise SessionError(f"its version is {version}, but this vllava reads up to {VERSION}: update vllava")
    return SessionRecord(
        model=fields.filled("model"),
        revision=fields.maybe("revision", fields.filled),
        fit=fields.one_of("fit", get_args(Fit)),
        started_at=fields.moment("started_at"),
        adapter=fields.filled("adapter") if fields.has("adapter") else None,
    )


def _turn(fields: Fields, fit: Fit) -> TurnRecord:
    sampling = read_sampling(fields.inside("sampling"))
    probabilities: tuple[float, ...] = ()
    if fields.has("probabilities"):  # files of older versions have none
        probabilities = fields.each("probabilities", lambda values, place: values.number(place, least=0, most=1.0))
    if len(probabilities) not in (0, len(sampling.choices)):
        fields.refuse("probabilities", f"{len(probabilities)} numbers for {len(sampling.choices)} choices")
    turn = fields.build(Turn, media=(), sampling=sampling, probabilities=probabilities, prompt_sha256="")
    return TurnRecord(turn=turn, media=_media(fields, fit), ended_at=fields.moment("ended_at"))


def _media(fields: Fields, fit: Fit) -> tuple[MediumRecord, ...]:
    return fields.each("media", lambda media, place: _medium(media.inside(place), fit))


def _medium(fields: Fields, fit: Fit) -> MediumRecord:
    return MediumRecord(
        path=fields.path("path"),
        kind=fields.one_of("kind", get_args(MediaKind)),
        fingerprint=Fingerprint(bytes=fields.whole("bytes"), sha256=fields.sha256("sha256")),
        framing=read_framing(fields.inside("framing"), fit),
        times_s=fields.each("times_s", Fields.number),
    )


def _check_free(path: Path) -> None:
    """Raises an OutputError if the path exists and isn't an empty file."""
    if os.path.isdir(path):
        raise OutputError(f"{quoted(path)} is a folder. Name a file.")
    if os.path.lexists(path) and not (os.path.isfile(path) and path.stat().st_size == 0):
        raise OutputError(_taken(path))


def _taken(path: Path) -> str:
    return f"{quoted(path)} is already there. Name another file."
