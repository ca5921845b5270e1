"""A benchmark yields its figures in the table's order, in the units that they promise, and ends when it is told to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.clips import write_clip
from tests.engine.batches import Shortage, is_within
from tests.engine.engines import EXACT
from tests.engine.measuring.conftest import Making
from vllava_cli.answers import Conversation
from vllava_cli.engine.device_speed import peak_bytes
from vllava_cli.engine.measuring.figures import BenchTask, Figure, Measured
from vllava_cli.engine.measuring.model_benchmark import repeats_of
from vllava_cli.errors import ContextError, MemoryShortError

pytestmark = pytest.mark.usefixtures("one_thread")
MIB = 1 << 20
TABLE = [
    ("load", "s"),
    ("frames", "s"),
    ("vision", "ms"),
    ("prefill", "tokens/s"),
    ("first token", "ms"),
    ("decode, batch 1", "tokens/s"),
    ("decode, batch 3", "tokens/s"),
    ("peak memory", "MiB"),
    ("batch", "clips/s"),
]


@pytest.fixture(scope="module")
def expected() -> list[float]:
    return []


@pytest.fixture(scope="module")
def figures(making: Making, expected: list[float]) -> dict[str, Figure]:
    return {figure.name: figure for figure in making(expect=expected.append).figures()}


def test_each_line_has_both_tools_as_often_as_asked_and_a_limit(
    figures: dict[str, Figure], expected: list[float]
) -> None:
    assert [(figure.name, figure.unit) for figure in figures.values()] == TABLE
    for figure in figures.values():
        once = figure.name == "peak memory"
        assert [len(side.values) for side in (figure.ours, figure.snippet) if side] == [1 if once else 2] * 2
        assert all(value > 0 for side in (figure.ours, figure.snippet) if side for value in side.values)
        assert (figure.note, figure.limit is None) == ("", once or figure.name == "frames")
    (seconds,) = expected
    assert seconds > 0


def test_units_are_what_they_say(figures: dict[str, Figure]) -> None:
    """A pass of the demo takes milliseconds, its process hundreds of MiB: a wrong factor would be off by 1000."""
    medians = {name: figure.ours.median for name, figure in figures.items() if figure.ours}
    limits = {name: figure.limit for name, figure in figures.items() if figure.limit}
    assert all(1 < medians[name] < 10_000 for name in ("vision", "first token"))
    assert medians["load"] < 60
    assert 100 < medians["peak memory"] < 20_000
    assert limits["vision"] < limits["first token"] < 1000


def test_a_random_model_has_all_lines_but_how_it_was_loaded(making: Making) -> None:
    found = list(making("tiny", task=replace(making.task, repeat=0)).figures())
    assert [(figure.name, figure.unit) for figure in found] == TABLE
    assert found[0] == Figure(name="load", unit="s", note="Random weights are made, not loaded.")
    assert all(figure.ours and figure.snippet for figure in found[1:])


def test_an_interruption_ends_it_between_two_measurements(making: Making) -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        for figure in making("tiny", is_interrupted=lambda: "vision" in seen).figures():
            seen.append(figure.name)
    assert seen == ["load", "frames", "vision"]


def test_a_clip_without_time_stamps_has_no_figure_of_the_loop(making: Making, tmp_path: Path) -> None:
    frames = replace(making.frames, clip=replace(making.frames.clip, path=write_clip(tmp_path / "a.h264")))
    steps = making("tiny", frames=frames, task=replace(making.task, repeat=0)).figures()
    reading = (next(steps), next(steps))[1]
    assert reading.ours and reading.snippet is None
    assert reading.note.startswith("The documentation's loop has no figure: '")
    earlier = making("tiny", reading=reading).figures()
    assert (next(earlier), next(earlier))[1] == reading


@pytest.mark.parametrize("where", ["fill", "empty_model"])
def test_too_little_memory_for_the_model_ends_it(where: str, making: Making) -> None:
    with Shortage(lambda: is_within(where)), pytest.raises(MemoryShortError):
        list(making("tiny").figures())


def test_too_little_memory_for_a_batch_is_a_note(making: Making) -> None:
    shortage = Shortage(lambda: not shortage.count and is_within("DecodeBatch.step"))
    with shortage:
        found = {figure.name: figure for figure in making("tiny", task=replace(making.task, repeat=1)).figures()}
    short = found["decode, batch 3"]
    assert (short.ours, short.note) == (None, "This tool ran out of memory.")
    assert short.snippet and found["decode, batch 1"].ours and found["batch"].ours


@pytest.mark.parametrize(("wanted", "left", "found"), [(64, 100, 64), (64, 3, 3), (1, 100, 2), (0, 2, 2)])
def test_an_answer_has_as_many_tokens_as_fit(wanted: int, left: int, found: int, making: Making) -> None:
    prompt = len(making.tokens.prompt_ids(Conversation(attached=(making.frames,)), making.task.question))
    task = replace(making.task, new_tokens=wanted)
    made = making.loaded("tiny", task=task, plan=replace(EXACT, context_tokens=prompt + left))
    assert made.asked.new_tokens == found


def test_a_prompt_that_fills_the_context_is_refused(making: Making) -> None:
    prompt = len(making.tokens.prompt_ids(Conversation(attached=(making.frames,)), making.task.question))
    with pytest.raises(ContextError, match=f"the context holds {prompt + 1}: shorten the question"):
        next(making(plan=replace(EXACT, context_tokens=prompt + 1)).figures())


def test_what_only_the_snippet_has_does_not_count_for_ours(making: Making) -> None:
    made = making("tiny", task=replace(making.task, repeat=0, batches=()))
    steps = made.figures()
    next(steps)
    made.snippet.model.spare = torch.nn.Parameter(torch.ones(50 << 20))
    peak = next(figure for figure in steps if figure.name == "peak memory")
    assert peak.ours and peak.snippet
    assert 150 < peak.snippet.median - peak.ours.median < 250


class Recorded:
    """Measurements that say who measured."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def by(self, name: str, values: Iterator[float]) -> Callable[[], float]:
        def measure() -> float:
            self.names.append(name)
            return next(values)

        return measure


