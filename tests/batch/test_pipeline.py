"""From frames that are read ahead to outcomes: the demo model answers what a list gives in the place of the pool."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from tests.engine.engines import engine_of
from vllava_cli import demo
from vllava_cli.batch.clip_jobs import Unit, units_of
from vllava_cli.batch.jobs import Wanted, made
from vllava_cli.batch.pipeline import Line
from vllava_cli.batch.rows import Outcome
from vllava_cli.commands.provenance import ShownClip
from vllava_cli.engine.generate import Engine
from vllava_cli.errors import MediaError, UsageError
from vllava_cli.media.decoder.pool import Read, ReadAhead
from vllava_cli.media.fingerprint import Hashing
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Answer, Conversation, Frames, Framing, Sampling

PATHS = {path.name: path for path in demo.clips()}
RED, BLUE, PICTURE = (PATHS[name] for name in ("red-circle-moves-left.mp4", "blue-star-grows.mp4", "two-shapes.png"))
HAPPENS, COLOUR, SQUARE = "What happens in this video?", "What colour is it?", "What colour is the square?"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """On one thread: several wait for each other most of the time of so small a model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield engine_of(demo.CHECKPOINT)
    torch.set_num_threads(before)


def units(*asked: tuple[Path, str]) -> list[Unit]:
    return units_of(made([Wanted(path=str(path), question=question) for path, question in asked], "test"))


def frames(path: Path, *, faults: tuple[str, ...] = ()) -> Frames:
    found = sample(path, Framing())
    return replace(found, clip=replace(found.clip, faults=faults))


def read(unit: Unit, *, faults: tuple[str, ...] = ()) -> Read[Unit, Frames]:
    return Read(key=unit, found=frames(unit.path, faults=faults), fault=None, seconds=0.25)


def unread(unit: Unit, fault: Exception) -> Read[Unit, Frames]:
    return Read(key=unit, found=None, fault=fault, seconds=0.25)


@dataclass
class Listed:
    """Reads in the place of those of a pool; None is a moment in which nothing is ready."""

    reads: list[Read[Unit, Frames] | None]
    waited_s: float = 0.0
    waits: list[bool] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return not self.reads

    def take(self, most: int, *, is_waiting: bool, is_interrupted: Callable[[], bool]) -> list[Read[Unit, Frames]]:
        self.waits.append(is_waiting)
        if is_waiting:
            self.waited_s += 0.5
        taken: list[Read[Unit, Frames]] = []
        while self.reads and len(taken) < most:
            first = self.reads.pop(0)
            if first is None and not (is_waiting and not is_interrupted()):
                break
            taken += [first] if first else []
        return taken


def line(
    engine: Engine,
    reads: list[Read[Unit, Frames] | None],
    *,
    most_rows: int = 4,
    is_stopping: Callable[[], bool] = lambda: False,
    said: list[str] | None = None,
) -> Line:
    listed: ReadAhead[Unit, Frames] = Listed(reads)  # type: ignore[assignment]
    return Line(
        engine=Engine(model=engine.model, tokens=engine.tokens, plan=engine.plan),
        ahead=listed,
        sampling=Sampling(max_new_tokens=40),
        framing=Framing(),
        most_rows=most_rows,
        is_stopping=is_stopping,
        tell=(said if said is not None else []).append,
    )


def told(outcomes: Iterator[Outcome]) -> dict[tuple[str, str], str | None]:
    """(name, question) → the answer, or the kind of error."""
    return {
        (Path(outcome.job.path).name, outcome.job.question): outcome.answer.text
        if outcome.answer
        else outcome.fault and outcome.fault.kind
        for outcome in outcomes
    }


def test_each_question_about_each_clip_is_answered_with_its_times(engine: Engine) -> None:
    reads = [read(each) for each in units((RED, HAPPENS), (RED, COLOUR), (PICTURE, SQUARE), (BLUE, HAPPENS))]
    outcomes = list(line(engine, [*reads]).outcomes())
    assert told(iter(outcomes)) == {
        (RED.name, HAPPENS): "A red circle moves left.",
        (RED.name, COLOUR): "Red.",
        (BLUE.name, HAPPENS): "A blue star grows.",
        (PICTURE.name, SQUARE): "Blue.",
    }
    times = {Path(outcome.job.path).name: outcome.times_s for outcome in outcomes}
    assert times == {RED.name: frames(RED).times_s, BLUE.name: frames(BLUE).times_s, PICTURE.name: None}
    assert all(outcome.seconds > 0 for outcome in outcomes)


