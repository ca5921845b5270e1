"""A contest yields its lines in the table's order, in the units that they promise, and ends when it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.engine.batches import Shortage, is_within
from tests.engine.engines import EXACT
from tests.engine.measuring.conftest import ONCE, SIZES
from vllava_cli.engine.measuring.asked import Asked
from vllava_cli.engine.measuring.contest import Subject, Task, contest, random_subject
from vllava_cli.engine.measuring.limits import Limits
from vllava_cli.engine.measuring.lines import Contest
from vllava_cli.engine.measuring.ours import Ours
from vllava_cli.engine.measuring.pair import Pair
from vllava_cli.errors import ContextError, MemoryShortError, UsageError
from vllava_cli.interrupt import never
from vllava_cli.measures import Line
from vllava_cli.nouns import Conversation, Frames, LoadPlan, Speed

pytestmark = pytest.mark.usefixtures("one_thread")
TABLE = [
    ("load", "s"),
    ("vision", "ms"),
    ("prefill", "tokens/s"),
    ("first token", "ms"),
    ("first token, turn 2", "ms"),
    ("decode, batch 1", "tokens/s"),
    ("decode, batch 3", "tokens/s"),
    ("peak memory", "MiB"),
    ("batch", "clips/s"),
]


@pytest.fixture(scope="module")
def task(frames: Frames) -> Task:
    return Task(frames=frames, question="What happens in this video?", new_tokens=4, repeat=2, batches=(1, 3))


@pytest.fixture(scope="module")
def expected() -> dict[str, float]:
    """What was expected, "about" and "at least", once the lines are there."""
    return {}


@pytest.fixture(scope="module")
def lines(subject: Subject, task: Task, expected: dict[str, float]) -> dict[str, Line]:
    told: list[str] = []
    found = contest(subject, EXACT, task, is_interrupted=never, tell=told.append, expect=expected.__setitem__)
    return {line.name: line for line in found}


def run(subject: Subject, task: Task, plan: LoadPlan = EXACT, told: list[str] | None = None) -> Iterator[Line]:
    return contest(subject, plan, task, is_interrupted=never, tell=(told if told is not None else []).append)


def test_how_long_it_takes_is_said_from_limits_and_then_from_a_first_answer(
    lines: dict[str, Line], expected: dict[str, float]
) -> None:
    assert lines
    assert list(expected) == ["at least", "about"]
    assert all(seconds > 0 for seconds in expected.values())


def test_the_lines_come_in_the_tables_order(lines: dict[str, Line]) -> None:
    assert [(line.name, line.unit) for line in lines.values()] == TABLE


def test_each_line_has_both_contestants_as_often_as_asked(lines: dict[str, Line]) -> None:
    for line in lines.values():
        once = line.name == "peak memory"
        for side in (line.ours, line.snippet):
            assert side
            assert len(side.values) == (1 if once else 2)
            assert all(value > 0 for value in side.values)
        assert line.of_snippet
        assert line.note == ""


def test_each_line_has_a_limit_but_that_of_memory(lines: dict[str, Line]) -> None:
    assert [line.name for line in lines.values() if line.limit is None] == ["peak memory"]
    assert all(line.limit > 0 for line in lines.values() if line.limit is not None)


def test_units_are_what_they_say(lines: dict[str, Line]) -> None:
    """A pass of the demo takes milliseconds, its process hundreds of MiB: a wrong factor would be off by 1000."""
    for name in ("vision", "first token"):
        ours = lines[name].ours
        assert ours
        assert 1 < ours.median < 10_000
    first, load, peak = lines["first token"].limit, lines["load"].ours, lines["peak memory"].snippet
    assert lines["vision"].limit
    assert first
    assert lines["vision"].limit < first < 1000
    assert load
    assert load.median < 60
    assert peak
    assert 100 < peak.median < 20_000


def test_a_random_model_has_all_lines_but_how_it_was_loaded(task: Task) -> None:
    told: list[str] = []
    found = list(run(random_subject("tiny"), replace(task, repeat=0), told=told))
    assert [(line.name, line.unit) for line in found] == TABLE
    assert found[0] == Line(name="load", unit="s", note="Random weights are made, not loaded.")
    assert all(line.ours and line.snippet for line in found[1:])
    assert told == [
        *("how fast the device is", "loading", "peak memory", "vision", "prefill", "first token"),
        "first token, turn 2",
        *("decode, batch 1", "decode, batch 3", "batch"),
    ]


def test_an_interruption_ends_it_between_two_measurements(subject: Subject, task: Task) -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        for line in contest(subject, EXACT, task, is_interrupted=lambda: "vision" in seen, tell=str):
            seen.append(line.name)
    assert seen == ["load", "vision"]


@pytest.mark.parametrize("where", ["measured", "_drawn", "skeleton"])
def test_too_little_memory_for_the_model_ends_it(where: str, task: Task) -> None:
    with Shortage(lambda: is_within(where)), pytest.raises(MemoryShortError):
        list(run(random_subject("tiny"), task))


def test_too_little_memory_for_a_batch_is_a_note(task: Task) -> None:
    shortage = Shortage(lambda: not shortage.count and is_within("DecodeBatch.step"))
    with shortage:
        found = {line.name: line for line in run(random_subject("tiny"), replace(task, repeat=1))}
    short = found["decode, batch 3"]
    assert (short.ours, short.note) == (None, "This tool ran out of memory.")
    assert short.snippet
    assert found["decode, batch 1"].ours
    assert found["batch"].ours


def test_a_context_that_the_prompt_fills_is_refused_before_anything_is_loaded(subject: Subject, task: Task) -> None:
    told: list[str] = []
    with pytest.raises(ContextError, match="the context holds 150: shorten the question"):
        next(run(subject, task, replace(EXACT, context_tokens=150), told))
    assert told == []


def test_an_answer_is_as_long_as_the_context_lets_it(subject: Subject, task: Task) -> None:
    plan = replace(EXACT, context_tokens=152)
    assert [line.name for line in run(subject, replace(task, new_tokens=64, repeat=0, batches=(1,)), plan)][
        -1
    ] == "batch"


def test_what_only_the_snippet_has_does_not_count_for_ours(pair: Pair, question: Asked) -> None:
    class Spare(Pair):
        @property
        def snippet_bytes(self) -> int:
            return 200 << 20

    spare = Contest(
        pair=Spare(engine=pair.engine, snippet=pair.snippet),
        ours=Ours(engine=pair.engine, is_interrupted=never),
        asked=question,
        turns=ONCE,
        limits=Limits.of(SIZES, EXACT, Speed(operations=1.0, bytes=1.0)),
        expect=lambda *_: None,
        tell=str,
    )
    peak = next(line for line in spare.lines(()) if line.name == "peak memory")
    assert peak.ours
    assert peak.snippet
    assert peak.snippet.median - peak.ours.median > 150


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU is needed")
def test_it_is_the_same_on_a_gpu(task: Task) -> None:
    plan = replace(EXACT, device="cuda:0", dtype="float16")
    found = list(run(random_subject("tiny"), task, plan))
    assert [(line.name, line.unit) for line in found] == TABLE
    assert all(line.ours and line.snippet for line in found[1:])


def test_an_unknown_random_model_is_refused() -> None:
    with pytest.raises(UsageError, match="choose 7b, 1b, tiny"):
        random_subject("13b")


def test_a_second_turn_reads_the_question_alone(subject: Subject, task: Task, lines: dict[str, Line]) -> None:
    """Its limit is that of some dozen tokens, where the first turn's has the clip."""
    first, second = lines["first token"], lines["first token, turn 2"]
    assert first.limit
    assert second.limit
    assert second.limit < first.limit / 2
    shown = len(subject.tokens.prompt_ids(Conversation(attached=(task.frames,)), task.question))
    tight = replace(subject, tokens=replace(subject.tokens, context_tokens=shown + 4))
    found = {line.name: line for line in run(tight, replace(task, repeat=0, batches=(1,)))}
    assert found["first token, turn 2"] == Line(
        name="first token, turn 2", unit="ms", note="The context has no room for a second turn."
    )
