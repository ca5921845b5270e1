"""The slash commands that write files or show things: /frames, /save, /load, /export, /set, /show, /help."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.checkpoints import write_checkpoint
from tests.commands.chat.conftest import CLIP, MOVES, Stage
from tests.engine.engines import engine_of
from vllava_cli import demo
from vllava_cli.errors import ContextError, LockedError, MediaError, OutputError, SessionError, UsageError
from vllava_cli.session.session_file import read

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
    with pytest.raises(OutputError, match="/save --overwrite FILE replaces it"):
        here.enter("/save saved.jsonl")
    saved = (tmp_path / "saved.jsonl").read_bytes()
    assert stat.S_IMODE((tmp_path / "saved.jsonl").stat().st_mode) == 0o600
    assert len(saved.splitlines()) == 2

    assert here.enter("/load saved.jsonl") == (
        f"Going on after 1 turn. About {CLIP}. The last question: What happens in this video?\n"
    )
    assert here.enter("And the background?") == "White.\n"
    assert here.talk.engine.vision.calls == 1, "the clip was still in use"
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
    with pytest.raises(OutputError, match="/export --overwrite FILE replaces it"):
        here.enter("/export talk.md")
    assert stat.S_IMODE(Path("talk.md").stat().st_mode) == 0o600
    Path("talk.md").chmod(0o644)
    here.enter("/export --overwrite talk.md")
    assert stat.S_IMODE(Path("talk.md").stat().st_mode) == 0o600


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


def saved(here: Stage, path: Path) -> Path:
    here.enter("What happens in this video?")
    here.enter(f"/save {path}")
    return path


@pytest.mark.parametrize("name", ["video_id", "image_id", "pad", "stop"])
def test_ids_that_would_break_the_prompt_are_not_trusted(name: str, stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    path = saved(here, tmp_path / "saved.jsonl")
    tokens = here.talk.engine.tokens
    hostile = {"pad": tokens.tokenizer.id_of("<pad>"), "stop": min(tokens.stop_ids)}.get(name) or getattr(tokens, name)
    ids = here.talk.conversation.turns[0].answer_ids
    for forged in ([*ids, hostile], [hostile, *ids], [hostile]):
        rewritten(path, answer_ids=forged)
        assert "1 answer of another model, or edited since" in here.enter(f"/load {path}")
        assert here.talk.conversation.turns[0].answer_ids == ids
    assert here.enter("And its colour?") == "Red.\n"


@pytest.mark.parametrize("answer", ["A red circle", "", "A red circle moves left. It is fast."])
def test_an_edit_that_shortens_or_lengthens_an_answer_is_seen(answer: str, stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    path = saved(here, tmp_path / "saved.jsonl")
    rewritten(path, answer=answer)
    assert "1 answer of another model, or edited since: read as text." in here.enter(f"/load {path}")
    (turn,) = here.talk.conversation.turns
    assert here.talk.engine.tokens.text_of(list(turn.answer_ids)).strip() == answer


def test_ids_that_a_tokenizer_would_not_choose_are_kept(stage: Make, tmp_path: Path) -> None:
    """A model spells freely: its answer's ids stay as they came, and so does the cache behind them."""
    here = stage(CLIP)
    path = saved(here, tmp_path / "saved.jsonl")
    tokens = here.talk.engine.tokens
    spelt = [token for letter in "Red" if (token := tokens.tokenizer.id_of(letter))]
    assert tuple(spelt) != tokens.answer_ids("Red")
    assert tokens.text_of(spelt) == "Red"
    rewritten(path, answer="Red", answer_ids=spelt)
    assert "edited" not in here.enter(f"/load {path}")
    here.enter("And the background?")
    assert here.talk.conversation.turns[0].answer_ids == tuple(spelt)
    assert here.talk.engine.prompt_cache
    text = ",".join(map(str, here.talk.engine.prompt_cache.ids))
    assert ",".join(map(str, spelt)) in text


def test_clips_of_a_session_that_never_fit_leave_the_conversation_alone(
    stage: Make, tmp_path: Path, clip: Path, other_clip: Path
) -> None:
    roomy = stage(engine=engine_of(write_checkpoint(tmp_path / "roomy", context=160)))
    roomy.enter(f"/add {clip} {other_clip}")
    roomy.enter("/set max-new-tokens 4")
    roomy.enter("what")
    roomy.enter("/save saved.jsonl")
    here = stage(engine=engine_of(write_checkpoint(tmp_path / "tight", context=90)))
    here.enter(f"/add {clip}")
    here.enter("/set max-new-tokens 4")
    here.enter("what is it")
    with pytest.raises(ContextError):
        here.enter("/load saved.jsonl")
    assert here.talk.questions == ("what is it",)
    here.enter("what")
    assert [number for number, _ in here.kept()] == [1, 2]