def test_what_is_asked_twice_is_answered_once_for_both_jobs(engine: Engine) -> None:
    (unit,) = units((RED, COLOUR), (RED, COLOUR))
    made_line = line(engine, [read(unit)])
    outcomes = list(made_line.outcomes())
    assert [outcome.job for outcome in outcomes] == list(unit.jobs)
    assert outcomes[0].answer is outcomes[1].answer
    stats = outcomes[0].answer and outcomes[0].answer.stats
    assert stats and made_line.meter.new_tokens == stats.new_tokens


def test_each_question_has_a_seed_of_its_own_that_gives_its_answer_again(engine: Engine) -> None:
    warm = Sampling(max_new_tokens=12, temperature=4.0, has_guard=False)
    (unit,) = units((RED, HAPPENS), (RED, COLOUR), (RED, HAPPENS))
    drawing = replace(line(engine, [read(unit)]), sampling=warm)
    found = {outcome.job.question: outcome for outcome in drawing.outcomes()}
    makings = {question: outcome.making for question, outcome in found.items()}
    assert len({making.seed for making in makings.values() if making}) == 2
    for question, outcome in found.items():
        making = outcome.making
        assert making and outcome.answer and outcome.precision == "fp32"
        conversation = Conversation(attached=(frames(RED),))
        alone = Engine(model=engine.model, tokens=engine.tokens, plan=engine.plan)
        again = Answer.of(alone.stream(conversation, question, making.sampling))
        (turn,) = conversation.turns
        assert (again.text, turn.answer_ids, turn.prompt_sha256) == (
            *(outcome.answer.text, making.answer_ids),
            making.prompt_sha256,
        )


def test_a_seed_that_was_given_is_every_questions(engine: Engine) -> None:
    reads = [read(each) for each in units((RED, HAPPENS), (RED, COLOUR))]
    drawing = replace(line(engine, [*reads]), sampling=Sampling(max_new_tokens=2, temperature=1.0, seed=7))
    assert [outcome.making and outcome.making.seed for outcome in drawing.outcomes()] == [7, 7]


def test_clips_are_hashed_only_where_that_was_asked_for(engine: Engine) -> None:
    reads = [read(each) for each in units((RED, HAPPENS), (RED, COLOUR))]
    for hashing, sha256 in ((None, None), (Hashing(), hashlib.sha256(RED.read_bytes()).hexdigest())):
        hashed = replace(line(engine, [*reads]), hashing=hashing)
        makings = [outcome.making for outcome in hashed.outcomes()]
        clip = ShownClip(framing=Framing(), bytes=RED.stat().st_size, sha256=sha256)
        assert [making and making.clips for making in makings] == [(clip,), (clip,)]


def test_a_clip_that_cannot_be_read_is_an_outcome_for_each_of_its_jobs(engine: Engine) -> None:
    red, blue = units((RED, HAPPENS), (RED, COLOUR), (BLUE, HAPPENS))
    outcomes = line(engine, [unread(red, MediaError("It is torn.")), read(blue)]).outcomes()
    assert told(outcomes) == {
        (RED.name, HAPPENS): "unreadable",
        (RED.name, COLOUR): "unreadable",
        (BLUE.name, HAPPENS): "A blue star grows.",
    }


def test_a_trim_that_does_not_suit_a_clip_is_an_outcome_without_times(engine: Engine) -> None:
    (red,) = units((RED, HAPPENS))
    (outcome,) = line(engine, [unread(red, UsageError("--start is late."))]).outcomes()
    assert outcome.fault is not None and outcome.times_s is None
    assert (outcome.fault.kind, outcome.fault.message) == ("trim", "--start is late.")


