"""What can be done to a conversation: asking, taking back, editing, adding; and that each turn is kept at once."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.commands.chat.conftest import CLIP, MOVES, Stage
from tests.engine.engines import engine_of
from vllava_cli import demo
from vllava_cli.engine.generate import Engine
from vllava_cli.errors import (
    ClosedPipeError,
    ContextError,
    MediaError,
    MemoryShortError,
    StdoutError,
    UsageError,
)
from vllava_cli.interrupt import GracefulExit
from vllava_cli.nouns import Framing, Stats

Make = Callable[..., Stage]
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
    assert here.talk.engine.vision.calls == 1
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
    assert here.talk.engine.vision.calls == 2


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


def test_an_answer_is_chosen_and_each_choice_has_its_share(stage: Make) -> None:
    here = stage(CLIP)
    assert here.enter("/set choices star, circle, a dog") == "choices  star,circle,a dog\n"
    assert here.enter("What is it?") == "star\nstar 89%, circle 11%, a dog <1%\n"
    assert here.enter("/set calibrate on") == "calibrate  on\n"
    assert here.enter("/edit 1 Is there a star?") == "circle\nstar 14%, circle 86%, a dog <1%\n"
    (turn,) = here.talk.conversation.turns
    assert (turn.stop_reason, sum(turn.probabilities)) == ("choice", pytest.approx(1))
    here.enter("/set choices none")
    assert here.enter("What happens in this video?") == MOVES
    assert here.talk.engine.vision.calls == 1


def test_a_choice_does_not_vary(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("/set temperature 1")
    here.enter("/set choices left,right")
    said = here.enter("Which way does it move?")
    assert here.enter("/retry") == (
        "left\nA choice doesn't vary, so the answer will be the same: /set choices none lifts it.\n"
        f"{said.splitlines()[1]}\n"
    )
    assert here.enter("/retry --choices right,left") == "left\nright <1%, left >99%\n"


def test_json_has_the_probabilities_and_no_notice(stage: Make) -> None:
    here = stage(CLIP, output="json")
    here.enter("/set choices left,right")
    said = here.enter("Which way does it move?")
    row = json.loads(said)
    assert said.count("\n") == 1
    assert (row["turn"], row["answer"], row["stop_reason"]) == (1, "left", "choice")
    assert row["probabilities"] == {"left": pytest.approx(1, abs=1e-2), "right": pytest.approx(0, abs=1e-2)}


def test_choices_that_the_model_reads_alike_leave_everything_as_it_was(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("/set choices </s>,< /s>")
    with pytest.raises(UsageError, match="The model reads the choices '</s>' and '< /s>' alike: leave one out"):
        here.enter("And its colour?")
    assert (here.talk.questions, len(here.kept())) == (("What happens in this video?",), 1)
    here.enter("/set choices none")
    assert here.enter("And its colour?") == "Red.\n"


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
    assert here.talk.engine.vision.calls == 1


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
    assert here.talk.engine.vision.calls == 1


def test_dropped_turns_are_named_and_the_clip_is_not_looked_at_again(stage: Make, tmp_path: Path, clip: Path) -> None:
    tight = engine_of(write_checkpoint(tmp_path / "tight", context=160))
    here = stage(engine=tight)
    here.enter(f"/add {clip}")
    here.enter("/set max-new-tokens 10")
    said = [here.enter("a red circle?") for _ in range(9)]
    notices = [line for text in said for line in text.splitlines() if "no longer in the context" in line]
    assert notices[0].startswith("Turns 1 to ")
    assert notices[0].endswith(" are no longer in the context, which was full; the clips still are.")
    assert tight.vision.calls == 1
    assert [number for number, _ in here.kept()] == list(range(1, 10))
    dropped = here.talk.conversation.dropped
    assert f"turn {dropped}  " in (shown := here.enter("/show"))
    assert shown.count("no longer in the context") == dropped


def test_verbose_gives_the_counts_of_each_turn(stage: Make) -> None:
    here = stage(CLIP, is_verbose=True)
    first, second = here.enter("What happens in this video?"), here.enter("And its colour?")
    assert "turn 1: stopped: end; 149 prompt tokens (0 reused), 6 new" in first
    assert "clips looked at 1; " in first
    assert "turn 2: stopped: end; 163 prompt tokens (155 reused), 2 new" in second
    assert "clips looked at 0; " in second


def test_whole_and_json_answers_come_at_their_end(stage: Make) -> None:
    assert stage(CLIP, output="whole").enter("What happens in this video?") == MOVES
    here = stage(CLIP, output="json")
    row = json.loads(here.enter("What happens in this video?"))
    assert (row["turn"], row["answer"], row["stop_reason"]) == (1, MOVES.strip(), "end")
    assert json.loads(here.enter("And its colour?"))["turn"] == 2


class Gone:
    """A stdout whose reader went away after some pieces."""

    def __init__(self, pieces: int, error: OSError | None = None) -> None:
        self.left = itertools.chain(range(pieces), itertools.repeat(None))
        self.error = error or BrokenPipeError()

    def write(self, text: str) -> int:
        if next(self.left) is None:
            raise self.error
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

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

    hook = engine.llama.blocks[-1].register_forward_pre_hook(break_off)
    try:
        here.enter("What happens in this video?")
    except SystemExit:
        assert error is SystemExit
    finally:
        hook.remove()
    assert [(row["number"], row["stop_reason"]) for row in here.rows()] == [(1, "end"), (2, "interrupted")]
    assert here.rows()[1]["answer"]
    assert here.enter("And its colour?") == "Red.\n"
    assert here.talk.engine.vision.calls == 1


@pytest.mark.parametrize("line", ["And its colour?", "/retry", "/edit 1 And its colour?"])
def test_ctrl_c_before_the_stream_has_begun_leaves_the_turns(
    line: str, stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(here.talk.telling), "show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        here.enter(line)
    assert here.talk.questions == ("What happens in this video?",)
    assert [(row["number"], row["stop_reason"]) for row in here.rows()] == [(1, "end")]


def test_a_turn_is_kept_before_the_process_ends_as_it_was_told_to(stage: Make) -> None:
    here = stage(CLIP)
    here.talk.ending._number = 15  # the process was told to end before the first token
    with pytest.raises(SystemExit) as caught:
        here.enter("What happens in this video?")
    assert caught.value.code == 143
    assert [(row["answer"], row["stop_reason"]) for row in here.rows()] == [("", "interrupted")]


@contextmanager
def at_pass(engine: Engine, number: int, happens: Callable[[], object]) -> Iterator[None]:
    """Something happens in one of the model's passes, counted from 1."""
    passes = itertools.count(1)
    hook = engine.llama.blocks[-1].register_forward_pre_hook(
        lambda *_: happens() and None if next(passes) == number else None
    )
    try:
        yield
    finally:
        hook.remove()


