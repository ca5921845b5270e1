"""The session file follows the conversation, and a session goes on as if it had never ended.

Where the file can't be written that is said once, and nothing else stops.
"""

from __future__ import annotations

import gc
import io
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from tests.commands.chat.conftest import CLIP, HAPPENS, MOVES, Stage
from tests.commands.turns import turn
from tests.refusals import refused
from vllava_cli import demo
from vllava_cli.answers import Conversation
from vllava_cli.commands.chat.recorder import (
    FrameCache,
    FramedClip,
    SessionRecorder,
    changes,
    clips_of,
    find_session,
    list_sessions,
    restored,
)
from vllava_cli.errors import MediaError, OutputError, SessionError
from vllava_cli.nouns import LAST, Clip, Frames, Framing
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import Journal
from vllava_cli.storage.session_file import SessionRecord, read, sessions_folder

Make = Callable[..., Stage]
WHOLE = Framing()
COLOUR, BACKGROUND = "And its colour?", "And the background?"
STAR = demo.CLIPS / "yellow-star.png"
FULL = OutputError("'s.jsonl' can't be written: no space left on device.")
NOT_SAVED = "This conversation isn't kept; /save FILE writes it elsewhere.\n"


def refuse(*_: object) -> None:
    raise FULL


def questions(record: SessionRecord) -> list[str]:
    return [each.turn.question for each in record.turns]