def test_a_clip_that_changed_since_the_run_began_is_not_answered(engine: Engine, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(RED.read_bytes())
    (unit,) = units((clip, COLOUR))
    done = read(unit)
    clip.write_bytes(BLUE.read_bytes())
    (outcome,) = line(engine, [done]).outcomes()
    assert outcome.fault is not None and outcome.answer is None
    assert (outcome.fault.kind, outcome.fault.message) == (
        "changed",
        f"'{clip}' has changed since the run began. Run the same command again.",
    )


def test_a_clip_that_vanished_after_it_was_read_is_missing(engine: Engine, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(RED.read_bytes())
    (unit,) = units((clip, COLOUR))
    done = read(unit)
    clip.unlink()
    assert told(line(engine, [done]).outcomes()) == {("clip.mp4", COLOUR): "missing"}


def test_a_question_without_room_is_an_outcome_beside_the_others(engine: Engine) -> None:
    long = "why " * 2000
    (unit,) = units((RED, long), (RED, COLOUR))
    assert told(line(engine, [read(unit)]).outcomes()) == {(RED.name, long): "context", (RED.name, COLOUR): "Red."}


def test_damage_that_leaves_a_clip_usable_is_told(engine: Engine) -> None:
    said: list[str] = []
    (unit,) = units((RED, COLOUR))
    outcomes = line(engine, [read(unit, faults=("'a.mp4' ends early.",))], said=said).outcomes()
    assert told(outcomes) == {(RED.name, COLOUR): "Red."}
    assert said == ["'a.mp4' ends early."]


def test_it_waits_for_frames_only_where_it_has_nothing_else_to_do(engine: Engine) -> None:
    red, blue = (read(each) for each in units((RED, HAPPENS), (BLUE, HAPPENS)))
    made_line = line(engine, [None, red, None, blue])
    assert len(told(made_line.outcomes())) == 2
    listed = made_line.ahead
    assert isinstance(listed, Listed)
    assert listed.waits[0] and not all(listed.waits)
    assert made_line.meter.idle_s == listed.waited_s > 0


def test_what_was_counted_can_be_told(engine: Engine) -> None:
    reads = [read(each) for each in units((RED, HAPPENS), (RED, COLOUR), (BLUE, COLOUR))]
    made_line = line(engine, [*reads], most_rows=3)
    list(made_line.outcomes())
    meter = made_line.meter
    assert (meter.clips, meter.decode_s, meter.tower_calls, meter.rows_at_once, meter.used_bytes) == (
        2,
        0.5,
        2,
        3,
        None,
    )
    json.dumps(vars(meter))


def test_once_it_is_to_stop_only_what_was_begun_is_finished(engine: Engine) -> None:
    reads = [read(each) for each in units((RED, COLOUR), (BLUE, COLOUR), (PATHS["three-shapes.mp4"], COLOUR))]
    answered: list[Outcome] = []
    made_line = line(engine, [*reads], most_rows=1, is_stopping=lambda: bool(answered))
    for outcome in made_line.outcomes():
        answered.append(outcome)
    assert told(iter(answered)) == {(RED.name, COLOUR): "Red."}


@contextmanager
def memory_for(engine: Engine, rows: int) -> Iterator[None]:
    """More rows than so many run out of memory, as torch tells it."""

    def refuse(_: torch.nn.Module, given: tuple[torch.Tensor, object]) -> None:
        if len(given[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = engine.llama.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def test_a_lack_of_memory_is_told_and_costs_no_answer(engine: Engine) -> None:
    said: list[str] = []
    reads = [read(each) for each in units(*((path, COLOUR) for path in (RED, BLUE, *list(PATHS.values())[2:4])))]
    made_line = line(engine, [*reads], said=said)
    with memory_for(made_line.engine, 2):
        outcomes = list(made_line.outcomes())
    assert len(outcomes) == 4 and not [outcome for outcome in outcomes if outcome.fault]
    assert said == ["vllava: memory ran out: going on with 2 questions at once."]
    assert made_line.meter.rows_at_once == 2


def test_one_question_too_many_for_the_memory_is_an_outcome(engine: Engine) -> None:
    said: list[str] = []
    made_line = line(engine, [read(each) for each in units((RED, COLOUR), (RED, HAPPENS))], most_rows=2, said=said)
    with memory_for(made_line.engine, 0):
        kinds = [outcome.fault.kind for outcome in made_line.outcomes() if outcome.fault]
    assert kinds == ["memory"] * 2
    assert said == [f"vllava: memory ran out: going on with {rows} at once." for rows in ("1 question", "2 questions")]
