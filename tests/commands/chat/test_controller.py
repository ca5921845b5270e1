"""What can be done to a conversation: asking, taking back, editing, adding; and that each turn is saved at once."""

from __future__ import annotations

import io
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
from tests.commands.chat.conftest import CLIP, HAPPENS, MOVES, Stage
from tests.engine.engines import engine_of
from vllava_cli import demo
from vllava_cli.answers import Stats
from vllava_cli.commands.chat.display import end_answer
from vllava_cli.commands.chat.parser import quoted
from vllava_cli.engine.generate import Engine
from vllava_cli.errors import ClosedPipeError, ContextError, MediaError, MemoryShortError, StdoutError, UsageError

Make = Callable[..., Stage]
REFUSED = "I am a tiny demo model: I only know moving shapes.\n"
ENDLESS = "and then what " * 3000
STAR = demo.CLIPS / "yellow-star.png"
COLOUR, BACKGROUND = "And its colour?", "And the background?"


@pytest.fixture
def tight(stage: Make, tmp_path: Path, clip: Path) -> Callable[[int], Stage]:
    """Makes a chat about a clip with a small context and short answers."""

    def make(context: int) -> Stage:
        made = stage(engine=engine_of(write_checkpoint(tmp_path / "tight", context=context)))
        made.enter(f"/add {clip}", f"/set max-new-tokens {4 if context < 100 else 10}")
        return made

    return make


def stats(here: Stage) -> Stats:
    return here.chat.conversation.turns[-1].stats


def stops(here: Stage) -> list[tuple[int, str]]:
    return [(row["number"], row["stop_reason"]) for row in here.rows()]


def test_a_turn_costs_its_own_tokens_and_a_clip_is_encoded_once(here: Stage) -> None:
    finished = len(here.chat.engine.tokens.finished_ids(here.chat.conversation))
    assert here.enter(COLOUR) == "Red.\n"
    assert (stats(here).reused_tokens, stats(here).tower_calls) == (finished, 0)
    here.enter("/undo", "/retry", "/edit 1 What shape is it?")
    assert here.calls == 1
    assert all(turn.stats.reused_tokens for turn in here.chat.conversation.turns)


def test_undo_takes_the_last_turn_back_here_and_in_the_file(here: Stage) -> None:
    said = here.enter("What\nhappens   in this video, " + "and so on " * 20 + "?", "/undo")
    assert said == "Took back: What happens in this video, and so on and so on and so on a…\n"
    assert here.enter(COLOUR, "/undo") == f"Took back: {COLOUR}\n"
    assert here.chat.questions == (HAPPENS,)
    assert here.enter(BACKGROUND) == "White.\n"
    assert here.saved()[3:] == [(2, COLOUR), (2, "undo"), (2, BACKGROUND)]


def test_what_came_with_a_turn_that_is_undone_comes_with_the_next(here: Stage) -> None:
    assert here.enter(f"/add {STAR}") == (
        "vllava: warning: the model was trained on one clip at a time, so answers about several may be poor.\n"
        "Attached to the next question: yellow-star.png.\n"
    )
    here.enter("What shape is it?", "/undo", "What colour is it?")
    assert [medium["path"] for medium in here.rows()[-1]["media"]] == [str(STAR)]
    assert here.calls == 2


def test_edit_asks_again_in_place_of_a_turn_and_drops_what_follows(here: Stage) -> None:
    here.enter(COLOUR, BACKGROUND)
    assert here.enter("/edit 1 What shape is it?") == "Circle.\nTurns 2 to 3 are dropped with the old question.\n"
    assert here.chat.questions == ("What shape is it?",)
    assert here.saved()[-1] == (1, "What shape is it?")
    with pytest.raises(UsageError, match="There is no question 2: the last one is 1"):
        here.enter("/edit 2 What?")


def test_retry_asks_the_same_with_other_settings_for_once(here: Stage) -> None:
    here.enter("/retry --temperature 3 --seed 1")
    (turn,) = here.chat.conversation.turns
    assert (turn.question, turn.sampling.temperature, turn.sampling.seed) == (HAPPENS, 3.0, 1)
    assert here.chat.sampling.temperature == 0
    assert here.enter("/retry") == (
        f"{MOVES}The temperature is 0, so the answer will be the same: /retry --temperature 0.8 varies it.\n"
    )
    assert here.enter("/retry --temperature 0") == MOVES
    assert [number for number, _ in here.saved()] == [1, 1, 1, 1]


