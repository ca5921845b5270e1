"""When engines that end without a word are given up."""

from __future__ import annotations

import pytest

from vllava_cli.cluster.starts import Starts


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
    starts = Starts(most_vain=4)
    for actor in begun:
        starts.begun(actor)
    assert (starts.vain, starts.is_hopeless) == (vain, is_hopeless)


def test_what_has_answered_once_is_never_given_up() -> None:
    starts = Starts(most_vain=2)
    for _ in range(9):
        starts.begun("a")
    starts.settled()
    starts.begun("b")
    assert (starts.vain, starts.is_hopeless) == (0, False)
