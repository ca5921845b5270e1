"""Tools take turns, one that fails leaves the other, and the peak of memory is that of the work alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import torch

from vllava_cli.engine.measuring.figures import Measured
from vllava_cli.engine.measuring.model_benchmark import alternate, peak_bytes, repeats_of
from vllava_cli.errors import MemoryShortError
from vllava_cli.interrupt import never

MIB = 1 << 20


class Recorded:
    """Measurements that say who measured."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def by(self, name: str, values: Iterator[float]) -> Callable[[], float]:
        def measure() -> float:
            self.names.append(name)
            return next(values)

        return measure


def turns(
    *measures: Callable[[], float], repeat: int = 3, is_interrupted: Callable[[], bool] = never
) -> list[Measured | None]:
    faults = (MemoryShortError,)
    return alternate(measures, device="cpu", repeat=repeat, is_interrupted=is_interrupted, faults=faults)


def out_of_memory() -> float:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_they_take_turns_and_the_warm_up_is_left_out_unless_nothing_follows() -> None:
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


def test_one_that_runs_out_of_memory_is_asked_no_more_and_where_all_do_it_ends() -> None:
    recorded = Recorded()
    short = recorded.by("short", iter([1.0, 2.0, 0.0, 4.0]))
    assert turns(lambda: short() or out_of_memory(), lambda: 5.0) == [None, Measured(values=(5.0,) * 3)]
    assert recorded.names == ["short"] * 3
    with pytest.raises(MemoryShortError, match="The memory of cpu ran out"):
        turns(out_of_memory, out_of_memory)


@pytest.mark.parametrize(("calls", "measured"), [(0, []), (1, ["a"]), (2, ["a", "b"])])
def test_an_interruption_is_seen_between_two_measurements(calls: int, measured: list[str]) -> None:
    asked, recorded = count(), Recorded()
    with pytest.raises(KeyboardInterrupt):
        turns(recorded.by("a", count()), recorded.by("b", count()), is_interrupted=lambda: next(asked) >= calls)
    assert recorded.names == measured


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
