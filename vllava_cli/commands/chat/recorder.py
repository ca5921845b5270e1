"""Writes a conversation to its session file, turn by turn; finds and lists sessions, and restores conversations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from vllava_cli.answers import Conversation, StopReason, Turn
from vllava_cli.commands.provenance import ShownClip
from vllava_cli.errors import MediaError, SessionError, VllavaError
from vllava_cli.media.fingerprint import Fingerprint, Hashing, differs
from vllava_cli.nouns import LAST, Frames, Framing, counted
from vllava_cli.screen import Screen, one_line
from vllava_cli.storage.jsonl import Journal, json_of
from vllava_cli.storage.session_file import (
    MediumRecord,
    SessionRecord,
    TurnRecord,
    begin,
    create,
    sessions,
    sessions_folder,
    turn_row,
    undo_row,
)

if TYPE_CHECKING:
    from vllava_cli.engine.tokens import Tokens

FramedClip = tuple[Path, Framing]
_Version = tuple[Path, Framing, object]
_CUT: tuple[StopReason, ...] = ("repetition", "interrupted")
"""After these stop reasons, an answer's text may lack its end: a stray letter, half of a character."""


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """The clip that frames came from; the file is hashed while the model loads and answers."""

    path: Path
    framing: Framing
    fingerprint: Future[Fingerprint]


class FrameCache:
    """Finds the frames of clips in use, so that no clip is decoded and encoded twice. It keeps no frames alive."""

    def __init__(self) -> None:
        self.origins: WeakKeyDictionary[Frames, _Origin] = WeakKeyDictionary()
        self._known: WeakValueDictionary[_Version, Frames] = WeakValueDictionary()
        self._hashing = Hashing()

    def frames(
        self, clips: Sequence[FramedClip], read: Callable[[Sequence[FramedClip]], Sequence[Frames]]
    ) -> tuple[Frames, ...]:
        """Returns the frames of all clips; `read` gives those of clips that aren't in use or have changed."""
        versions = {clip: _version(clip) for clip in clips}
        found = {clip: known for clip, version in versions.items() if (known := self._known.get(version))}
        missing = [clip for clip in versions if clip not in found]
        for clip, frames in zip(missing, read(missing) if missing else (), strict=True):
            self.add(clip, frames, versions[clip])
            found[clip] = frames
        return tuple(found[clip] for clip in clips)

    def add(self, clip: FramedClip, frames: Frames, version: _Version | None = None) -> None:
        """Notes which clip the frames came from, and begins to hash the clip's file."""
        path, framing = _absolute(clip[0]), clip[1]
        if frames not in self.origins:
            self.origins[frames] = _Origin(path=path, framing=framing, fingerprint=self._hashing.begin(path))
            self._known[version or _version(clip)] = frames

    def close(self) -> None:
        """Stops hashing; hashes that aren't done are given up."""
        self._hashing.close()


@dataclass(kw_only=True)
class SessionRecorder:
    """Writes one conversation after the other to session files; a file is made when its first turn is saved.

    A file that can't be written is reported once, and the chat goes on; later turns try again.
    """

    header: SessionRecord
    """The session without turns."""
    screen: Screen
    path: Path | None = None
    """The path at which the conversation's file is made; None → a new name in the folder of sessions."""
    file: Journal | None = None
    cache: FrameCache = field(default_factory=FrameCache)
    """The cache, which must have the frames of all clips of the conversation."""
    turns: list[Turn] = field(default_factory=list)
    """The turns that are in the file."""
    _is_fault_reported: bool = False

    def save(self, conversation: Conversation) -> None:
        """Writes to the file what changed in the conversation; a VllavaError is printed, not raised."""
        try:
            self._append_changes(conversation)
            self._is_fault_reported = False
        except VllavaError as exc:
            if not self._is_fault_reported:
                self._is_fault_reported = True
                self.screen.error(f"{exc} This conversation isn't kept; /save FILE writes it elsewhere.")

    def begin_another(self) -> None:
        """Closes the file, so that the next conversation is written to a file of its own."""
        self._close_file()
        self.turns = []
        self.path = None
        self._is_fault_reported = False
        self.header = replace(self.header, started_at=utc_now())

    def record(self, conversation: Conversation) -> SessionRecord:
        """Returns the conversation as a session. Errors: MediaError for a clip that can't be read any more."""
        return replace(
            self.header,
            fit=conversation.fit,
            turns=tuple(map(self._turn_record, conversation.turns)),
            attached=tuple(map(self._medium_record, conversation.attached)),
        )

    def shown(self, frames: Frames) -> ShownClip:
        """Describes a clip for a row; size and hash are None if the clip can't be read any more."""
        origin = self.cache.origins[frames]
        return ShownClip(framing=origin.framing, reasons=frames.reasons).hashed(self._hashed(origin))

    def close(self) -> None:
        """Stops hashing and closes the file."""
        self.cache.close()
        self._close_file()

    def _append_changes(self, conversation: Conversation) -> None:
        """Appends rows for the turns that differ from those in the file, or an undo row if turns were only removed."""
        turns = conversation.turns
        same = next(
            (number for number, (old, new) in enumerate(zip(self.turns, turns, strict=False)) if old is not new),
            min(len(self.turns), len(turns)),
        )
        if same == len(turns) < len(self.turns) and self.file:
            self.file.append(undo_row(same + 1, tuple(map(self._medium_record, conversation.attached))))
            del self.turns[same:]
        for number, turn in enumerate(turns[same:], same + 1):
            header, path = replace(self.header, fit=conversation.fit), self.path
            self.file = self.file or (
                create(path, header) if path else begin(sessions_folder(), header, datetime.now(UTC))
            )
            self.file.append(turn_row(number, self._turn_record(turn)))
            self.turns[number - 1 :] = [turn]

    def _turn_record(self, turn: Turn) -> TurnRecord:
        media = tuple(map(self._medium_record, turn.media))
        return TurnRecord(turn=replace(turn, media=()), media=media, ended_at=utc_now())

    def _medium_record(self, frames: Frames) -> MediumRecord:
        origin = self.cache.origins[frames]
        return MediumRecord(
            path=origin.path,
            kind=frames.kind,
            fingerprint=self._hashed(origin).result(),
            framing=origin.framing,
            times_s=frames.times_s,
        )

    def _hashed(self, origin: _Origin) -> Future[Fingerprint]:
        """Waits until the clip's fingerprint is computed, and returns it as a future that is done."""
        if not origin.fingerprint.done():
            with self.screen.waiting(f"Hashing {origin.path}, so that a later run recognises it"):
                origin.fingerprint.exception()
        return origin.fingerprint

    def _close_file(self) -> None:
        if self.file:
            self.file.close()
            self.file = None