def fail(error: BaseException) -> Callable[[], None]:
    def happens() -> None:
        raise error

    return happens


def signalled(*numbers: signal.Signals) -> Callable[[], None]:
    def happens() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return happens


@pytest.mark.parametrize(
    "line", ["And the background?", "/retry", "/retry --temperature 2", "/edit 1 What shape is it?"]
)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug")])
def test_an_answer_that_fails_in_a_pass_leaves_everything_as_it_was(
    error: Exception, line: str, stage: Make, engine: Engine
) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter("And its colour?")
    here.enter(f"/add {demo.CLIPS / 'yellow-star.png'}")
    conversation = here.talk.conversation
    before, kept = (list(conversation.turns), conversation.attached), here.path.read_bytes()
    with at_pass(engine, 2, fail(error)), pytest.raises((MemoryShortError, RuntimeError)):
        here.enter(line)
    assert (conversation.turns, conversation.attached) == before
    assert here.path.read_bytes() == kept
    here.enter("What shape is it?")
    assert here.talk.questions == ("What happens in this video?", "And its colour?", "What shape is it?")
    assert len(conversation.turns[2].media) == 1
    assert here.talk.engine.vision.calls == 2


def test_ctrl_c_before_the_first_pass_brings_the_old_turns_back(
    stage: Make, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    kept = here.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "make_room", lambda *_: fail(KeyboardInterrupt())())
        with pytest.raises(KeyboardInterrupt):
            here.enter("/edit 1 What shape is it?")
    assert here.talk.questions == ("What happens in this video?",)
    assert here.path.read_bytes() == kept


