"""A sheet as characters: how large the tiles become, which half block has which colours, where the times stand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.clips import Pixels
from vllava_cli.media.blocks import HALF, LETTERS, SHADES, Run, draw, lay_out
from vllava_cli.media.contact_sheet import Sheet

RED, BLUE, BLACK, WHITE = (255, 0, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)


def sheet(tiles: Pixels, *labels: str) -> Sheet:
    return Sheet(name="a.mp4", facts="", tiles=tiles, labels=labels)


def halves(upper: tuple[int, int, int], lower: tuple[int, int, int], count: int, side: int = 64) -> Pixels:
    """[T, S, S, 3]: one colour above another."""
    tile = np.empty((count, side, side, 3), np.uint8)
    tile[:, : side // 2], tile[:, side // 2 :] = upper, lower
    return tile


def text(lines: list[list[Run]]) -> list[str]:
    return ["".join(run.text for run in line) for line in lines]


@pytest.mark.parametrize(
    ("count", "aspect", "columns", "lines", "expected"),
    [
        (8, 1.0, 60, 40, (4, 14, 7)),
        (8, 1.0, 80, 24, (4, 18, 9)),
        (8, 1.0, 200, 24, (8, 24, 12)),
        (8, 1.0, 200, 50, (4, 44, 22)),
        (8, 16 / 9, 60, 40, (2, 28, 8)),
        (8, 9 / 16, 60, 40, (4, 14, 13)),
        (8, 1.0, 20, 24, (2, 8, 4)),
        (8, 1.0, 5, 5, (1, 5, 3)),
        (1, 1.0, 60, 40, (1, 60, 30)),
        (1, 1.0, 200, 40, (1, 72, 36)),
        (3, 1.0, 60, 40, (2, 29, 15)),
        (20, 1.0, 60, 40, (4, 12, 6)),
        (64, 1.0, 60, 40, (4, 14, 7)),
        (8, 1e-6, 80, 24, (4, 1, 24)),
        (8, 1e6, 80, 24, (1, 80, 1)),
    ],
)
def test_tiles_suit_the_terminal(
    count: int, aspect: float, columns: int, lines: int, expected: tuple[int, int, int]
) -> None:
    grid = lay_out(count, aspect, columns, lines)
    assert (grid.per_row, grid.columns, grid.lines) == expected
    assert grid.per_row * (grid.columns + 1) - 1 <= columns


def test_a_half_block_has_the_upper_pixel_before_the_lower() -> None:
    tiles = halves(RED, BLUE, 2, side=2)
    lines = list(draw(sheet(tiles, "0:00.00", "0:01.50"), 17, 8))
    assert text(lines) == [f"{HALF * 8} {HALF * 8}"] * 4 + ["0:00.00  0:01.50"]
    first, last = lines[0], lines[3]
    assert (first[0].upper, last[-1].lower) == (RED, BLUE)
    assert first[8] == Run(text=" ")
    stripes = np.empty((1, 8, 8, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = RED, BLUE
    assert list(draw(sheet(stripes, ""), 8, 8)) == [[Run(text=HALF, upper=RED, lower=BLUE)] * 8] * 4


def test_a_picture_has_no_line_for_times() -> None:
    assert text(list(draw(sheet(halves(RED, BLUE, 1), ""), 20, 9))) == [HALF * 10] * 5


def test_shades_use_all_there_is_between_the_darkest_and_the_brightest() -> None:
    grey = np.repeat((np.arange(10) * 14 + 50).astype(np.uint8)[:, None], 10, axis=1)
    tiles = np.repeat(grey.T[None, :, :, None], 3, axis=-1)
    assert text(list(draw(sheet(tiles, ""), 10, 9, LETTERS))) == [LETTERS] * 5
    lines = list(draw(sheet(halves(BLACK, WHITE, 1), ""), 10, 13, SHADES))
    assert text(lines)[0] == " " * 10
    assert text(lines)[-1] == "█" * 10
    assert all(run.upper is None and run.lower is None for line in lines for run in line)


def test_one_colour_has_one_shade() -> None:
    assert text(list(draw(sheet(halves(WHITE, WHITE, 1), ""), 10, 13, SHADES))) == [" " * 10] * 5


def test_the_last_row_may_be_shorter() -> None:
    lines = text(list(draw(sheet(halves(RED, BLUE, 9), *(f"{number}" for number in range(9))), 60, 40)))
    assert lines[-1].split() == ["8"]
    assert lines[-2] == HALF * len(lines[-2])
    assert [line.split() for line in lines if HALF not in line] == [list("0123"), list("4567"), ["8"]]
