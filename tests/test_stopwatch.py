"""Where time went, by a clock that tests turn."""

from __future__ import annotations

from dataclasses import dataclass

from vllava_cli.stopwatch import Stopwatch


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_parts_follow_one_another_and_add_up_to_the_whole() -> None:
    clock = Clock()
    watch = Stopwatch(clock=clock, began_s=99.5)
    assert watch.lap("start") == 0.5
    clock.now_s += 2.25
    assert watch.lap("frames") == 2.25
    watch.lap("planning")
    clock.now_s += 4.0
    assert watch.lap("first token", 1.5) == 1.5
    assert watch.lap("decoding") == 2.5
    clock.now_s += 1.0
    watch.lap("frames")
    assert watch.parts == {"start": 0.5, "frames": 3.25, "planning": 0.0, "first token": 1.5, "decoding": 2.5}
    assert watch.told() == "7.75 s: start 0.50, frames 3.25, first token 1.50, decoding 2.50"
    assert sum(watch.parts.values()) == clock.now_s - 99.5


def test_what_rounds_to_nothing_is_part_of_the_whole() -> None:
    clock = Clock()
    watch = Stopwatch(clock=clock)
    for number in range(10):
        clock.now_s += 0.004
        watch.lap(f"part {number}")
    assert watch.told() == "0.04 s"
