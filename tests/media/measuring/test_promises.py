from __future__ import annotations

from dataclasses import replace

import pytest

from tests.media.measuring.results import FLOOR, SHORT, WRONG, result
from vllava_cli.measures import Bar
from vllava_cli.media.measuring.promises import bars
from vllava_cli.media.measuring.race import GUARDED, LOOP, OURS, TORCHCODEC, Race, Result
from vllava_cli.nouns import Clip

TEN_MINUTES, HOUR = replace(SHORT, duration_s=590.0), replace(SHORT, duration_s=3540.0)
RACE = Race(results={OURS: result(1.0), LOOP: result(40.0), TORCHCODEC: result(2.0), FLOOR: result(0.5)})


def of_ours(seconds: float, **others: Result) -> Race:
    return Race(results={**RACE.results, OURS: result(seconds), **others})


def test_a_short_clip_has_the_bars_of_short_clips() -> None:
    assert list(bars(RACE, SHORT)) == [
        Bar(text="identical frames: yes", is_met=True),
        Bar(text="at most 1.10 of the loop, short clips: 0.025", is_met=True),
        Bar(text="at most 0.80 of torchcodec's exact mode, short clips: 0.500", is_met=True),
        Bar(text="at most 1.30 of the floor, short clips: 2.000", is_met=False),
    ]


def test_a_film_of_ten_minutes_has_those_of_long_ones() -> None:
    assert list(bars(RACE, TEN_MINUTES)) == [
        Bar(text="identical frames: yes", is_met=True),
        Bar(text="at most 0.05 of the loop, h264 and hevc of 10 minutes: 0.025", is_met=True),
        Bar(text="at most 0.80 of torchcodec's exact mode, long files: 0.500", is_met=True),
        Bar(text="at most 1.30 of the floor, long files: 2.000", is_met=False),
    ]


@pytest.mark.parametrize(
    ("clip", "most"),
    [
        (SHORT, "1.10"),
        (replace(SHORT, duration_s=60.0), "1.10"),
        (replace(SHORT, duration_s=61.0), None),
        (replace(SHORT, duration_s=569.0), None),
        (replace(SHORT, duration_s=570.0), "0.05"),
        (replace(TEN_MINUTES, codec="hevc", container="mov"), "0.05"),
        (replace(TEN_MINUTES, codec="vp9"), None),
        (replace(TEN_MINUTES, container="mpegts"), None),
        (replace(SHORT, duration_s=3419.0), "0.05"),
        (HOUR, "0.01"),
        (replace(SHORT, kind="image", duration_s=None), None),
    ],
)
def test_the_loop_is_a_measure_for_what_was_promised(clip: Clip, most: str | None) -> None:
    found = [bar.text.split()[2] for bar in bars(RACE, clip) if "the loop" in bar.text]
    assert found == ([most] if most else [])


@pytest.mark.parametrize(("seconds", "is_met"), [(4.0, False), (2.0, True)])
def test_a_bar_is_met_up_to_its_number(seconds: float, is_met: bool) -> None:
    (bar,) = (bar for bar in bars(of_ours(seconds), TEN_MINUTES) if "the loop" in bar.text)
    assert bar.is_met is is_met


def test_a_loop_that_was_stopped_can_only_be_beaten() -> None:
    late = Result(fault="it took longer than 60 s", stopped_at_s=60.0)
    assert list(bars(of_ours(1.5, reference=late, torchcodec=Result()), TEN_MINUTES)) == [
        Bar(text="identical frames: yes", is_met=True),
        Bar(text="at most 0.05 of the loop, h264 and hevc of 10 minutes: less than 0.025", is_met=True),
        Bar(text="at most 1.30 of the floor, long files: 3.000", is_met=False),
    ]
    slower = bars(of_ours(3.1, reference=late), TEN_MINUTES)
    assert not [bar for bar in slower if "the loop" in bar.text]


def test_other_frames_are_a_bar_that_is_missed() -> None:
    for way in (OURS, GUARDED):
        wrong = Race(results={**RACE.results, way: result(1.0, digest=WRONG)})
        assert next(bars(wrong, SHORT)) == Bar(text="identical frames: NO", is_met=False)


def test_a_floor_that_gets_other_frames_is_no_measure() -> None:
    found = Race(results={OURS: result(1.0), LOOP: Result(fault="no"), FLOOR: result(0.5, digest=WRONG)})
    assert list(bars(found, SHORT)) == []


@pytest.mark.parametrize(
    ("width", "height", "is_told"), [(1920, 1080, True), (1080, 1920, True), (1280, 720, False), (4096, 1080, False)]
)
@pytest.mark.parametrize(("mib", "told"), [(280.0, "294 MB at most"), (290.0, "304 MB at most")])
def test_memory_is_held_to_its_bar_for_1080p(width: int, height: int, is_told: bool, mib: float, told: str) -> None:
    clip = replace(SHORT, width=width, height=height)
    found = Race(results={OURS: replace(result(1.0), mib=mib)})
    bar = Bar(text=f"under 300 MB for 1080p: {told}", is_met=mib == 280.0)
    assert list(bars(found, clip)) == ([bar] if is_told else [])


def test_memory_that_is_not_known_is_no_bar() -> None:
    found = Race(results={OURS: replace(result(1.0), mib=None)})
    assert list(bars(found, replace(SHORT, width=1920, height=1080))) == []