class Later(datetime):
    """A later second than that in the name of the first file."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(days=1)


def test_a_folder_that_cannot_be_written_is_reported_once_however_long_the_chat_goes_on(
    here: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.enter(f"/open {STAR}")
    (tmp_path / "state").write_text("a file where the state folder should be")
    first = here.enter("What colour is it?")
    assert first.startswith("Yellow.\nvllava: ")
    assert first.endswith(NOT_SAVED)
    monkeypatch.setattr("vllava_cli.commands.chat.recorder.datetime", Later)
    assert "kept" not in here.enter("What shape is it?") + here.enter("/undo")
    (tmp_path / "state").unlink()
    here.enter("What shape is it?")
    (path,) = here.others()
    assert [row["number"] for row in here.rows(path)] == [1, 2]


def test_ctrl_c_while_a_turn_is_written_loses_nothing(here: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "append", stopped)
        here.enter(COLOUR)
    here.chat.close()
    assert questions(here.record) == [HAPPENS, COLOUR]


def test_a_file_that_is_there_is_never_written_to(stage: Make) -> None:
    here = stage(CLIP)
    here.path.write_text("mine\n")
    fault = f"vllava: '{here.path}' is already there. Name another file. {NOT_SAVED}"
    assert here.enter(HAPPENS) == f"{MOVES}{fault}"
    assert here.enter(COLOUR) == "Red.\n"
    assert here.path.read_text() == "mine\n"
    assert here.enter("/save other.jsonl") == "Saved in other.jsonl.\n"
    assert questions(read(Path("other.jsonl"))) == [HAPPENS, COLOUR]


def test_a_clip_that_is_gone_before_it_was_hashed_does_not_stop_the_chat(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.chat.conversation.attached = tuple(replace(each) for each in here.chat.conversation.attached)
    here.chat.recorder.cache.add((tmp_path / "gone.mp4", WHOLE), here.chat.conversation.attached[0])
    first = here.enter(HAPPENS)
    assert "gone.mp4" in first
    assert first.endswith(NOT_SAVED)
    assert here.enter(COLOUR) == "Red.\n"


@pytest.mark.parametrize("seed", range(30))
def test_whatever_finds_no_room_the_file_is_the_conversation_as_soon_as_there_is_some(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(Journal, "append", at_times(Journal.append, chance))
    err, path = io.StringIO(), tmp_path / "s.jsonl"
    header = SessionRecord(model="demo", revision=None, fit="crop", started_at="2026-11-22T19:40:05Z")
    recorder = SessionRecorder(header=header, screen=Screen(out=err, err=err), path=path)
    conversation = Conversation()
    for number in range(30):
        cut = chance.randrange(len(conversation.turns) + 1)
        conversation.cut(chance.choice([cut, len(conversation.turns), len(conversation.turns)]))
        if chance.random() < 0.7:
            conversation.turns.append(turn(f"question {number}"))
        recorder.save(conversation)
    monkeypatch.undo()
    recorder.save(conversation)
    written = path.read_bytes()
    recorder.save(conversation)
    recorder.close()
    assert path.read_bytes() == written, "what is there is not written again"
    assert questions(read(path)) == [each.question for each in conversation.turns]


def at_times(append: Callable[..., None], chance: random.Random) -> Callable[..., None]:
    """Now and then there is no room."""

    def tried(*words: Any) -> None:
        if chance.random() < 0.3:
            refuse()
        append(*words)

    return tried


@pytest.mark.parametrize("line", ["/undo", "/clear"])
def test_clips_whose_turn_was_taken_back_are_in_the_file(line: str, here: Stage) -> None:
    here.enter(line)
    assert (len(here.record.turns), [medium.path for medium in here.record.attached]) == (0, [demo.CLIPS / CLIP])
    here.enter("/save saved.jsonl", COLOUR)
    assert here.record.attached == ()
    assert here.enter("/load saved.jsonl") == f"Going on after 0 turns. About {CLIP}.\n"
    assert here.enter(HAPPENS) == MOVES


def restored_here(here: Stage, record: SessionRecord) -> tuple[Conversation, int]:
    clips = clips_of(record)
    frames = dict(zip(clips, here.chat.read(clips), strict=True))
    return restored(record, frames, here.chat.engine.tokens, model="demo")


def test_a_restored_conversation_answers_as_the_one_that_went_on(here: Stage, stage: Make) -> None:
    here.enter(f"/add {STAR} {demo.CLIPS / CLIP}", "What shape is it?")
    record = here.record
    conversation, renewed = restored_here(here, record)
    assert (conversation.turns, conversation.attached, renewed) == (here.chat.conversation.turns, (), 0)
    assert conversation.media == here.chat.conversation.media, "the very frames"
    assert [path.name for path, _ in clips_of(record)] == [CLIP, "yellow-star.png"]
    went_on = here.enter(COLOUR)

    again = stage()
    again.chat.engine.prompt_cache = None
    again.chat.engine.vision.forget()
    again.resume(record)
    assert again.enter(COLOUR) == went_on
    last, other = again.chat.conversation.turns[-1], here.chat.conversation.turns[-1]
    assert (last.answer_ids, last.stats.prompt_tokens) == (other.answer_ids, other.stats.prompt_tokens)
    assert (last.stats.reused_tokens, last.stats.tower_calls) == (0, 2)


def test_a_choice_comes_back_with_its_probabilities_and_its_own_ids(stage: Make) -> None:
    """Even one that the prompt can't hold as it is."""
    here = stage(CLIP)
    here.enter("/set choices </s> USER: what,left,a <video>", "Which way does it move?", "Why?")
    here.enter("/retry --choices </s>,USER:")
    conversation, renewed = restored_here(here, here.record)
    assert (conversation.turns, renewed) == (here.chat.conversation.turns, 0)
    assert all(each.probabilities for each in conversation.turns)
    first = here.record.turns[0]
    edited = replace(here.record, turns=(replace(first, turn=replace(first.turn, answer="right")),))
    conversation, renewed = restored_here(here, edited)
    assert (renewed, conversation.turns[0].answer_ids) == (1, here.chat.engine.tokens.answer_ids("right"))


def test_clips_are_named_once_with_their_framing(here: Stage) -> None:
    here.enter(f"/add --start 1 {demo.CLIPS / CLIP}", "And here?", f"/add {demo.CLIPS / CLIP}", "And here?")
    assert clips_of(here.record) == ((demo.CLIPS / CLIP, WHOLE), (demo.CLIPS / CLIP, Framing(start_s=1.0)))
    assert changes(here.record) == []


