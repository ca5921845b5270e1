from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.media.measuring.results import FLOOR, FLOOR_THREADS, RIGHT, TIMES_S, WRONG, result
from vllava_cli.media.measuring.race import GUARDED, LOOP, OURS, Race, Result, race
from vllava_cli.media.measuring.turn import Turn


def never() -> bool:
    return False


def turn(seconds: float, *, digest: str = RIGHT, mib: float | None = 80.0) -> Turn:
    return Turn(seconds=seconds, mib=mib, digest=digest, times_s=TIMES_S)


def test_ways_take_turns() -> None:
    order: list[str] = []

    def runner(way: str, seconds: float) -> Callable[[], Turn]:
        def run() -> Turn:
            order.append(way)
            return turn(seconds + len(order))

        return run

    found = race({"a": runner("a", 0), "b": runner("b", 10)}, 2, is_interrupted=never)
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": result(1.0, 3.0), "b": result(12.0, 14.0)}


def test_what_is_slow_or_fails_has_one_turn() -> None:
    count = {"slow": 0, "bad": 0, "good": 0}

    def runner(way: str, made: Turn) -> Callable[[], Turn]:
        def run() -> Turn:
            count[way] += 1
            return made

        return run

    runners = {"slow": runner("slow", turn(20.5)), "bad": runner("bad", Turn(fault="it broke"))}
    found = race(runners | {"good": runner("good", turn(20.0))}, 3, is_interrupted=never)
    assert count == {"slow": 1, "bad": 1, "good": 3}
    assert found == {"slow": result(20.5), "bad": Result(fault="it broke"), "good": result(20.0, 20.0, 20.0)}


def test_ctrl_c_ends_a_race_between_two_turns() -> None:
    done: list[str] = []

    def run() -> Turn:
        done.append("turn")
        return turn(1.0)

    with pytest.raises(KeyboardInterrupt):
        race({"a": run, "b": run}, 5, is_interrupted=lambda: len(done) == 3)
    assert len(done) == 3


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([turn(3.0, mib=70.0), turn(1.0, mib=90.0), turn(2.0, mib=None)], replace(result(3.0, 1.0, 2.0), mib=90.0)),
        ([turn(3.0), Turn(fault="it broke")], result(3.0)),
        ([Turn(fault="it broke")], Result(fault="it broke")),
        ([Turn(fault="late", stopped_at_s=60.0)], Result(fault="late", stopped_at_s=60.0)),
        ([turn(3.0), turn(1.0, digest=WRONG)], Result(fault="it gives other frames each time")),
        ([], Result()),
    ],
)
def test_turns_are_folded(turns: list[Turn], expected: Result) -> None:
    assert Result.of(turns) == expected


def test_a_median_is_that_of_the_turns() -> None:
    assert (result(3.0, 1.0, 9.0).median_s, Result().median_s) == (3.0, None)


OTHER_TIMES_S = (*TIMES_S[:7], 7.5)


@pytest.mark.parametrize(
    ("results", "is_identical", "is_certain", "floor_s"),
    [
        ({OURS: result(1.0), LOOP: result(4.0), FLOOR: result(3.0), FLOOR_THREADS: result(2.0)}, True, True, 2.0),
        ({OURS: result(1.0), LOOP: result(4.0), FLOOR: result(3.0), FLOOR_THREADS: Result()}, True, True, 3.0),
        ({OURS: result(1.0), LOOP: result(4.0), FLOOR: result(3.0, digest=WRONG)}, True, True, None),
        ({OURS: result(1.0, digest=WRONG), LOOP: result(4.0), FLOOR: result(3.0)}, False, True, 3.0),
        ({OURS: result(1.0, times_s=OTHER_TIMES_S), LOOP: result(4.0)}, False, True, None),
        ({OURS: result(1.0), LOOP: result(4.0, digest=WRONG, times_s=TIMES_S[:5])}, False, False, None),
        ({OURS: result(1.0), LOOP: Result(fault="late"), FLOOR: result(3.0)}, True, True, 3.0),
        ({OURS: result(1.0), LOOP: Result(fault="late"), FLOOR: result(3.0, digest=WRONG)}, False, False, None),
        ({OURS: result(1.0), LOOP: Result(fault="no")}, None, False, None),
        ({OURS: Result(fault="no"), LOOP: result(4.0)}, None, True, None),
    ],
)
def test_the_loop_tells_what_is_right_else_a_floor_that_agrees(
    results: dict[str, Result], is_identical: bool | None, is_certain: bool, floor_s: float | None
) -> None:
    found = Race(results=results)
    assert (found.is_identical, found.is_certain, found.floor.median_s) == (is_identical, is_certain, floor_s)


def test_times_may_be_rounded_to_milliseconds() -> None:
    rounded = tuple(time_s + 0.0015 for time_s in TIMES_S)
    assert Race(results={OURS: result(1.0, times_s=rounded), LOOP: result(4.0)}).is_identical


def test_shares_are_of_the_way_that_is_ours() -> None:
    found = Race(results={OURS: result(1.0), GUARDED: result(2.0), LOOP: result(4.0)})
    guarded = replace(found, ours_way=GUARDED)
    assert (found.share_of(found.loop), guarded.share_of(guarded.loop)) == (0.25, 0.5)
    assert found.share_of(Result()) is None
