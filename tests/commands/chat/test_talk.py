"""What can be done to a conversation: asking, taking back, editing, adding; and that each turn is kept at once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.commands.chat.conftest import Stage
from tests.engine.test_stream import engine_of
from vllava_cli import demo
from vllava_cli.engine.stream import Engine
from vllava_cli.errors import ClosedPipeError, ContextError, MediaError, UsageError
from vllava_cli.nouns import Stats

Make = Callable[..., Stage]
CLIP = "red-circle-moves-left.mp4"
MOVES = "A red circle moves left.\n"
REFUSED = "I am a tiny demo model: I only know moving shapes.\n"
ENDLESS = "and then what " * 3000


def stats(stage: Stage) -> Stats:
    return stage.talk.conversation.turns[-1].stats


def test_a_turn_costs_its_own_tokens_and_a_clip_is_looked_at_once(stage: Make) -> None:
    here = stage(CLIP)
    assert here.enter("What happens in this video?") == MOVES
    finished = len(here.talk.engine.tokens.finished_ids(here.talk.conversation))
    assert here.enter("And its colour?") == "Red.\n"
    assert (stats(here).reused_tokens, stats(here).tower_calls) == (finished, 0)
    here.enter("/undo")
    here.enter("/retry")
    here.enter("/edit 1 What shape is it?")
    assert here.talk.engine.sight.calls == 1
    assert all(turn.stats.reused_tokens for turn in here.talk.conversation.turns)


def test_undo_takes_the_last_turn_back_here_and_in_the_file(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("And its colour?")
    assert here.enter("/undo") == "Took back: And its colour?\n"
    assert here.talk.questions == ("What happens in this video?",)
    assert here.enter("And the background?") == "White.\n"
    assert here.kept() == [
        (1, "What happens in this video?"),
        (2, "And its colour?"),
        (2, "undo"),
        (2, "And the background?"),
    ]


def test_what_came_with_a_turn_that_is_undone_comes_with_the_next(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What shape is it?")
    assert here.enter(f"/add {demo.CLIPS / 'yellow-star.png'}") == (
        "vllava: warning: the model was trained on one clip at a time: about several it may answer poorly.\n"
        "Attached to the next question: yellow-star.png.\n"
    )
    here.enter("What shape is it?")
    here.enter("/undo")
    here.enter("What colour is it?")
    assert [medium["path"] for medium in here.rows()[-1]["media"]] == [str(demo.CLIPS / "yellow-star.png")]
    assert here.talk.engine.sight.calls == 2


def test_edit_asks_again_in_the_place_of_a_turn_and_drops_what_follows(stage: Make) -> None:
    here = stage(CLIP)
    for question in ("What happens in this video?", "And its colour?", "And the background?"):
        here.enter(question)
    assert here.enter("/edit 1 What shape is it?") == "Circle.\nTurns 2 to 3 are dropped with the old question.\n"
    assert here.talk.questions == ("What shape is it?",)
    assert here.kept()[-1] == (1, "What shape is it?")
    with pytest.raises(UsageError, match="There is no question 2: the last one is 1"):
        here.enter("/edit 2 What?")


def test_retry_asks_the_same_with_other_settings_for_once(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("/retry --temperature 3 --seed 1")
    (turn,) = here.talk.conversation.turns
    assert (turn.question, turn.sampling.temperature, turn.sampling.seed) == ("What happens in this video?", 3.0, 1)
    assert here.talk.settings.sampling.temperature == 0
    assert here.enter("/retry") == (
        f"{MOVES}The temperature is 0, so the answer will be the same: /retry --temperature 0.8 varies.\n"
    )
    assert [number for number, _ in here.kept()] == [1, 1, 1]


@pytest.mark.parametrize("line", [f"/edit 1 {ENDLESS}", ENDLESS])
def test_a_question_that_does_not_fit_leaves_everything_as_it_was(line: str, stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("And its colour?")
    before, kept = list(here.talk.conversation.turns), here.path.read_bytes()
    with pytest.raises(ContextError):
        here.enter(line)
    assert (here.talk.conversation.turns, here.talk.conversation.attached) == (before, ())
    assert here.path.read_bytes() == kept
    assert here.enter("And the background?") == "White.\n"


@pytest.mark.parametrize("line", ["/undo", "/retry", "/edit 1 What?"])
def test_without_a_turn_there_is_nothing_to_take_back(line: str, stage: Make) -> None:
    here = stage(CLIP)
    with pytest.raises(UsageError):
        here.enter(line)
    assert len(here.talk.conversation.attached) == 1


def test_clear_forgets_the_turns_and_keeps_the_clips(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("And its colour?")
    assert here.enter("/clear") == f"Forgot 2 turns. About {CLIP}.\n"
    assert here.enter("And its colour?") == here.enter("/retry").splitlines(keepends=True)[0]
    assert here.talk.engine.sight.calls == 1


def test_open_begins_a_conversation_in_a_file_of_its_own(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    kept = here.path.read_bytes()
    assert here.enter(f"/open {demo.CLIPS / 'blue-star-grows.mp4'}") == (
        "A new conversation. About blue-star-grows.mp4.\n"
    )
    assert here.enter("What does the star do?") == "It grows.\n"
    assert here.path.read_bytes() == kept
    (other,) = (tmp_path / "state/vllava/sessions").glob("*.jsonl")
    assert [row["question"] for row in here.rows(other)] == ["What does the star do?"]


def test_a_clip_that_cannot_be_opened_leaves_the_conversation_alone(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    for line in ("/open nothere.mp4", "/add nothere.mp4"):
        with pytest.raises(MediaError):
            here.enter(line)
    assert here.enter("And its colour?") == "Red.\n"
    assert [number for number, _ in here.kept()] == [1, 2]


def test_clips_that_can_never_fit_are_refused_when_they_come(stage: Make, tmp_path: Path, clip: Path) -> None:
    tight = engine_of(write_checkpoint(tmp_path / "tight", context=90))
    here = stage(engine=tight)
    here.enter(f"/add {clip}")
    with pytest.raises(ContextError):
        here.enter(f"/add {clip}")
    assert len(here.talk.conversation.attached) == 1


def test_a_conversation_without_clips_is_text_alone(stage: Make) -> None:
    here = stage()
    assert here.talk.about() == "No clip is open: /open FILE opens one."
    assert here.enter("Hello?") == REFUSED
    here.enter(f"/add {demo.CLIPS / CLIP}")
    assert here.enter("What happens in this video?")
    assert here.talk.engine.sight.calls == 1


def test_dropped_turns_are_named_and_the_clip_is_not_looked_at_again(stage: Make, tmp_path: Path, clip: Path) -> None:
    tight = engine_of(write_checkpoint(tmp_path / "tight", context=160))
    here = stage(engine=tight)
    here.enter(f"/add {clip}")
    here.enter("/set max-new-tokens 10")
    said = [here.enter("a red circle?") for _ in range(9)]
    notices = [line for text in said for line in text.splitlines() if "no longer in the context" in line]
    assert notices[0].startswith("Turns 1 to ")
    assert notices[0].endswith(" are no longer in the context, which was full; the clips still are.")
    assert tight.sight.calls == 1
    assert [number for number, _ in here.kept()] == list(range(1, 10))
    dropped = here.talk.conversation.dropped
    assert f"turn {dropped}  " in (shown := here.enter("/show"))
    assert shown.count("no longer in the context") == dropped


def test_verbose_gives_the_counts_of_each_turn(stage: Make) -> None:
    here = stage(CLIP, is_verbose=True)
    first, second = here.enter("What happens in this video?"), here.enter("And its colour?")
    assert "turn 1: stopped: end; 149 prompt tokens (0 reused), 6 new" in first
    assert "clips looked at 1; first token" in first
    assert "turn 2: stopped: end; 163 prompt tokens (155 reused), 2 new" in second
    assert "clips looked at 0; first token" in second


def test_whole_and_json_answers_come_at_their_end(stage: Make) -> None:
    assert stage(CLIP, output="whole").enter("What happens in this video?") == MOVES
    here = stage(CLIP, output="json")
    row = json.loads(here.enter("What happens in this video?"))
    assert (row["turn"], row["answer"], row["stop_reason"]) == (1, MOVES.strip(), "end")
    assert json.loads(here.enter("And its colour?"))["turn"] == 2


class Gone:
    """A stdout whose reader went away after some pieces."""

    def __init__(self, pieces: int) -> None:
        self.left = itertools.chain(range(pieces), itertools.repeat(None))

    def write(self, text: str) -> int:
        if next(self.left) is None:
            raise BrokenPipeError
        return len(text)

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        raise OSError


def test_a_turn_is_kept_though_its_reader_went_away(stage: Make) -> None:
    here = stage(CLIP)
    here.talk.screen._out = Gone(2)  # type: ignore[assignment]
    with pytest.raises(ClosedPipeError):
        here.enter("What happens in this video?")
    (row,) = here.rows()
    assert row["stop_reason"] == "interrupted"
    assert MOVES.startswith(row["answer"])
    assert row["answer"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_turn_that_was_broken_off_in_a_pass_is_kept(error: type[BaseException], stage: Make, engine: Engine) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    left = itertools.chain(range(3), [None])

    def break_off(*_: object) -> None:
        if next(left, 0) is None:
            raise error

    hook = engine.model.model.language_model.layers[-1].register_forward_pre_hook(break_off)
    try:
        here.enter("What happens in this video?")
    except SystemExit:
        assert error is SystemExit
    finally:
        hook.remove()
    assert [(row["number"], row["stop_reason"]) for row in here.rows()] == [(1, "end"), (2, "interrupted")]
    assert here.rows()[1]["answer"]
    assert here.enter("And its colour?") == "Red.\n"
    assert here.talk.engine.sight.calls == 1


def test_a_turn_is_kept_before_the_process_ends_as_it_was_told_to(stage: Make) -> None:
    here = stage(CLIP)
    here.talk.ending._number = 15  # the process was told to end before the first token
    with pytest.raises(SystemExit) as caught:
        here.enter("What happens in this video?")
    assert caught.value.code == 143
    assert [(row["answer"], row["stop_reason"]) for row in here.rows()] == [("", "interrupted")]
