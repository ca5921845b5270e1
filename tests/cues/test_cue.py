"""From rows of windows to cues: a table of what is answered when, and what is then shown when."""

from __future__ import annotations

import pytest

from vllava_cli.cues.cue import CueMaker
from vllava_cli.times import span, stamp

Windows = list[tuple[float, float, str | None]]
EVEN: Windows = [(0, 30, "A dog runs."), (30, 60, "a dog  RUNS."), (60, 90, "A cat."), (90, 95.04, "A dog runs.")]


def cues_of(windows: Windows, *, is_merging: bool = True) -> Windows:
    maker = CueMaker(is_merging=is_merging)
    found = [maker.add({"start_s": start, "end_s": end, "answer": text}) for start, end, text in windows]
    return [(cue.start_s, cue.end_s, cue.text) for cue in [*found, maker.end()] if cue]


@pytest.mark.parametrize(
    ("windows", "cues"),
    [
        ([], []),
        (EVEN, [(0, 60, "A dog runs."), (60, 90, "A cat."), (90, 95.04, "A dog runs.")]),
        ([(0, 30, "a"), (25, 55, "b"), (50, 70, "b")], [(0, 25, "a"), (25, 70, "b")]),
        ([(0, 30, "a"), (10, 40, None), (20, 50, "b")], [(0, 20, "a"), (20, 50, "b")]),
        ([(0, 30, "a"), (10, 40, None), (20, 50, "a")], [(0, 20, "a"), (20, 50, "a")]),
        ([(0, 30, "a"), (30, 60, None), (60, 90, "a")], [(0, 30, "a"), (60, 90, "a")]),
        ([(0, 30, "a"), (30, 60, " \n\x1b"), (60, 90, "a")], [(0, 30, "a"), (60, 90, "a")]),
        ([(0, 10, "a"), (12, 20, "a")], [(0, 10, "a"), (12, 20, "a")]),
        ([(0, 0.0004, "a"), (0.0004, 1, "b")], [(0.0004, 1, "b")]),
        ([(0, 1, " 1\r\n\r\n\t2\x00\u2028\ud800 ")], [(0, 1, "1\n2\n?")]),
    ],
    ids=[
        "none",
        "neighbours",
        "overlap",
        "overlap, error",
        "equal around an error",
        "error",
        "empty",
        "gap",
        "instant",
        "controls",
    ],
)
def test_rows_become_cues(windows: Windows, cues: Windows) -> None:
    assert cues_of(windows) == cues


def test_neighbours_stay_apart_where_they_are_not_merged() -> None:
    assert cues_of(EVEN, is_merging=False) == EVEN


def test_times_are_written_with_as_much_as_they_need() -> None:
    assert span(30, 3723.5) == "00:00:30-01:02:03.500"
    assert [stamp(seconds) for seconds in (0.0009, 29.99999, 65.0409, 360000)] == [
        *("00:00:00.000", "00:00:30.000", "00:01:05.040", "100:00:00.000")
    ]