def test_a_failed_edit_brings_back_which_turns_were_dropped(stage: Make, tmp_path: Path, clip: Path) -> None:
    here = stage(engine=engine_of(write_checkpoint(tmp_path / "tight", context=160)))
    here.enter(f"/add {clip}")
    here.enter("/set max-new-tokens 10")
    while not here.talk.conversation.dropped:
        here.enter("a red circle?")
    before = list(here.talk.conversation.turns), here.talk.conversation.dropped
    with pytest.raises(ContextError):
        here.enter(f"/edit 1 {ENDLESS}")
    assert (here.talk.conversation.turns, here.talk.conversation.dropped) == before
    here.enter("/edit 1 what")
    assert here.talk.conversation.dropped == 0
    assert stats(here).reused_tokens >= 40
    assert here.talk.engine.vision.calls == 1


def test_an_edit_far_back_is_answered_as_in_a_new_conversation(stage: Make, engine: Engine) -> None:
    here = stage(CLIP)
    for question in ("What happens in this video?", "And its colour?", "And the background?"):
        here.enter(question)
    here.enter("/edit 2 Is there a dog?")
    edited = here.talk.conversation.turns[1]
    engine.prompt_cache = None
    fresh = stage(CLIP)
    fresh.enter("What happens in this video?")
    fresh.enter("Is there a dog?")
    assert edited.answer_ids == fresh.talk.conversation.turns[1].answer_ids
    assert edited.stats.prompt_tokens == fresh.talk.conversation.turns[1].stats.prompt_tokens


def test_undo_to_the_beginning_leaves_the_clip_in_the_cache(stage: Make) -> None:
    here = stage(CLIP)
    for question in ("What happens in this video?", "And its colour?"):
        here.enter(question)
    here.enter("/undo")
    here.enter("/undo")
    assert [medium.clip.path.name for medium in here.talk.conversation.attached] == [CLIP]
    assert here.enter("What happens in this video?") == MOVES
    assert (stats(here).tower_calls, here.talk.engine.vision.calls) == (0, 1)
    assert stats(here).reused_tokens >= 136