Turns = Callable[..., list[Measured | None]]


@pytest.fixture
def turns(making: Making) -> Turns:
    """Lets measurements alternate."""

    def run(*measures: Callable[[], float], repeat: int = 3, **words: Any) -> list[Measured | None]:
        return making(task=BenchTask(question="?", repeat=repeat), **words).alternate(*measures)

    return run


def out_of_memory() -> float:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_they_take_turns_and_the_warm_up_is_left_out_unless_nothing_follows(turns: Turns) -> None:
    recorded = Recorded()
    found = turns(recorded.by("a", iter([9.0, 1.0, 2.0, 3.0])), recorded.by("b", count(4.0)))
    assert found == [Measured(values=(1.0, 2.0, 3.0)), Measured(values=(5.0, 6.0, 7.0))]
    assert recorded.names == ["a", "b"] * 4
    assert turns(lambda: 1.0, repeat=0) == [Measured(values=(1.0,))]


@pytest.mark.parametrize(
    ("round_s", "repeat", "wanted"),
    [(0.1, 5, 5), (10, 5, 5), (10.1, 5, 4), (20, 5, 2), (51, 5, 0), (3600, 5, 0)],
)
def test_slow_rounds_are_repeated_less_often(round_s: float, repeat: int, wanted: int) -> None:
    assert repeats_of(round_s, repeat) == wanted


def test_one_that_runs_out_of_memory_has_no_value_and_where_all_do_it_ends(turns: Turns) -> None:
    recorded = Recorded()
    short = recorded.by("short", iter([1.0, 2.0, 0.0, 4.0]))
    assert turns(lambda: short() or out_of_memory(), lambda: 5.0) == [None, Measured(values=(5.0,) * 3)]
    assert recorded.names == ["short"] * 4
    with pytest.raises(MemoryShortError, match="The memory of cpu ran out"):
        turns(out_of_memory, lambda: out_of_memory())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux begins its count anew")
def test_memory_that_was_freed_before_does_not_count() -> None:
    assert peak_bytes(lambda: None, "mps") is None
    before = peak_bytes(lambda: None, "cpu")
    # So small that the allocator keeps them, below one that lives.
    blocks = [torch.ones(60_000, dtype=torch.uint8) for _ in range(3000)]
    del blocks[:-1]
    nothing = peak_bytes(lambda: None, "cpu")
    some = peak_bytes(lambda: torch.ones(100 * MIB, dtype=torch.uint8), "cpu")
    assert before and nothing and some
    assert nothing - before < 60 * MIB
    assert 90 * MIB < some - nothing < 150 * MIB


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU is needed")
def test_it_is_the_same_on_a_gpu(making: Making) -> None:
    plan = replace(EXACT, device="cuda:0", dtype="float16")
    found = list(making("tiny", plan=plan).figures())
    assert [(figure.name, figure.unit) for figure in found] == TABLE
    assert all(figure.ours and figure.snippet for figure in found[1:])
