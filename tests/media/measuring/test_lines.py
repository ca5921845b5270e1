from __future__ import annotations

from dataclasses import replace

import pytest

from tests.media.measuring.results import FLOOR, FLOOR_THREADS, SHORT, TIMES_S, WRONG, result
from vllava_cli.measures import Line, Measured
from vllava_cli.media.measuring.lines import guarded_line, has_rivals, lines
from vllava_cli.media.measuring.race import FFMPEG, GUARDED, LOOP, OURS, TORCHCODEC, Race, Result

RESULTS = {
    GUARDED: replace(result(1.0, 2.0), mib=None),
    LOOP: replace(result(9.0, 8.0), mib=90.0),
    OURS: result(3.0, 4.0),
    FLOOR: result(0.5, 0.7),
    FLOOR_THREADS: result(0.8),
}


def measured(*values: float) -> Measured:
    return Measured(values=values)


def note_of(**results: Result) -> str:
    return guarded_line(Race(results=RESULTS | results), SHORT).note


def test_the_line_of_bench_is_the_guards_beside_loop_and_floor() -> None:
    assert guarded_line(Race(results=RESULTS), SHORT) == Line(
        name="frames", unit="s", ours=measured(1.0, 2.0), snippet=measured(9.0, 8.0), limit=0.6
    )


def test_a_report_has_ours_without_the_guard_the_rivals_and_memory() -> None:
    rivals = {
        TORCHCODEC: result(5.0, times_s=(*TIMES_S[:7], 9.0)),
        FFMPEG: Result(seconds=(6.0,), digest=WRONG),
    }
    ours = measured(3.0, 4.0)
    assert list(lines(Race(results=RESULTS | rivals), SHORT)) == [
        guarded_line(Race(results=RESULTS), SHORT),
        Line(name="frames, no guard", unit="s", ours=ours, snippet=measured(9.0, 8.0), limit=0.6),
        Line(
            name="beside torchcodec",
            unit="s",
            ours=ours,
            snippet=measured(5.0),
            note="The second figure is that of torchcodec's exact mode, not of the documentation's loop. "
            "It gives frames of other times.",
        ),
        Line(
            name="beside ffmpeg",
            unit="s",
            ours=ours,
            snippet=measured(6.0),
            note="The second figure is that of the ffmpeg command, not of the documentation's loop.",
        ),
        Line(name="peak memory", unit="MiB", ours=measured(80.0), snippet=measured(90.0)),
    ]


def test_a_rival_that_fails_is_a_line_that_says_so() -> None:
    found = list(lines(Race(results=RESULTS | {TORCHCODEC: Result(fault="no libavutil.so")}), SHORT))
    note = "There is no figure of torchcodec's exact mode: no libavutil.so."
    assert found[2] == Line(name="beside torchcodec", unit="s", ours=measured(3.0, 4.0), note=note)


def test_a_system_that_tells_no_memory_has_no_line_of_it() -> None:
    found = lines(Race(results=RESULTS | {OURS: replace(RESULTS[OURS], mib=None)}), SHORT)
    assert [line.name for line in found] == ["frames", "frames, no guard"]


def test_a_picture_has_neither_loop_nor_floor() -> None:
    image = replace(SHORT, kind="image", duration_s=None, container="png")
    note = "The documentation's loop reads videos only, and a picture has no floor: there is nothing to search."
    found = Race(results={GUARDED: RESULTS[GUARDED]})
    assert guarded_line(found, image) == Line(name="frames", unit="s", ours=measured(1.0, 2.0), note=note)
    assert [has_rivals(clip) for clip in (SHORT, image, replace(SHORT, container="folder"))] == [True, False, False]


OTHER = Result(seconds=(0.5,), digest=WRONG, times_s=TIMES_S)


@pytest.mark.parametrize(
    ("results", "note"),
    [
        ({}, ""),
        (
            {LOOP: Result(fault="it took longer than 60 s", stopped_at_s=60.0)},
            "There is no figure of the documentation's loop: it took longer than 60 s.",
        ),
        (
            {FLOOR: Result(fault="its packets lie"), FLOOR_THREADS: Result(fault="its packets lie")},
            "The limit isn't known: its packets lie.",
        ),
        (
            {FLOOR: OTHER, FLOOR_THREADS: OTHER},
            "The limit isn't known: a decoder that trusts the file's key frames and time stamps gets other frames.",
        ),
        (
            {LOOP: Result(seconds=(8.0,), digest=WRONG, times_s=TIMES_S[:1])},
            "The documentation's loop finds 1 frame of the 8. The limit isn't known: a decoder that trusts the file's "
            "key frames and time stamps gets other frames.",
        ),
        (
            {GUARDED: Result(fault="it gives other frames each time")},
            "There is no figure of ours: it gives other frames each time.",
        ),
    ],
)
def test_a_figure_that_is_missing_has_a_note(results: dict[str, Result], note: str) -> None:
    assert note_of(**results) == note