def test_an_answer_is_chosen_and_each_choice_has_its_share(stage: Make) -> None:
    here = stage(CLIP)
    assert here.enter("/set choices star, circle, a dog") == "choices  star,circle,a dog\n"
    assert here.enter("What is it?") == "star\nstar 89%, circle 11%, a dog <1%\n"
    assert here.enter("/set calibrate on") == "calibrate  on\n"
    assert here.enter("/edit 1 Is there a star?") == "circle\nstar 14%, circle 86%, a dog <1%\n"
    (turn,) = here.chat.conversation.turns
    assert (turn.stop_reason, sum(turn.probabilities)) == ("choice", pytest.approx(1))
    assert here.enter("/set choices none", HAPPENS) == MOVES
    assert here.calls == 1


def test_a_choice_does_not_vary(stage: Make) -> None:
    here = stage(CLIP)
    said = here.enter("/set temperature 1", "/set choices left,right", "Which way does it move?")
    assert here.enter("/retry") == (
        "left\nA choice doesn't vary, so the answer will be the same: /set choices none removes the choices.\n"
        f"{said.splitlines()[1]}\n"
    )
    assert here.enter("/retry --choices right,left") == "left\nright <1%, left >99%\n"


def test_choices_that_the_model_reads_alike_leave_everything_as_it_was(here: Stage) -> None:
    here.enter("/set choices </s>,< /s>")
    with pytest.raises(UsageError, match="To the model, the choices '</s>' and '< /s>' are the same: leave one out"):
        here.enter(COLOUR)
    assert (here.chat.questions, len(here.saved())) == ((HAPPENS,), 1)
    assert here.enter("/set choices none", COLOUR) == "Red.\n"


@pytest.mark.parametrize("line", [f"/edit 1 {ENDLESS}", ENDLESS])
def test_a_question_that_does_not_fit_leaves_everything_as_it_was(line: str, here: Stage) -> None:
    here.enter(COLOUR)
    before, written = list(here.chat.conversation.turns), here.path.read_bytes()
    with pytest.raises(ContextError):
        here.enter(line)
    assert (here.chat.conversation.turns, here.chat.conversation.attached) == (before, ())
    assert here.path.read_bytes() == written
    assert here.enter(BACKGROUND) == "White.\n"


@pytest.mark.parametrize("line", ["/undo", "/retry", "/edit 1 What?"])
def test_without_a_turn_there_is_nothing_to_take_back(line: str, stage: Make) -> None:
    here = stage(CLIP)
    with pytest.raises(UsageError):
        here.enter(line)
    assert len(here.chat.conversation.attached) == 1


def test_clear_forgets_the_turns_here_and_in_the_file_and_all_clips_stay(here: Stage) -> None:
    assert here.enter(f"/add {STAR}", "What shape is it?", "/clear") == (
        f"Forgot 2 turns. About {CLIP}, yellow-star.png.\n"
    )
    assert here.saved()[-1] == (1, "undo")
    here.enter("What shape is it?")
    assert [Path(medium["path"]).name for medium in here.rows()[-1]["media"]] == [CLIP, "yellow-star.png"]
    assert (stats(here).tower_calls, here.calls) == (0, 2)
    assert here.enter("/clear").startswith("Forgot 1 turn. ")


def test_open_begins_a_conversation_in_a_file_of_its_own(here: Stage) -> None:
    written = here.path.read_bytes()
    assert here.enter(f"/open {demo.CLIPS / 'blue-star-grows.mp4'}") == (
        "A new conversation. About blue-star-grows.mp4.\n"
    )
    assert here.enter("What does the star do?") == "It grows.\n"
    assert here.path.read_bytes() == written
    (other,) = here.others()
    assert [row["question"] for row in here.rows(other)] == ["What does the star do?"]
    assert here.enter(f"/open {demo.CLIPS / CLIP}", HAPPENS) == MOVES
    assert (here.chat.questions, here.calls) == ((HAPPENS,), 2), "it is encoded once"


def test_a_clip_that_cannot_be_read_leaves_the_conversation_alone(here: Stage) -> None:
    Path("broken.mp4").write_bytes((demo.CLIPS / CLIP).read_bytes()[:500])
    conversation, written = here.chat.conversation, here.path.read_bytes()
    for line in ("/open broken.mp4", "/add broken.mp4", f"/open {STAR} broken.mp4", "/open none.mp4", "/add none.mp4"):
        with pytest.raises(MediaError):
            here.enter(line)
    assert here.chat.conversation is conversation
    assert conversation.attached == ()
    assert here.path.read_bytes() == written
    assert here.enter(COLOUR) == "Red.\n"
    assert stats(here).reused_tokens > 136
    assert stops(here) == [(1, "end"), (2, "end")]


