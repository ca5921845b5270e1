"""Bars are as long as they should be, and the picture as high as what is drawn."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.commands.bench.parts import BATCH, DECODE, FAULTY, FIRST, PEAK, RECORD, measured, of_one
from vllava_cli.commands.bench.bar_chart import BARS, COLOURS, MARGIN, NAMES, WIDTH, bar_text, bars_of, chart_png
from vllava_cli.commands.bench.bench_record import BenchRecord
from vllava_cli.engine.measuring.figures import Figure


def drawn(record: BenchRecord) -> npt.NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(chart_png(record)))
    assert (picture.format, picture.mode, picture.width) == ("PNG", "RGB", WIDTH)
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("figure", "lengths"),
    [
        (DECODE, [0.8, 0.2, 1.0]),
        (replace(DECODE, limit=200.0), [1.0, 0.25, 0.5]),
        (FIRST, [1.0, 41.23 / 81]),
        (BATCH, [1.0]),
        (replace(BATCH, ours=None), []),
        (replace(BATCH, ours=measured(0.0)), []),
    ],
)
def test_a_bar_is_a_share_of_the_limit_or_of_the_best(figure: Figure, lengths: list[float]) -> None:
    assert [length for length, _ in bars_of(figure).values()] == pytest.approx(lengths)


def test_bars_are_drawn_as_long_as_that_and_say_what_they_stand_for() -> None:
    pixels = drawn(of_one(DECODE))[:, MARGIN + NAMES : MARGIN + NAMES + BARS + 1]
    longest = [int((pixels == colour).all(axis=2).sum(axis=1).max()) for colour in COLOURS.values()]
    assert longest == [1 + round(BARS * share) for share in (0.8, 0.2, 1.0)]
    assert [bar_text(DECODE, tool, each) for tool, (_, each) in bars_of(DECODE).items()] == [
        "400 tokens/s, 4.0x as fast, 80% of the limit",
        "100 tokens/s",
        "500 tokens/s",
    ]
    assert bar_text(PEAK, "vllava", measured(512.0)) == "512 MiB, 2.0x as little"


def test_the_margins_stay_white_whatever_the_names_are() -> None:
    name = "a very long name \u202e" * 20
    loud = of_one(replace(DECODE, name=name), model=name)
    pixels = drawn(replace(loud, trials=(replace(FAULTY, fault="It can't. " * 100), *loud.trials)))
    edges = (pixels[: MARGIN - 8], pixels[-MARGIN // 2 :], pixels[:, : MARGIN - 2], pixels[:, -MARGIN // 2 :])
    assert all((edge == 255).all() for edge in edges)
    assert len(drawn(replace(RECORD, trials=(FAULTY,)))) < len(pixels)
