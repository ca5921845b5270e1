"""When engines that end without a word are given up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from vllava_cli.batch.executors import ray_actors
from vllava_cli.batch.executors.ray_actors import HOPELESS, ResultQueue


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

    def feed(self, starts: str, *, may_end_engines: bool = False) -> ResultQueue:
        """Whose rows lie ready; `starts` are the actors that began, one after the other."""
        self.has_given.clear()
        task: Any = SimpleNamespace(may_end_engines=may_end_engines)
        found = ResultQueue(task)
        for actor in starts:
            found.begun(actor)
        self.has_given.wait()
        return found


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stages]:
    given = Stages()
    monkeypatch.setattr(ray_actors, "_results", given.of)
    monkeypatch.setattr(ray_actors, "_WAIT_S", 0.01)
    monkeypatch.setattr(ray_actors, "MOST_VAIN_STARTS", 4)
    yield given
    given.is_over.set()


@pytest.mark.parametrize(
    ("begun", "vain", "is_hopeless"),
    [
        ("", 0, False),
        ("ab", 0, False),
        ("aa", 1, False),
        ("aaaa", 3, False),
        ("aaaaa", 4, True),
        ("aaaaab", 4, False),
        ("aaabbb", 4, True),
        ("aaabb", 3, False),
    ],
)
def test_all_that_began_must_have_ended_often_enough(stages: Stages, begun: str, vain: int, is_hopeless: bool) -> None:
    taken = stages.feed(begun).take(9)
    expected = (True, HOPELESS, 0) if is_hopeless else (False, None, vain)
    assert (taken.is_over, taken.fault, taken.vain_starts) == expected


def test_rows_are_handed_out_before_it_is_given_up(stages: Stages) -> None:
    stages.rows += [b"1", b"2"]
    hopeless = stages.feed("aaaaa")
    assert hopeless.take(9).results == (b"1", b"2")
    assert hopeless.take(9).fault == HOPELESS


def test_it_is_not_given_up_once_it_has_answered_nor_if_clips_may_end_engines(stages: Stages) -> None:
    hopeful = stages.feed("a" * 9)
    hopeful.settled()
    hopeful.begun("b")
    for feed, vain in ((hopeful, 0), (stages.feed("a" * 9, may_end_engines=True), 8)):
        taken = feed.take(1)
        assert (taken.is_over, taken.fault, taken.vain_starts) == (False, None, vain)
