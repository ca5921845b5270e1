"""Bars are as long as they should be, and the picture as high as what is drawn."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.commands.bench_figures import BATCH, DECODE, FAULTY, FIRST, PEAK, RECORD, measured, of_one
from vllava_cli.commands.bar_chart import BARS, COLOURS, MARGIN, NAMES, WIDTH, bars_of, chart_png
from vllava_cli.commands.bench_report import BenchRecord
from vllava_cli.engine.measuring.figures import Figure


def drawn(record: BenchRecord) -> npt.NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(chart_png(record)))
    assert (picture.format, picture.mode, picture.width) == ("PNG", "RGB", WIDTH)
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("figure", "lengths", "text"),
    [
        (DECODE, [0.8, 0.2, 1.0], "400 tokens/s, 4.0x as fast, 80% of the limit"),
        (replace(DECODE, limit=200.0), [1.0, 0.25, 0.5], "400 tokens/s, 4.0x as fast, 200% of the limit"),
        (FIRST, [1.0, 41.23 / 81], "41.2 ms, 2.0x as fast"),
        (PEAK, [1.0, 0.5], "512 MiB, 2.0x as little"),
        (BATCH, [1.0], "800 tokens/s"),
        (replace(BATCH, ours=None), [], None),
        (replace(BATCH, ours=measured(0.0)), [], None),
    ],
)
def test_a_bar_is_a_share_of_the_limit_or_of_the_best(figure: Figure, lengths: list[float], text: str | None) -> None:
    bars = bars_of(figure)
    assert [length for length, _ in bars.values()] == pytest.approx(lengths)
    assert bars.get("vllava", (0.0, None))[1] == text


def test_bars_are_drawn_as_long_as_that() -> None:
    pixels = drawn(of_one(DECODE))[:, MARGIN + NAMES : MARGIN + NAMES + BARS + 1]
    longest = [int((pixels == colour).all(axis=2).sum(axis=1).max()) for colour in COLOURS.values()]
    assert longest == [1 + round(BARS * share) for share in (0.8, 0.2, 1.0)]


def test_the_margins_stay_white_whatever_the_names_are() -> None:
    name = "a very long name \u202e" * 20
    loud = of_one(replace(DECODE, name=name), model=name)
    pixels = drawn(replace(loud, trials=(replace(FAULTY, fault="It can't. " * 100), *loud.trials)))
    edges = (pixels[: MARGIN - 8], pixels[-MARGIN // 2 :], pixels[:, : MARGIN - 2], pixels[:, -MARGIN // 2 :])
    assert all((edge == 255).all() for edge in edges)
    assert len(drawn(replace(RECORD, trials=(FAULTY,)))) < len(pixels)