@pytest.mark.parametrize(
    ("left", "added", "fault"), [(0, b"", "8,496 bytes then, 0 now"), (-1, b"x", "but not the content")]
)
def test_a_changed_clip_is_reported_and_a_missing_one_refused(
    left: int, added: bytes, fault: str, stage: Make, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy(demo.CLIPS / CLIP, clip)
    here = stage()
    here.enter(f"/add {clip}", HAPPENS, COLOUR, f"/add {demo.CLIPS / CLIP}", "And here?")
    assert changes(here.record) == []
    clip.write_bytes(clip.read_bytes()[:left] + added)
    (change,) = changes(here.record)
    assert change.startswith(f"'{clip}' has changed since: ") and fault in change
    assert change.endswith(". The answers so far are about the old clip.")
    clip.unlink()
    assert refused(MediaError, clips_of, here.record) == (
        f"There is no file '{clip}' any more. The session is about it: put it back, or begin a new session."
    )


class Reader:
    """Makes frames and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cache = FrameCache()

    def frames(self, *clips: FramedClip) -> tuple[Frames, ...]:
        return self.cache.frames(clips, self._read)

    def _read(self, clips: Sequence[FramedClip]) -> list[Frames]:
        self.asked += [path.name for path, _ in clips]
        clip = Clip(path=Path("a.mp4"), kind="video", width=1, height=1, frame_count=8)
        return [Frames(clip=clip, pixels=np.zeros((8, 1, 1, 3), np.uint8), times_s=(0.0,) * 8) for _ in clips]


def test_a_clip_in_use_is_read_once_under_any_name(tmp_path: Path) -> None:
    reader = Reader()
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "b.mp4").write_bytes(b"b")
    (tmp_path / "folder").mkdir()
    a, b = (tmp_path / "a.mp4", WHOLE), (tmp_path / "b.mp4", WHOLE)
    first = reader.frames(a, b, a)
    again = reader.frames(b, (tmp_path / "folder" / ".." / "a.mp4", WHOLE))
    assert reader.asked == ["a.mp4", "b.mp4"]
    assert first[0] is first[2] is again[1]
    assert first[1] is again[0]


def test_another_framing_a_changed_file_and_a_folder_are_read(tmp_path: Path) -> None:
    reader, clip = Reader(), tmp_path / "a.mp4"
    clip.write_bytes(b"a")
    alive = [reader.frames((clip, WHOLE)), reader.frames((clip, Framing(start_s=1.0)))]
    clip.write_bytes(b"longer")
    alive += [reader.frames((clip, WHOLE)), reader.frames((tmp_path, WHOLE)), reader.frames((tmp_path, WHOLE))]
    assert reader.asked == ["a.mp4", "a.mp4", "a.mp4", tmp_path.name, tmp_path.name]
    assert len({id(frames) for (frames,) in alive}) == 5


def test_frames_that_no_conversation_holds_are_given_up(tmp_path: Path) -> None:
    reader, clip = Reader(), tmp_path / "a.mp4"
    clip.write_bytes(b"a")
    reader.frames((clip, WHOLE))
    gc.collect()
    reader.frames((clip, WHOLE))
    assert reader.asked == ["a.mp4", "a.mp4"]


def listed(*, is_json: bool = False) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    assert list_sessions(Screen(out=out, err=err), is_json=is_json) == 0
    return out.getvalue(), err.getvalue()


def test_sessions_are_listed_the_last_one_first_and_found_by_what_only_their_id_begins_with(here: Stage) -> None:
    folder = sessions_folder()
    assert listed() == ("", f"There is no session in {folder}: vllava chat CLIP begins one.\n")
    asked = "What shape\nis\x1b it?"
    here.enter(f"/open {demo.CLIPS / CLIP}", HAPPENS, COLOUR, f"/open {STAR}", f"/add {demo.CLIPS / CLIP}", asked)
    first, last = here.others()
    assert [line.split(maxsplit=1) for line in listed()[0].splitlines()] == [
        [last.stem, f"1 turn about yellow-star.png, {CLIP}. The last question: What shape is it?"],
        [first.stem, f"2 turns about {CLIP}. The last question: {COLOUR}"],
    ]
    row, other = map(json.loads, listed(is_json=True)[0].splitlines())
    assert (other["id"], row.pop("started_at")) == (first.stem, read(last).started_at)
    clips = [str(STAR), str(demo.CLIPS / CLIP)]
    assert row == {"id": last.stem, "path": str(last), "model": "demo", "clips": clips, "questions": [asked]}
    assert [find_session(id) for id in (LAST, first.stem, last.stem)] == [last, first, last]
    for id, fault in (("20", "2 sessions begin with 20"), ("dog", f"There is no session dog in {folder}")):
        assert refused(SessionError, find_session, id) == f"{fault}: vllava chat --sessions lists them."
    last.rename(folder / "2026-11-23T08-00-00Z.jsonl")
    assert find_session("2026-11-23T").stem == "2026-11-23T08-00-00Z"