def test_undo_shortens_a_long_question(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What\nhappens   in this video, " + "and so on " * 20 + "?")
    said = here.enter("/undo")
    assert said == "Took back: What happens in this video, and so on and so on and so on a…\n"


def test_clear_keeps_added_clips_and_the_file_forgets_the_turns(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What shape is it?")
    here.enter(f"/add {demo.CLIPS / 'yellow-star.png'}")
    here.enter("What shape is it?")
    assert here.enter("/clear") == f"Forgot 2 turns. About {CLIP}, yellow-star.png.\n"
    assert here.kept()[-1] == (1, "undo")
    here.enter("What shape is it?")
    assert [Path(medium["path"]).name for medium in here.rows()[-1]["media"]] == [CLIP, "yellow-star.png"]
    assert (stats(here).tower_calls, here.talk.engine.vision.calls) == (0, 2)
    assert here.enter("/clear").startswith("Forgot 1 turn. ")


def test_a_clip_attached_twice_is_looked_at_once(stage: Make, engine: Engine) -> None:
    here = stage(CLIP)
    here.enter("What shape is it?")
    here.enter(f"/add {demo.CLIPS / CLIP}")
    here.enter("What shape is it?")
    first, second = here.talk.conversation.media
    assert first is second
    assert here.talk.engine.vision.calls == 1
    cached = here.talk.conversation.turns[1].answer_ids
    assert stats(here).prompt_tokens > 2 * 136
    engine.prompt_cache = None
    here.enter("/retry")
    assert here.talk.conversation.turns[1].answer_ids == cached


def test_a_clip_opened_again_begins_anew_without_a_second_look(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.enter(f"/open {demo.CLIPS / CLIP}")
    assert here.talk.questions == ()
    assert here.enter("What happens in this video?") == MOVES
    assert (stats(here).tower_calls, here.talk.engine.vision.calls) == (0, 1)


def test_a_file_that_is_no_clip_leaves_the_conversation_alone(stage: Make, tmp_path: Path) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    (tmp_path / "broken.mp4").write_bytes((demo.CLIPS / CLIP).read_bytes()[:500])
    conversation, kept = here.talk.conversation, here.path.read_bytes()
    for line in ("/open broken.mp4", "/add broken.mp4", f"/open {demo.CLIPS / 'yellow-star.png'} broken.mp4"):
        with pytest.raises(MediaError):
            here.enter(line)
    assert here.talk.conversation is conversation
    assert conversation.attached == ()
    assert here.path.read_bytes() == kept
    assert here.enter("And its colour?") == "Red.\n"
    assert stats(here).reused_tokens > 136


def test_clips_that_never_fit_are_not_opened(stage: Make, tmp_path: Path, clip: Path, other_clip: Path) -> None:
    here = stage(engine=engine_of(write_checkpoint(tmp_path / "tight", context=90)))
    here.enter(f"/add {clip}")
    here.enter("/set max-new-tokens 4")
    here.enter("what")
    with pytest.raises(ContextError):
        here.enter(f"/open {clip} {other_clip}")
    assert here.talk.questions == ("what",)
    here.enter("what")
    assert [number for number, _ in here.kept()] == [1, 2]


def test_the_first_turn_alone_tells_what_it_waited_for(stage: Make) -> None:
    here = stage(CLIP, output="json")
    here.talk.frames_s, here.talk.load_s = 1.5, 2.5
    first, second = (json.loads(here.enter(text)) for text in ("What happens in this video?", "And its colour?"))
    assert (first["timings_s"]["frames"], first["timings_s"]["load"]) == (1.5, 2.5)
    assert (second["timings_s"]["frames"], second["timings_s"]["load"]) == (0.0, 0.0)
    assert [row["stats"]["load_s"] for row in here.rows()] == [2.5, 0.0]
    assert [Path(clip["path"]).name for clip in second["clips"]] == [CLIP]
    assert (second["tokens"]["prompt"], second["tokens"]["reused"]) == (163, 155)


def test_ctrl_c_stops_an_answer_which_is_kept(stage: Make, engine: Engine) -> None:
    here = stage(CLIP)
    with at_pass(engine, 3, signalled(signal.SIGINT)):
        said = here.enter("What happens in this video?")
    answer, notice = said.splitlines()
    assert MOVES.startswith(answer)
    assert notice == "Stopped. What was said is kept; /undo takes it back."
    assert here.talk.was_interrupted
    assert [(row["answer"], row["stop_reason"]) for row in here.rows()] == [(answer, "interrupted")]
    here.enter("/retry")
    assert not here.talk.was_interrupted
    assert here.rows()[-1]["answer"] == MOVES.strip()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_a_pass_and_the_turn_is_kept_all_the_same(stage: Make, engine: Engine) -> None:
    here = stage(CLIP)
    with at_pass(engine, 3, signalled(signal.SIGINT, signal.SIGINT)):
        here.enter("What happens in this video?")
    (row,) = here.rows()
    assert row["stop_reason"] == "interrupted"
    assert len(row["answer_ids"]) == 2
    assert here.enter("/edit 1 What happens in this video?") == MOVES
    assert here.talk.engine.vision.calls == 1


def test_a_request_to_end_stops_an_answer_which_is_kept(stage: Make, engine: Engine) -> None:
    here = stage(CLIP)
    ending, broken = GracefulExit.watched(), at_pass(engine, 3, signalled(signal.SIGTERM))
    with ending as here.talk.ending, broken, pytest.raises(SystemExit) as caught:
        here.enter("What happens in this video?")
    assert caught.value.code == 143
    assert [(row["stop_reason"], len(row["answer_ids"])) for row in here.rows()] == [("interrupted", 3)]


def test_an_answer_that_was_cut_off_says_how_to_get_more(stage: Make) -> None:
    here = stage(CLIP)
    here.enter("/set max-new-tokens 2")
    assert here.enter("What happens in this video?").splitlines()[1:] == [
        "Cut off after 2 tokens: /set max-new-tokens allows more."
    ]


@pytest.mark.parametrize("output", ["stream", "whole"])
def test_an_empty_answer_is_a_line(output: str, stage: Make) -> None:
    here = stage(CLIP, output=output)
    here.talk.ending._number = 15
    with pytest.raises(SystemExit):
        here.enter("What happens in this video?")
    here.talk.ending = GracefulExit()
    here.talk.telling.tell(here.talk.conversation, took="0.50 s")
    assert here.out.getvalue() == "\n"


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("line", ["/retry", "/edit 1 What happens in this video?", "What happens in this video?"])
def test_a_turn_asked_again_is_kept_though_stdout_broke(error: OSError, line: str, stage: Make) -> None:
    here = stage(CLIP)
    here.enter("What happens in this video?")
    here.talk.screen._out = Gone(2, error)  # type: ignore[assignment]
    with pytest.raises(StdoutError) as caught:
        here.enter(line)
    assert isinstance(caught.value, ClosedPipeError) is isinstance(error, BrokenPipeError)
    last = here.talk.conversation.turns[-1]
    assert here.rows()[-1]["answer_ids"] == list(last.answer_ids)
    assert (last.stop_reason, len(here.rows())) == ("interrupted", 2)
    assert [number for number, _ in here.kept()] == ([1, 2] if line.startswith("What") else [1, 1])


@pytest.mark.parametrize("output", ["whole", "json"])
def test_an_answer_that_nobody_read_is_kept_whole(output: str, stage: Make) -> None:
    here = stage(CLIP, output=output)
    here.talk.screen._out = Gone(0)  # type: ignore[assignment]
    with pytest.raises(ClosedPipeError):
        here.enter("What happens in this video?")
    assert [(row["answer"], row["stop_reason"]) for row in here.rows()] == [(MOVES.strip(), "end")]


def test_names_bring_no_control_characters(stage: Make, tmp_path: Path) -> None:
    name = "a\x1b[31m\u202eb.mp4"
    shutil.copy(demo.CLIPS / CLIP, tmp_path / name)
    here = stage()
    here.talk.add([(tmp_path / name, Framing())])
    here.enter("What happens in this video?")
    assert here.err.getvalue() == "Attached to the next question: a[31mb.mp4.\n"
    assert here.rows()[0]["media"][0]["path"] == str(tmp_path / name)
    assert "\x1b" not in here.enter("/frames") + here.enter("/export it.md") + here.enter("/clear")
    assert "\x1b" not in (tmp_path / "it.md").read_text()


def test_an_answer_of_nothing_is_a_line_too(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def at_once() -> Iterator[Callable[[], bool]]:
        yield lambda: True

    monkeypatch.setattr("vllava_cli.commands.chat.talk.sigint_flag", at_once)
    assert stage(CLIP).enter("What happens?") == "\nStopped. What was said is kept; /undo takes it back.\n"
