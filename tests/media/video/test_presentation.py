from __future__ import annotations

import pytest

from vllava_cli.media.video.presentation import in_order, is_steady, last_duration


@pytest.mark.parametrize(
    ("steps", "tick_s", "is_constant"),
    [
        ([], 1, True),
        ([33, 34, 33], 0.001, True),
        ([33, 67], 0.001, False),
        ([1, 2, 1], 1 / 30, False),
        ([3, 4, 3], 0.01, True),
        ([3003, 3003, 6006], 1 / 90000, False),
    ],
)
def test_a_rate_is_constant_if_its_steps_differ_by_rounding(steps: list[int], tick_s: float, is_constant: bool) -> None:
    assert is_steady(steps, tick_s) == is_constant


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 40, 80], [0, 40, 80]),
        ([40, 120, 80, 160], [40, 80, 120, 160]),
        ([0, 40, 80, 120, 0, 40], [0, 40, 80, 120, 160, 200]),
        ([0, 40, 900, 80, 120], [0, 40, 80, 120, 900]),
        ([0, 40, 80, 9000, 9040], [0, 40, 80, 120, 160]),
    ],
)
def test_times_never_fall_and_another_part_comes_behind(stamps: list[int], expected: list[int]) -> None:
    assert in_order(stamps, jump=40, restart=8000) == expected


@pytest.mark.parametrize(
    ("own", "end", "duration"),
    [
        (40, 140, 40),
        (40, 0, 40),
        (680, 140, 40),
        (40, 120, 20),
        (40, 5000, 40),
        (0, 5000, 50),
        (0, 0, 50),
    ],
)
def test_the_last_frame_lasts_to_the_stated_end_if_that_is_likely(own: int, end: int, duration: int) -> None:
    assert last_duration(100, 50, own=own, end=end) == duration
