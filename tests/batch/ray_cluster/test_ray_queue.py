"""When engines that end without a word are given up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from vllava_cli.batch.executors import ray_queue
from vllava_cli.batch.executors.ray_queue import HOPELESS, MOST_VAIN_STARTS, CrashLoopDetector, ResultQueue


@pytest.mark.parametrize(
    ("begun", "vain", "is_hopeless"),
    [
        ("", 0, False),
        ("a", 0, False),
        ("ab", 0, False),
        ("aa", 1, False),
        ("aaaa", 3, False),
        ("aaaaa", 4, True),
        ("aaaaab", 4, False),
        ("aaabbb", 4, True),
        ("aaabb", 3, False),
    ],
)
def test_all_that_began_must_have_ended_often_enough(begun: str, vain: int, is_hopeless: bool) -> None:
    starts = CrashLoopDetector(most_vain=4)
    for actor in begun:
        starts.begun(actor)
    assert (starts.vain, starts.is_hopeless) == (vain, is_hopeless)


def test_what_has_answered_once_is_never_given_up() -> None:
    starts = CrashLoopDetector(most_vain=2)
    for _ in range(9):
        starts.begun("a")
    starts.settled()
    starts.begun("b")
    assert (starts.vain, starts.is_hopeless) == (0, False)


@dataclass
class Stages:
    """Give some rows, then wait for engines until the test is over."""

    rows: list[bytes] = field(default_factory=list)
    has_given: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)

    def of(self, _: Any) -> Iterator[bytes]:
        yield from self.rows
        self.has_given.set()
        self.is_over.wait()

    def feed(self, *, starts: int, may_end_engines: bool = False) -> ResultQueue:
        """Whose rows lie ready."""
        self.has_given.clear()
        task: Any = SimpleNamespace(may_end_engines=may_end_engines)
        found = ResultQueue(task)
        for _ in range(starts):
            found.begun("an actor")
        self.has_given.wait()
        return found


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stages]:
    given = Stages()
    monkeypatch.setattr(ray_queue, "_results", given.of)
    monkeypatch.setattr(ray_queue, "_WAIT_S", 0.01)
    yield given
    given.is_over.set()


def test_a_feed_whose_engines_get_nowhere_ends_with_the_reason(stages: Stages) -> None:
    taken = stages.feed(starts=MOST_VAIN_STARTS).take(9)
    assert (taken.is_over, taken.fault, taken.vain_starts) == (False, None, MOST_VAIN_STARTS - 1)
    taken = stages.feed(starts=MOST_VAIN_STARTS + 1).take(9)
    assert (taken.is_over, taken.fault) == (True, HOPELESS)


def test_rows_are_handed_out_before_it_is_given_up(stages: Stages) -> None:
    stages.rows += [b"1", b"2"]
    hopeless = stages.feed(starts=MOST_VAIN_STARTS + 1)
    assert hopeless.take(9).results == (b"1", b"2")
    assert hopeless.take(9).fault == HOPELESS


def test_an_engine_that_answered_keeps_the_feed_going(stages: Stages) -> None:
    hopeful = stages.feed(starts=MOST_VAIN_STARTS + 9)
    hopeful.settled()
    taken = hopeful.take(1)
    assert (taken.is_over, taken.fault, taken.vain_starts) == (False, None, 0)


def test_clips_that_may_end_engines_are_no_reason_to_give_up(stages: Stages) -> None:
    taken = stages.feed(starts=MOST_VAIN_STARTS + 9, may_end_engines=True).take(1)
    assert (taken.is_over, taken.vain_starts) == (False, MOST_VAIN_STARTS + 8)
