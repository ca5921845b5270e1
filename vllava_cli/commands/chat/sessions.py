"""The sessions of earlier chats: listed with --sessions, found by their ids for --continue."""

from __future__ import annotations

from pathlib import Path

from vllava_cli.errors import SessionError
from vllava_cli.nouns import counted
from vllava_cli.screen import Screen, one_line
from vllava_cli.storage.jsonl import json_of
from vllava_cli.storage.session_file import SessionRecord, sessions, sessions_folder


def list_sessions(screen: Screen, *, is_json: bool) -> int:
    """Prints a line for each conversation, the last one first; returns 0."""
    folder = sessions_folder()
    found = list(sessions(folder))
    if is_json:
        screen.answer("".join(json_of(_row(*each)) + "\n" for each in found))
    elif found:
        screen.facts([(path.stem, _sentence(record)) for path, record in found], is_answer=True)
    else:
        screen.notice(f"There is no session in {folder}: vllava chat CLIP begins one.")
    return 0


def find_session(id: str | None) -> Path:
    """The session of that id, or of the only one that begins so; None is the last one. Errors: SessionError."""
    folder = sessions_folder()
    found = (path for path, _ in sessions(folder))
    if id is None:
        if last := next(found, None):
            return last
        raise SessionError(f"There is no session to continue in {folder}: vllava chat CLIP begins one.")
    meant = [path for path in found if path.stem.startswith(id)]
    meant = [path for path in meant if path.stem == id] or meant
    if len(meant) == 1:
        return meant[0]
    fault = f"{len(meant)} sessions begin with {id}" if meant else f"There is no session {id} in {folder}"
    raise SessionError(f"{fault}: vllava chat --sessions lists them.")


def _row(path: Path, record: SessionRecord) -> dict[str, object]:
    return {
        "id": path.stem,
        "path": str(path),
        "model": record.model,
        "started_at": record.started_at,
        "clips": list(dict.fromkeys(str(medium.path) for medium in record.media)),
        "questions": [each.turn.question for each in record.turns],
    }


def _sentence(record: SessionRecord) -> str:
    """ "2 turns about dog.mp4. The last question: What is it doing?" """
    about = ", ".join(one_line(path.name) for path in dict.fromkeys(medium.path for medium in record.media))
    last = f" The last question: {one_line(record.turns[-1].turn.question)}" if record.turns else ""
    return f"{counted(len(record.turns), 'turn')} about {about or 'no clip'}.{last}"