def list_sessions(screen: Screen, *, is_json: bool) -> int:
    """Prints a line for each session, the one that was written to last first; returns 0."""
    folder = sessions_folder()
    found = list(sessions(folder))
    for path, record in found if is_json else ():
        row = {
            "id": path.stem,
            "path": str(path),
            "model": record.model,
            "started_at": record.started_at,
            "clips": list(dict.fromkeys(str(medium.path) for medium in record.media)),
            "questions": [each.turn.question for each in record.turns],
        }
        screen.answer(json_of(row) + "\n")
    if found and not is_json:
        screen.facts([(path.stem, _sentence(record)) for path, record in found], is_answer=True)
    elif not is_json:
        screen.notice(f"There is no session in {folder}: vllava chat CLIP begins one.")
    return 0


def find_session(id: str) -> Path:
    """Returns the file of the session with this id, or with the only id that begins so; LAST means the last session.

    Errors: SessionError.
    """
    folder = sessions_folder()
    found = (path for path, _ in sessions(folder))
    if id == LAST:
        if last := next(found, None):
            return last
        raise SessionError(f"There is no session to continue in {folder}: vllava chat CLIP begins one.")
    meant = [path for path in found if path.stem.startswith(id)]
    meant = [path for path in meant if path.stem == id] or meant
    if len(meant) == 1:
        return meant[0]
    fault = f"{len(meant)} sessions begin with {id}" if meant else f"There is no session {id} in {folder}"
    raise SessionError(f"{fault}: vllava chat --sessions lists them.")


def _sentence(record: SessionRecord) -> str:
    """Describes a session: "2 turns about dog.mp4. The last question: What is it doing?"."""
    about = ", ".join(one_line(path.name) for path in dict.fromkeys(medium.path for medium in record.media))
    last = f" The last question: {one_line(record.turns[-1].turn.question)}" if record.turns else ""
    return f"{counted(len(record.turns), 'turn')} about {about or 'no clip'}.{last}"


def clips_of(record: SessionRecord) -> tuple[FramedClip, ...]:
    """Returns the clips of a session in order, once for each framing. Errors: MediaError for a clip that is gone."""
    for medium in record.media:
        if not os.path.exists(medium.path):
            fault = differs(medium.path, medium.fingerprint)
            raise MediaError(f"{fault} The session is about it: put it back, or begin a new session.")
    return tuple(dict.fromkeys((medium.path, medium.framing) for medium in record.media))


def changes(record: SessionRecord) -> list[str]:
    """Returns a sentence for each clip whose file has changed since the session recorded it."""
    found = {medium.path: differs(medium.path, medium.fingerprint) for medium in record.media}
    return [f"{change} The answers so far are about the old clip." for change in found.values() if change]


def restored(
    record: SessionRecord, frames: Mapping[FramedClip, Frames], tokens: Tokens, *, model: str
) -> tuple[Conversation, int]:
    """Returns the conversation of a session, and how many of its answers had to be tokenised anew.

    An answer of another model, or one that was edited since, is tokenised anew: its old ids don't fit its text.
    """

    def shown(media: Sequence[MediumRecord]) -> tuple[Frames, ...]:
        return tuple(frames[medium.path, medium.framing] for medium in media)

    renewed = 0
    conversation = Conversation(attached=shown(record.attached), fit=record.fit, background=record.background)
    for each in record.turns:
        is_own = record.model == model and _is_own(each.turn, tokens)
        renewed += not is_own
        ids = each.turn.answer_ids if is_own else tokens.answer_ids(each.turn.answer)
        conversation.turns.append(replace(each.turn, media=shown(each.media), answer_ids=ids))
    return conversation, renewed


def utc_now() -> str:
    """Returns the time now, in UTC: 2026-11-22T19:40:05Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_own(turn: Turn, tokens: Tokens) -> bool:
    """Returns True if the ids of the turn's answer are this tokenizer's ids of its text.

    The ids of a choice may decode to another text: a role or special token in the choice is split before tokenising.
    """
    if turn.stop_reason == "choice" and turn.answer_ids == tokens.answer_ids(turn.answer):
        return True
    return tokens.are_of(turn.answer_ids, turn.answer, is_cut=turn.stop_reason in _CUT)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (resolve would name another file than the user did)


def _version(clip: FramedClip) -> _Version:
    """Returns values that differ once a clip's file is written to; for a folder, they differ in each call."""
    path, framing = clip
    facts: object = object()
    with suppress(OSError):
        found = path.stat()
        if S_ISREG(found.st_mode):
            facts = (found.st_ino, found.st_size, found.st_mtime_ns)
    return _absolute(path), framing, facts
