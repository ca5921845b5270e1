"""Contestants take turns, and one that runs out of memory leaves the other in the contest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
import torch

from vllava_cli.engine.measuring.turns import Both, Turns, repeats_of
from vllava_cli.errors import MemoryShortError
from vllava_cli.interrupt import never
from vllava_cli.measures import Measured

THREE = Turns(device="cpu", repeat=3, is_interrupted=never)


class Recorded:
    """Measurements that say who measured."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def by(self, name: str, values: Iterator[float]) -> Callable[[], float]:
        def measure() -> float:
            self.names.append(name)
            return next(values)

        return measure


def out_of_memory() -> float:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_they_take_turns_and_the_warm_up_is_left_out() -> None:
    recorded = Recorded()
    found = THREE.of_both(
        ours=recorded.by("ours", iter([9.0, 1.0, 2.0, 3.0])), snippet=recorded.by("snippet", count(4.0))
    )
    assert found == Both(ours=Measured(values=(1.0, 2.0, 3.0)), snippet=Measured(values=(5.0, 6.0, 7.0)))
    assert recorded.names == ["snippet", "ours"] * 4


def test_a_warm_up_counts_where_nothing_follows() -> None:
    never_again = Turns(device="cpu", repeat=0, is_interrupted=never)
    found = never_again.of_both(ours=lambda: 1.0, snippet=lambda: 2.0)
    assert found == Both(ours=Measured(values=(1.0,)), snippet=Measured(values=(2.0,)))


@pytest.mark.parametrize(
    ("round_s", "repeat", "wanted"),
    [(0.1, 5, 5), (10, 5, 5), (10.1, 5, 4), (20, 5, 2), (20, 1, 1), (50, 5, 1), (51, 5, 0), (3600, 5, 0)],
)
def test_slow_rounds_are_repeated_less_often(round_s: float, repeat: int, wanted: int) -> None:
    assert repeats_of(round_s, repeat) == wanted


def test_one_that_runs_out_of_memory_is_asked_no_more() -> None:
    recorded = Recorded()
    snippet = recorded.by("snippet", iter([1.0, 2.0, 0.0, 4.0]))
    found = THREE.of_both(ours=lambda: 5.0, snippet=lambda: snippet() or out_of_memory())
    assert found == Both(ours=Measured(values=(5.0,) * 3), snippet=None, note="The snippet ran out of memory.")
    assert recorded.names == ["snippet"] * 3


def test_so_is_this_tool() -> None:
    found = THREE.of_both(ours=out_of_memory, snippet=lambda: 5.0)
    assert found == Both(ours=None, snippet=Measured(values=(5.0,) * 3), note="This tool ran out of memory.")


def test_where_both_run_out_the_contest_ends() -> None:
    with pytest.raises(MemoryShortError, match="The memory of cpu ran out"):
        THREE.of_both(ours=out_of_memory, snippet=out_of_memory)


@pytest.mark.parametrize(("calls", "measured"), [(0, []), (1, ["snippet"]), (2, ["snippet"]), (3, ["snippet", "ours"])])
def test_an_interruption_is_seen_before_and_after_each_measurement(calls: int, measured: list[str]) -> None:
    asked = count()
    recorded = Recorded()
    turns = Turns(device="cpu", repeat=3, is_interrupted=lambda: next(asked) >= calls)
    with pytest.raises(KeyboardInterrupt):
        turns.of_both(ours=recorded.by("ours", count()), snippet=recorded.by("snippet", count()))
    assert recorded.names == measured