def test_the_session_that_goes_on_can_be_loaded_but_not_replaced(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    with pytest.raises(LockedError):
        here.enter(f"/save --overwrite {here.path}")
    kept = here.path.read_bytes()
    here.enter(f"/load {here.path}")
    here.enter("And its colour?")
    assert here.path.read_bytes() == kept
    (other,) = (tmp_path / "state/vllava/sessions").glob("*.jsonl")
    assert [row["number"] for row in here.rows(other)] == [1, 2]
    assert here.rows(other)[0]["answer_ids"] == here.rows()[0]["answer_ids"]


def test_save_overwrite_replaces_a_copy_and_one_without_turns_can_be_loaded(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    path = saved(here, tmp_path / "saved.jsonl")
    here.enter("/undo")
    here.enter(f"/save --overwrite {path}")
    assert [row["type"] for row in here.rows(path)] == ["undo"], "it says which clip is attached"
    assert here.enter(f"/load {path}") == f"Going on after 0 turns. About {CLIP}.\n"


def test_another_model_and_a_changed_clip_are_said_when_a_session_is_loaded(stage: Make, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy(demo.CLIPS / CLIP, clip)
    here = stage()
    here.enter(f"/add {clip}")
    here.enter("What happens in this video?")
    here.enter("And its\x1b[2J colour?")
    here.enter("/save saved.jsonl")
    shutil.copy(demo.CLIPS / "blue-star-grows.mp4", clip)
    path = tmp_path / "saved.jsonl"
    path.write_text(path.read_text().replace('"model": "demo"', '"model": "another"'))
    size = (demo.CLIPS / "blue-star-grows.mp4").stat().st_size
    assert here.enter("/load saved.jsonl") == (
        f"vllava: warning: '{clip}' has changed since: 8,496 bytes then, {size:,} now. "
        "The answers so far are about the old one.\n"
        "vllava: warning: 2 answers of another model, or edited since: read as text.\n"
        "Going on after 2 turns. About clip.mp4. The last question: And its[2J colour?\n"
    )
    here.enter("What does the star do?")
    assert (here.talk.engine.vision.calls, here.talk.conversation.turns[2].stats.tower_calls) == (2, 1)
    assert here.talk.keeping.file
    assert read(here.talk.keeping.file.path).model == "demo"


def test_the_fit_of_a_session_goes_on(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    path = saved(here, tmp_path / "saved.jsonl")
    path.write_text(path.read_text().replace('"fit": "crop"', '"fit": "pad"'))
    here.enter(f"/load {path}")
    here.enter("And its colour?")
    assert here.talk.conversation.fit == "pad"
    here.enter(f"/add {demo.CLIPS / CLIP}")
    here.enter("And here?")
    assert here.talk.engine.vision.calls == 2, "once cropped, once padded"
    here.enter(f"/open {demo.CLIPS / 'yellow-star.png'}")
    assert here.talk.conversation.fit == "pad"
    here.enter("What shape is it?")
    assert here.talk.keeping.file
    record = read(here.talk.keeping.file.path)
    assert (record.fit, record.turns[0].media[0].framing.fit) == ("pad", "pad")


def test_frames_shows_a_clip_that_came_twice_once(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter(f"/add {demo.CLIPS / CLIP}")
    assert len(here.enter("/frames").splitlines()) == 2
    here.enter("/frames sheets/")
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["red-circle-moves-left-frames.png"]


def test_one_sheet_is_enough_for_a_clip_that_came_twice(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter(f"/add {demo.CLIPS / CLIP}")
    assert here.enter("/frames one.jpg").endswith("one.jpg\n")
    assert Path("one.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match=r"'one.gif' ends like neither a PNG nor a JPEG"):
        here.enter("/frames one.gif")


def test_a_sheet_of_dropped_turns_clips_is_drawn_too(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("And its colour?")
    here.talk.conversation.dropped = 1
    assert here.enter("/frames").startswith(f"{CLIP}  8 frames at ")


def test_a_setting_that_cannot_be_leaves_all_as_it_was(stage: Make) -> None:
    here = stage(CLIP)
    before = here.talk.settings
    for line in ("/set temperature -1", "/set colour red", "/retry --temperature hot"):
        with pytest.raises(UsageError):
            here.enter(line)
    assert here.talk.settings == before
    here.enter("/set verbose on")
    here.enter("/set verbose off")
    assert here.enter("What happens in this video?") == MOVES