def test_clips_that_can_never_fit_are_neither_added_nor_opened(
    tight: Callable[[int], Stage], clip: Path, other_clip: Path
) -> None:
    here = tight(90)
    with pytest.raises(ContextError):
        here.enter(f"/add {clip}")
    assert len(here.chat.conversation.attached) == 1
    here.enter("what")
    with pytest.raises(ContextError):
        here.enter(f"/open {clip} {other_clip}")
    assert here.chat.questions == ("what",)
    here.enter("what")
    assert [number for number, _ in here.saved()] == [1, 2]


def test_a_conversation_without_clips_is_text_alone(stage: Make) -> None:
    here = stage()
    assert here.chat.about == "No clip is open: /open FILE opens one."
    assert here.enter("Hello?") == REFUSED
    assert here.enter(f"/add {demo.CLIPS / CLIP}", HAPPENS)
    assert here.calls == 1


def test_dropped_turns_are_named_and_the_clip_is_encoded_once(tight: Callable[[int], Stage]) -> None:
    here = tight(160)
    said = [here.enter("a red circle?") for _ in range(9)]
    notices = [line for text in said for line in text.splitlines() if "no longer in the context" in line]
    assert notices[0].startswith("Turns 1 to ")
    assert notices[0].endswith(" are no longer in the context, which was full; the clips still are.")
    assert here.calls == 1
    assert [number for number, _ in here.saved()] == list(range(1, 10))
    dropped = here.chat.conversation.dropped
    assert f"turn {dropped}  " in (shown := here.enter("/show"))
    assert shown.count("no longer in the context") == dropped


def test_a_failed_edit_brings_back_which_turns_were_dropped(tight: Callable[[int], Stage]) -> None:
    here = tight(160)
    while not here.chat.conversation.dropped:
        here.enter("a red circle?")
    before = list(here.chat.conversation.turns), here.chat.conversation.dropped
    with pytest.raises(ContextError):
        here.enter(f"/edit 1 {ENDLESS}")
    assert (here.chat.conversation.turns, here.chat.conversation.dropped) == before
    here.enter("/edit 1 what")
    assert here.chat.conversation.dropped == 0
    assert stats(here).reused_tokens >= 40
    assert here.calls == 1


def test_the_first_turn_alone_tells_what_it_waited_for(stage: Make) -> None:
    here = stage(CLIP, form="json")
    here.chat.frames_s, here.chat.load_s = 1.5, 2.5
    first, second = (json.loads(here.enter(text)) for text in (HAPPENS, COLOUR))
    assert (first["turn"], first["answer"], first["stop_reason"]) == (1, MOVES.strip(), "end")
    assert (first["timings_s"]["frames"], first["timings_s"]["load"]) == (1.5, 2.5)
    assert (second["timings_s"]["frames"], second["timings_s"]["load"]) == (0.0, 0.0)
    assert [row["stats"]["load_s"] for row in here.rows()] == [2.5, 0.0]
    assert (second["turn"], [Path(clip["path"]).name for clip in second["clips"]]) == (2, [CLIP])
    assert (second["tokens"]["prompt"], second["tokens"]["reused"]) == (163, 155)


class Gone(io.StringIO):
    """A stdout whose reader goes away after some pieces."""

    def __init__(self, pieces: int, error: OSError | None = None) -> None:
        super().__init__()
        self.left, self.error = pieces, error or BrokenPipeError()

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return len(text)


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("line", ["/retry", f"/edit 1 {HAPPENS}", HAPPENS])
def test_a_turn_is_saved_though_stdout_broke(error: OSError, line: str, here: Stage) -> None:
    here.chat.screen._out = Gone(2, error)
    with pytest.raises(StdoutError) as caught:
        here.enter(line)
    assert isinstance(caught.value, ClosedPipeError) is isinstance(error, BrokenPipeError)
    last, row = here.chat.conversation.turns[-1], here.rows()[-1]
    assert row["answer_ids"] == list(last.answer_ids)
    assert row["answer"] and MOVES.startswith(row["answer"])
    assert stops(here) == [(1, "end"), (2 if line == HAPPENS else 1, "interrupted")]


@pytest.mark.parametrize("form", ["whole", "json"])
def test_an_answer_that_nobody_read_is_saved_whole(form: str, stage: Make) -> None:
    here = stage(CLIP, form=form)
    here.chat.screen._out = Gone(0)
    with pytest.raises(ClosedPipeError):
        here.enter(HAPPENS)
    assert [(row["answer"], row["stop_reason"]) for row in here.rows()] == [(MOVES.strip(), "end")]


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


