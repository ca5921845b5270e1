"""The chart as a picture: its size, its colours, and that bars are as long as they should be."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.commands.bench.parts import ASKED, DECODE, FAULTY, RECORD, TRIAL
from vllava_cli.commands.bench.chart import BARS, COLOURS, LABELS, MARGIN, WIDTH, Section, chart_png
from vllava_cli.commands.bench.record import Record

ONE = replace(RECORD, trials=(replace(TRIAL, lines=(replace(DECODE, ours=DECODE.snippet),)),))


def drawn(record: Record) -> npt.NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(chart_png(record)))
    assert (picture.format, picture.mode, picture.width) == ("PNG", "RGB", WIDTH)
    return np.asarray(picture)


def longest(pixels: npt.NDArray[np.uint8], who: str) -> int:
    """Pixels of a colour in the row that has most of them, between the names and the figures."""
    return int((pixels[:, MARGIN + LABELS : MARGIN + LABELS + BARS + 1] == COLOURS[who]).all(axis=2).sum(axis=1).max())  # type: ignore[index]


def test_bars_are_as_long_as_their_share() -> None:
    record = replace(RECORD, trials=(replace(TRIAL, lines=(DECODE,)),))
    pixels = drawn(record)
    assert [longest(pixels, who) for who in COLOURS] == [1 + round(BARS * share) for share in (0.8, 0.2, 1.0)]


def test_trials_stand_below_each_other() -> None:
    one, two = drawn(ONE), drawn(replace(ONE, trials=ONE.trials * 2))
    assert len(two) - len(one) == Section.of(ONE.trials[0]).height
    assert (two[: len(one) - 100] == one[: len(one) - 100]).all()


def test_the_margins_stay_white_whatever_the_names_are() -> None:
    name = "a very long name \u202e" * 20
    loud = replace(
        RECORD,
        asked=replace(ASKED, model=name),
        trials=(replace(FAULTY, fault="It can't. " * 100), replace(TRIAL, lines=(replace(DECODE, name=name),))),
    )
    pixels = drawn(loud)
    edges = (pixels[: MARGIN - 8], pixels[-MARGIN // 2 :], pixels[:, : MARGIN - 2], pixels[:, -MARGIN // 2 :])
    assert all((edge == 255).all() for edge in edges)


def test_a_run_of_which_everything_failed_is_drawn_too() -> None:
    assert len(drawn(replace(RECORD, trials=(FAULTY,)))) < len(drawn(ONE))
