"""The session file follows the conversation; where it can't be written that is said once, and nothing else stops."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.commands.chat.conftest import CLIP, Stage
from vllava_cli import demo
from vllava_cli.commands.chat.keeping import Keeping
from vllava_cli.errors import OutputError
from vllava_cli.nouns import Conversation, Framing, Sampling, Stats, Turn
from vllava_cli.screen import Screen
from vllava_cli.session.session_file import SessionFile, TurnRecord, read

Make = Callable[..., Stage]


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


def test_a_file_that_is_there_is_never_written_to(stage: Make) -> None:
    here = stage(CLIP)
    here.path.write_text("mine\n")
    assert here.enter("What happens in this video?") == (
        f"A red circle moves left.\nvllava: '{here.path}' is already there. Name another file. "
        "This conversation isn't kept; /save FILE writes it elsewhere.\n"
    )
    assert here.enter("And its colour?") == "Red.\n"
    assert here.path.read_text() == "mine\n"
    assert here.enter("/save other.jsonl") == "Saved in other.jsonl.\n"
    assert [turn.question for turn in read(Path("other.jsonl")).turns] == list(here.talk.questions)


def test_a_fault_is_said_once_however_long_the_chat_goes_on(
    stage: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file's name has the second in it."""
    here = stage(CLIP)
    here.talk.keeping.path = None
    (tmp_path / "state").write_text("a file where the state folder should be")
    seconds = iter(range(60))
    monkeypatch.setattr("vllava_cli.session.session_file.new_path", lambda folder, _: folder / f"{next(seconds)}.jsonl")
    said = [here.enter(question) for question in ("What happens in this video?", "And its colour?", "/undo")]
    assert [text.count("isn't kept") for text in said] == [1, 0, 0]


def test_a_clip_that_is_gone_before_it_was_read_twice_does_not_stop_the_chat(stage: Make, tmp_path: Path) -> None:
    here = stage()
    frames = here.talk.gallery.frames([(demo.CLIPS / CLIP, Framing())], lambda _: ())
    here.talk.keeping.know(frames, [(tmp_path / "gone.mp4", Framing())])
    here.talk.conversation.attached = tuple(replace(each) for each in frames)
    here.talk.keeping.know(here.talk.conversation.attached, [(tmp_path / "gone.mp4", Framing())])
    first = here.enter("What happens in this video?")
    assert "gone.mp4" in first
    assert first.endswith("This conversation isn't kept; /save FILE writes it elsewhere.\n")
    assert here.enter("And its colour?") == "Red.\n"


def test_an_undo_that_found_no_room_is_made_up_for(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("And its colour?")
    with monkeypatch.context() as patch:
        patch.setattr(SessionFile, "append_undo", refuse)
        assert "no space left" in here.enter("/undo")
    assert len(read(here.path).turns) == 2
    here.talk.close()
    assert [turn.question for turn in read(here.path).turns] == ["What happens in this video?"]


def refuse(*_: object) -> None:
    raise OutputError("'s.jsonl' can't be written: no space left on device.")


def test_each_conversation_has_its_own_file_with_its_own_clips(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    for name in ("yellow-star.png", "two-shapes.png"):
        here.enter(f"/open {demo.CLIPS / name}")
        here.enter("What shape is it?")
        here.enter("/undo")
        here.enter("What colour is it?")
    files = sorted((tmp_path / "state/vllava/sessions").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    assert [
        [(turn.question, turn.media[0].path.name) for turn in read(path).turns] for path in [here.path, *files]
    ] == [
        [("What happens in this video?", CLIP)],
        [("What colour is it?", "yellow-star.png")],
        [("What colour is it?", "two-shapes.png")],
    ]


def turn(question: str) -> Turn:
    stats = Stats(prompt_tokens=1, reused_tokens=0, new_tokens=0, first_token_s=0.0, decode_s=0.0)
    return Turn(question=question, answer="", answer_ids=(), stop_reason="end", sampling=Sampling(), stats=stats)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_finds_no_room_the_file_is_the_conversation_as_soon_as_there_is_some(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    for name in ("append_turn", "append_undo"):
        monkeypatch.setattr(SessionFile, name, at_times(getattr(SessionFile, name), chance))
    err = io.StringIO()
    keeping = Keeping(model="demo", revision=None, screen=Screen(out=err, err=err), path=tmp_path / "s.jsonl")
    conversation = Conversation()
    for number in range(30):
        kept = chance.randrange(len(conversation.turns) + 1)
        conversation.cut(chance.choice([kept, len(conversation.turns), len(conversation.turns)]))
        if chance.random() < 0.7:
            conversation.turns.append(turn(f"question {number}"))
        keeping.keep(conversation)
    monkeypatch.undo()
    keeping.keep(conversation)
    written = (tmp_path / "s.jsonl").read_bytes()
    keeping.keep(conversation)
    keeping.close()
    assert (tmp_path / "s.jsonl").read_bytes() == written, "what is there is not written again"
    assert [each.question for each in read(tmp_path / "s.jsonl").turns] == [
        each.question for each in conversation.turns
    ]


def at_times(append: Callable[..., None], chance: random.Random) -> Callable[..., None]:
    """Now and then there is no room."""

    def tried(*words: Any) -> None:
        if chance.random() < 0.3:
            refuse()
        append(*words)

    return tried


@pytest.mark.parametrize(("line", "turns"), [("/undo", 0), ("/clear", 0)])
def test_clips_whose_turn_was_taken_back_are_in_the_file(line: str, turns: int, stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter(line)
    record = read(here.path)
    assert (len(record.turns), [medium.path for medium in record.attached]) == (turns, [demo.CLIPS / CLIP])
    here.enter("/save saved.jsonl")
    here.enter("And its colour?")
    assert read(here.path).attached == ()
    assert here.enter("/load saved.jsonl") == f"Going on after 0 turns. About {CLIP}.\n"
    assert here.enter("What happens in this video?") == "A red circle moves left.\n"
