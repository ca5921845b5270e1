"""Keeps a conversation: each turn is in its session file as soon as it ends, and what is undone is undone there too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakKeyDictionary

from vllava_cli.commands.provenance import ShownClip
from vllava_cli.errors import MediaError, VllavaError
from vllava_cli.media.fingerprint import Fingerprint, Hashing
from vllava_cli.nouns import Conversation, Frames, Framing, Turn
from vllava_cli.screen import Screen
from vllava_cli.session.session_file import MediumRecord, SessionFile, SessionRecord, TurnRecord, sessions_folder


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where frames came from; the file is hashed while the model loads and answers."""

    path: Path
    framing: Framing
    fingerprint: Future[Fingerprint]


@dataclass(kw_only=True)
class Keeping:
    """Writes one conversation after the other to session files, each of which begins with its first turn.

    A file that can't be written is told once, and asking goes on; later turns try again.
    """

    model: str
    revision: str | None
    screen: Screen
    adapter: str | None = None
    path: Path | None = None
    """Where the next conversation goes; None → a new name in the state folder."""
    file: SessionFile | None = None
    started_at: str = ""
    turns: list[Turn] = field(default_factory=list)
    """Those that are in the file."""
    _sources: WeakKeyDictionary[Frames, _Source] = field(default_factory=WeakKeyDictionary)
    _is_fault_told: bool = False

    def __post_init__(self) -> None:
        self.started_at = self.started_at or _now()
        self._hashing = Hashing()

    def know(self, media: Sequence[Frames], clips: Sequence[tuple[Path, Framing]]) -> None:
        """Takes note of where frames came from. Must be called for all that are asked about."""
        for frames, (path, framing) in zip(media, clips, strict=True):
            if frames in self._sources:
                continue
            whole = Path(os.path.abspath(path))  # noqa: PTH100  (resolve would name another file than the user did)
            self._sources[frames] = _Source(path=whole, framing=framing, fingerprint=self._hashing.begin(whole))

    def keep(self, conversation: Conversation) -> None:
        """Brings the file to where the conversation is."""
        try:
            self._bring_up(conversation)
            self._is_fault_told = False
        except VllavaError as exc:
            if not self._is_fault_told:
                self._is_fault_told = True
                self.screen.error(f"{exc} This conversation isn't kept; /save FILE writes it elsewhere.")

    def anew(self) -> None:
        """What is kept from now on is another conversation."""
        self._close_file()
        self.turns = []
        self.path = None
        self._is_fault_told = False
        self.started_at = _now()

    def record(self, conversation: Conversation) -> SessionRecord:
        """The conversation as a session. Errors: MediaError for a clip that can't be read any more."""
        return replace(
            self._header(conversation),
            turns=tuple(self._turn_record(number, turn) for number, turn in enumerate(conversation.turns, 1)),
            attached=tuple(map(self._medium_record, conversation.attached)),
        )

    def shown(self, frames: Frames) -> ShownClip:
        """A clip as a row names it; without size and hash where it can't be read any more."""
        framing = self._sources[frames].framing
        try:
            record = self._medium_record(frames)
        except MediaError:
            return ShownClip(framing=framing)
        return ShownClip(framing=framing, bytes=record.bytes, sha256=record.sha256)

    def close(self) -> None:
        """Gives the file back; hashes that aren't done are given up."""
        self._hashing.close()
        self._close_file()

    def _bring_up(self, conversation: Conversation) -> None:
        """The file's turns and the conversation's begin alike; what differs behind that is replaced or undone."""
        turns = conversation.turns
        same = next(
            (number for number, (old, new) in enumerate(zip(self.turns, turns, strict=False)) if old is not new),
            min(len(self.turns), len(turns)),
        )
        if same == len(turns) < len(self.turns) and self.file:
            self.file.append_undo(same + 1, tuple(map(self._medium_record, conversation.attached)))
            del self.turns[same:]
        for number, turn in enumerate(turns[same:], same + 1):
            file = self.file or self._begin(conversation)
            file.append_turn(self._turn_record(number, turn))
            self.turns[number - 1 :] = [turn]

    def _begin(self, conversation: Conversation) -> SessionFile:
        header = self._header(conversation)
        if self.path:
            self.file = SessionFile.create(self.path, header)
        else:
            self.file = SessionFile.begin(sessions_folder(), header, datetime.now(UTC))
        return self.file

    def _header(self, conversation: Conversation) -> SessionRecord:
        return SessionRecord(
            model=self.model,
            revision=self.revision,
            adapter=self.adapter,
            fit=conversation.fit,
            started_at=self.started_at,
        )

    def _turn_record(self, number: int, turn: Turn) -> TurnRecord:
        return TurnRecord(
            number=number,
            question=turn.question,
            answer=turn.answer,
            answer_ids=turn.answer_ids,
            stop_reason=turn.stop_reason,
            media=tuple(map(self._medium_record, turn.media)),
            sampling=turn.sampling,
            stats=turn.stats,
            ended_at=_now(),
            probabilities=turn.probabilities,
        )

    def _medium_record(self, frames: Frames) -> MediumRecord:
        source = self._sources[frames]
        if not source.fingerprint.done():
            with self.screen.waiting(f"Hashing {source.path}, so that a later run knows it again"):
                source.fingerprint.exception()
        found = source.fingerprint.result()
        return MediumRecord(
            path=source.path,
            kind=frames.kind,
            bytes=found.bytes,
            sha256=found.sha256,
            framing=source.framing,
            times_s=frames.times_s,
        )

    def _close_file(self) -> None:
        if self.file:
            self.file.close()
            self.file = None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
