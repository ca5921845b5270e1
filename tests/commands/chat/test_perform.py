"""The slash commands that write files or show things: /frames, /save, /load, /export, /set, /show, /help."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.chat.conftest import Stage
from tests.commands.chat.test_talk import CLIP, MOVES
from vllava_cli import demo
from vllava_cli.errors import MediaError, OutputError, SessionError, UsageError

Make = Callable[..., Stage]


def test_frames_names_the_moments_and_draws_what_the_model_saw(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    assert here.enter("/frames") == (
        f"{CLIP}  8 frames at 0:00.00 0:00.29 0:00.62 0:00.92 0:01.25 0:01.54 0:01.88 0:02.17\n"
        "sheet                      red-circle-moves-left-frames.png\n"
    )
    with Image.open(tmp_path / "red-circle-moves-left-frames.png") as sheet:
        assert sheet.width > sheet.height > 200
    assert "red-circle-moves-left-frames-2.png" in here.enter("/frames")
    assert here.enter("/frames sheet.png").endswith("sheet                      sheet.png\n")
    with pytest.raises(OutputError, match=r"'sheet\.png' is already there"):
        here.enter("/frames sheet.png")


def test_frames_wants_clips_and_a_place_for_each_sheet(stage: Make) -> None:
    with pytest.raises(UsageError, match="No clip is open"):
        stage().enter("/frames")
    here = stage(CLIP, "yellow-star.png")
    with pytest.raises(UsageError, match="There are 2 clips: name a folder"):
        here.enter("/frames sheet.png")
    assert here.enter("/frames").splitlines()[2:] == [
        "yellow-star.png  one picture",
        "sheet            yellow-star-frames.png",
    ]
    with pytest.raises(UsageError, match="--show draws in a terminal"):
        here.enter("/frames --show")


def test_a_saved_conversation_is_loaded_into_a_file_of_its_own(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("And its colour?")
    here.enter("/undo")
    assert here.enter("/save saved.jsonl") == "Saved in saved.jsonl.\n"
    with pytest.raises(OutputError, match="/save --force FILE replaces it"):
        here.enter("/save saved.jsonl")
    saved = (tmp_path / "saved.jsonl").read_bytes()
    assert len(saved.splitlines()) == 2

    assert here.enter("/load saved.jsonl") == (
        f"Going on after 1 turn. About {CLIP}. The last question: What happens in this video?\n"
    )
    assert here.enter("And the background?") == "White.\n"
    assert here.talk.engine.sight.calls == 1, "the clip was still in use"
    assert (tmp_path / "saved.jsonl").read_bytes() == saved
    assert [number for number, _ in here.kept()] == [1, 2, 2]
    (other,) = (tmp_path / "state/vllava/sessions").glob("*.jsonl")
    assert [row["question"] for row in here.rows(other)] == ["What happens in this video?", "And the background?"]


def test_what_cannot_be_loaded_leaves_the_conversation_alone(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("/save saved.jsonl")
    text = (tmp_path / "saved.jsonl").read_text()
    (tmp_path / "gone.jsonl").write_text(text.replace(CLIP, "gone.mp4"))
    (tmp_path / "other.jsonl").write_text('{"job": 1}\n')
    with pytest.raises(MediaError, match="The session is about it: put it back, or begin anew"):
        here.enter("/load gone.jsonl")
    with pytest.raises(SessionError):
        here.enter("/load other.jsonl")
    assert here.enter("And its colour?") == "Red.\n"


def rewritten(path: Path, **changes: object) -> None:
    """Sets fields of the last row."""
    *before, last = path.read_text().splitlines()
    path.write_text("\n".join([*before, json.dumps(json.loads(last) | changes)]) + "\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": "A blue square."},
        {"answer_ids": [1, 2, 3]},
        {"answer_ids": [10**6]},
        {"answer_ids": []},
    ],
)
def test_ids_that_are_not_the_answers_own_are_not_trusted(
    changes: dict[str, object], stage: Make, tmp_path: Path
) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("/save saved.jsonl")
    ids = here.talk.conversation.turns[0].answer_ids
    rewritten(tmp_path / "saved.jsonl", **changes)
    assert here.enter("/load saved.jsonl").startswith(
        "vllava: warning: 1 answer of another model, or edited since: read as text.\n"
    )
    (turn,) = here.talk.conversation.turns
    assert here.talk.engine.tokens.text_of(list(turn.answer_ids)).strip() == turn.answer
    if "answer" not in changes:
        assert turn.answer_ids == ids
    here.enter("And its colour?")


def test_export_writes_markdown(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("Is *this* a\n# heading?")
    assert here.enter("/export talk.md") == "Exported to talk.md.\n"
    assert (tmp_path / "talk.md").read_text().split("\n\n") == [
        f"# {CLIP}",
        "Model: demo",
        f"Shown: `{demo.CLIPS / CLIP}`, 8 frames at 0:00.00 0:00.29 0:00.62 0:00.92 0:01.25 0:01.54 0:01.88 0:02.17.",
        "> What happens in this video?",
        MOVES.strip(),
        "> Is *this* a\n> # heading?",
        f"{here.talk.conversation.turns[1].answer}\n",
    ]
    with pytest.raises(OutputError, match="/export --force FILE replaces it"):
        here.enter("/export talk.md")
    here.enter("/export --force talk.md")


def test_set_changes_what_is_said_back(stage: Make) -> None:
    here = stage(CLIP)
    assert here.enter("/set top_p 0.5") == "top-p  0.5\n"
    assert here.enter("/set verbose on") == "verbose  on\n"
    assert "turn 1: stopped: end" in here.enter("What happens in this video?")
    assert here.talk.conversation.turns[0].sampling.top_p == 0.5
    assert here.enter("/set").splitlines()[:2] == ["temperature     0", "top-p           0.5"]


def test_show_gives_context_turns_settings_plan_and_file(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    rows = dict(line.split("  ", 1) for line in here.enter("/show").splitlines())
    shown = {name: text.strip() for name, text in rows.items()}
    assert shown["context"] == "155 of 4096 tokens used, 136 of them by clips; 3941 left"
    assert shown["turn 1"].startswith("149 prompt tokens (0 reused), 6 new")
    assert "; first token " in shown["turn 1"]
    assert shown["looked at"] == "1 clip since the start"
    assert (shown["temperature"], shown["model"], shown["device"]) == ("0", str(demo.CHECKPOINT), "cpu: A test.")
    assert shown["kept in"] == str(here.path)


def test_help_lists_everything_or_explains_one(stage: Make) -> None:
    here = stage(CLIP)
    shown = here.enter("/help")
    for word in ("/open", "/add", "/frames", "/retry", "/undo", "/edit", "/set", "/show", "/save", "/load", "/export"):
        assert f"{word} " in shown
    assert here.enter("/help undo") == "/undo  Take back the last question and its answer.\n"
