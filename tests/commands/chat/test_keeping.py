"""The session file follows the conversation; where it can't be written that is said once, and nothing else stops."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.chat.conftest import Stage
from vllava_cli import demo
from vllava_cli.errors import OutputError
from vllava_cli.session import SessionFile, TurnRecord, read

Make = Callable[..., Stage]
CLIP = "red-circle-moves-left.mp4"


def test_the_file_has_all_that_a_later_run_needs(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    record = read(here.path)
    (turn,) = record.turns
    (medium,) = turn.media
    data = (demo.CLIPS / CLIP).read_bytes()
    frames = here.talk.conversation.media[0]
    assert (record.model, record.revision, record.fit) == ("demo", None, "crop")
    assert (medium.path, medium.kind, medium.times_s) == (demo.CLIPS / CLIP, "video", frames.times_s)
    assert (medium.bytes, medium.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert turn.answer_ids == here.talk.conversation.turns[0].answer_ids
    assert turn.stats.load_s == 0.0


def test_nothing_is_written_before_the_first_answer(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("/clear")
    assert not here.path.exists()


def test_a_folder_that_cannot_be_written_is_said_once(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.talk.keeping.path = None
    (tmp_path / "state").write_text("a file where the state folder should be")
    first = here.enter("What happens in this video?")
    assert first.startswith("A red circle moves left.\nvllava: ")
    assert first.endswith("This conversation isn't kept; /save FILE writes it elsewhere.\n")
    assert here.enter("And its colour?") == "Red.\n"
    (tmp_path / "state").unlink()
    here.enter("And the background?")
    (path,) = (tmp_path / "state/vllava/sessions").glob("*.jsonl")
    assert [row["number"] for row in here.rows(path)] == [1, 2, 3]


class Full(SessionFile):
    """A file on a disk that is full for one row."""

    is_full = True

    def append_turn(self, turn: TurnRecord) -> None:
        if Full.is_full:
            Full.is_full = False
            raise OutputError("'s.jsonl' can't be written: no space left on device.")
        super().append_turn(turn)


def test_a_turn_that_found_no_room_is_written_with_the_next(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllava_cli.commands.chat.keeping.SessionFile", Full)
    here = stage(CLIP)
    assert "no space left on device" in here.enter("What happens in this video?")
    assert here.kept() == []
    here.enter("And its colour?")
    assert [number for number, _ in here.kept()] == [1, 2]


def test_ctrl_c_while_a_turn_is_written_loses_nothing(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    append = SessionFile.append_turn

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SessionFile, "append_turn", stopped)
    with pytest.raises(KeyboardInterrupt):
        here.enter("And its colour?")
    monkeypatch.setattr(SessionFile, "append_turn", append)
    here.talk.close()
    assert [number for number, _ in here.kept()] == [1, 2]
