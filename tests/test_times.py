"""Times as users write them, the section of a clip that they name, and where time went, by a clock that tests turn."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.refusals import refused
from vllava_cli import times
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Framing
from vllava_cli.times import Activity, Stopwatch, framing_of, roughly, time_of, times_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("0.5", 0.5), ("1:30", 90.0), ("01:01:01.5", 3661.5), ("0", 0.0)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert time_of(text) == seconds


@pytest.mark.parametrize("text", ["", "noon", "1:2:3:4", "-5", "nan", "inf", "1:-2", ":"])
def test_other_times_are_refused_in_a_sentence(text: str) -> None:
    assert refused(UsageError, time_of, text) == f"{text!r} is not a time: give seconds (90.5) or h:m:s (0:01:30.5)."


def test_lists_of_times_are_read() -> None:
    assert times_of("1.5, 3,0:12") == (1.5, 3.0, 12.0)


FRAMINGS = [
    ((None, None, None), Framing(fit="pad")),
    ((1.0, 2.0, None), Framing(start_s=1.0, end_s=2.0, fit="pad")),
    ((0.0, None, ()), Framing(start_s=0.0, fit="pad")),
    ((None, None, (1.0, 2.0)), Framing(at_s=(1.0, 2.0), fit="pad")),
    ((0.0, None, (1.0,)), "--at can't be combined with --start and --end. Leave them out."),
    ((None, None, (1.0, 2.0, 3.0)), "--at names 3 times, more than the 2 that can be shown. Name fewer."),
    ((2.0, 2.0, None), "The part from 2 s to 2 s is empty: --end must come after --start."),
]


@pytest.mark.parametrize(("times", "outcome"), FRAMINGS)
def test_framings(times: tuple[float | None, float | None, tuple[float, ...] | None], outcome: Framing | str) -> None:
    def framing() -> Framing:
        return framing_of(times[0], times[1], at_s=times[2], fit="pad", most=2)

    if isinstance(outcome, Framing):
        assert framing() == outcome
        return
    assert refused(UsageError, framing) == outcome


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((0.2, "1 s"), (7.4, "7 s"), (89.4, "89 s"), (91, "2 min"), (5300, "88 min"), (5400, "1.5 h")),
        *((172000, "47.8 h"), (172800, "2.0 days")),
    ],
)
def test_a_guess_is_no_more_exact_than_it_can_be(seconds: float, shown: str) -> None:
    assert roughly(seconds) == shown


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
    assert watch.account() == "7.75 s: start 0.50, frames 3.25, first token 1.50, decoding 2.50"
    assert sum(watch.parts.values()) == clock.now_s - 99.5


def test_an_activity_says_what_is_done_and_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(times.time, "monotonic", lambda: now_s)
    activity = Activity()
    assert activity.text == ""
    activity.begin("loading the model")
    activity.advance(0.5)
    assert activity.text == "loading the model"
    activity.begin("reading", total=2069, unit="tokens")
    assert activity.text == "reading"
    now_s = 103.0
    activity.advance(0.25)
    assert activity.text == "reading: 517 of 2,069 tokens"
    now_s = 160.0
    assert activity.text == "reading: 517 of 2,069 tokens, about 3 min left"
    activity.advance(1)
    assert activity.text == "reading: 2,069 of 2,069 tokens, about 1 s left"
    activity.begin("looking at the clip", total=100, unit="percent")
    assert activity.text == "looking at the clip"