def fail(error: BaseException) -> Callable[..., None]:
    def happens(*_: object) -> None:
        raise error

    return happens


def signalled(*numbers: signal.Signals) -> Callable[[], None]:
    def happens() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return happens


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_a_turn_that_was_broken_off_in_a_pass_is_saved(error: BaseException, here: Stage, engine: Engine) -> None:
    with at_pass(engine, 4, fail(error)):
        try:
            here.enter(HAPPENS)
        except SystemExit as exc:
            assert exc is error
    assert stops(here) == [(1, "end"), (2, "interrupted")]
    assert here.rows()[1]["answer"]
    assert here.enter(COLOUR) == "Red.\n"
    assert here.calls == 1


@pytest.mark.parametrize("line", [COLOUR, "/retry", f"/edit 1 {COLOUR}"])
@pytest.mark.parametrize("place", ["stream", "make_room"])
def test_ctrl_c_before_the_stream_has_begun_leaves_the_turns(
    place: str, line: str, here: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = here.path.read_bytes()
    with monkeypatch.context() as patch:
        if place == "stream":
            patch.setattr("vllava_cli.commands.chat.controller.show", fail(KeyboardInterrupt()))
        else:
            patch.setattr(here.chat.engine, "make_room", fail(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            here.enter(line)
    assert here.chat.questions == (HAPPENS,)
    assert here.path.read_bytes() == written


@pytest.mark.parametrize("line", [BACKGROUND, "/retry", "/retry --temperature 2", "/edit 1 What shape is it?"])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug")])
def test_an_answer_that_fails_in_a_pass_leaves_everything_as_it_was(
    error: Exception, line: str, here: Stage, engine: Engine
) -> None:
    here.enter(COLOUR, f"/add {STAR}")
    conversation = here.chat.conversation
    before, written = (list(conversation.turns), conversation.attached), here.path.read_bytes()
    with at_pass(engine, 2, fail(error)), pytest.raises((MemoryShortError, RuntimeError)):
        here.enter(line)
    assert (conversation.turns, conversation.attached) == before
    assert here.path.read_bytes() == written
    here.enter("What shape is it?")
    assert here.chat.questions == (HAPPENS, COLOUR, "What shape is it?")
    assert len(conversation.turns[2].media) == 1
    assert here.calls == 2


def test_ctrl_c_stops_an_answer_which_is_saved(stage: Make, engine: Engine) -> None:
    here = stage(CLIP)
    with at_pass(engine, 3, signalled(signal.SIGINT)):
        answer, notice = here.enter(HAPPENS).splitlines()
    assert MOVES.startswith(answer)
    assert notice == "Stopped. The text so far is kept; /undo removes it."
    assert here.chat.was_interrupted
    assert [(row["answer"], row["stop_reason"]) for row in here.rows()] == [(answer, "interrupted")]
    here.enter("/retry")
    assert not here.chat.was_interrupted
    assert here.rows()[-1]["answer"] == MOVES.strip()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("form", ["stream", "whole"])
def test_a_turn_that_ends_before_its_first_token_is_saved_and_an_empty_line(form: str, stage: Make) -> None:
    here = stage(CLIP, form=form)
    here.chat.ending._number = 15  # the process was told to end
    with pytest.raises(SystemExit) as caught:
        here.enter(HAPPENS)
    assert caught.value.code == 143
    assert [(row["answer"], row["stop_reason"]) for row in here.rows()] == [("", "interrupted")]
    end_answer(here.chat.conversation.turns[0], 1, here.chat.screen, here.chat.form, took="0.50 s")
    assert here.out.getvalue() == "\n"
    assert here.err.getvalue() == "Stopped. The text so far is kept; /undo removes it.\n"


def test_names_bring_no_control_characters(stage: Make, tmp_path: Path) -> None:
    name = "a\x1b[31m\u202eb.mp4"
    shutil.copy(demo.CLIPS / CLIP, tmp_path / name)
    here = stage()
    here.enter(f"/add {quoted(name)}", HAPPENS)
    assert here.err.getvalue() == "Attached to the next question: a[31mb.mp4.\n"
    assert here.rows()[0]["media"][0]["path"] == str(tmp_path / name)
    assert "\x1b" not in here.enter("/frames") + here.enter("/export it.md") + here.enter("/clear")
    assert "\x1b" not in (tmp_path / "it.md").read_text()
