"""A contact sheet as characters: a half block, ▀, is two pixels, its foreground the upper, its background the lower.

Nothing is written here; `screen` turns the runs into what its terminal understands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllava_cli.media.contact_sheet import Sheet

HALF = "▀"
SHADES = " ░▒▓█"
LETTERS = " .:-=+*#%@"
_PER_ROW = (8, 4, 2, 1)
_LEAST = 8
"""A tile's least width in columns: room for a time."""
_GAP = 1
_OTHER_LINES = 3
"""The name, the facts, and the prompt that comes after."""
_WORTH = 1.25
"""Fewer tiles a row are taken only where they are larger by this factor."""

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Neighbours of the same colours; None is the terminal's own."""

    text: str
    upper: Colour | None = None
    lower: Colour | None = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How many tiles stand in a row, and each one's width and height in characters."""

    per_row: int
    columns: int
    lines: int


def draw(sheet: Sheet, columns: int, lines: int, shades: str | None = None) -> Iterator[list[Run]]:
    """A list of runs for each line: tiles, and the labels below them.

    With `shades`, characters from dark to bright, one for each two pixels, there are no colours.
    """
    _, height, width, _ = sheet.tiles.shape
    grid = lay_out(len(sheet.tiles), width / height, columns, lines)
    tiles = [_shrunk(tile, grid) for tile in sheet.tiles]
    if shades:
        tiles = _spread(tiles)
    for first in range(0, len(tiles), grid.per_row):
        row, labels = tiles[first : first + grid.per_row], sheet.labels[first : first + grid.per_row]
        for line in range(grid.lines):
            yield _joined([_runs(tile[2 * line], tile[2 * line + 1], shades) for tile in row])
        if any(labels):
            yield [Run(text=(" " * _GAP).join(label.center(grid.columns) for label in labels).rstrip())]


def lay_out(count: int, aspect: float, columns: int, lines: int) -> Grid:
    """The largest tiles that all fit, or, where there is no room for all, those that scroll by.

    (8 squares, 60x40) → 4 a row of 14x7; (8 squares, 200x24) → 8 a row of 24x12
    """
    found: Grid | None = None
    for per_row in sorted({min(each, count) for each in (*_PER_ROW, min(count, 8))}, reverse=True):
        room = (lines - _OTHER_LINES) // math.ceil(count / per_row) - 1
        grid = _grid(per_row, aspect, columns, room)
        if grid.columns >= _LEAST and (found is None or grid.columns >= _WORTH * found.columns):
            found = grid
    scrolling = max(1, min(4, count, (columns + _GAP) // (_LEAST + _GAP)))
    return found or _grid(scrolling, aspect, columns, lines)


def _grid(per_row: int, aspect: float, columns: int, lines: int) -> Grid:
    """The largest tile of this width / height with `per_row` in a row of `columns`, and at most `lines` high."""
    width = max(1, min((columns + _GAP) // per_row - _GAP, int(2 * lines * aspect)))
    height = max(1, min(math.ceil(width / aspect / 2), lines))
    return Grid(per_row=per_row, columns=width, lines=height)


def _shrunk(tile: Pixels, grid: Grid) -> Pixels:
    size = (grid.columns, 2 * grid.lines)
    return np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.LANCZOS))


def _spread(tiles: list[Pixels]) -> list[Pixels]:
    """In greys, from black to white all over the sheet: few shades are told apart only where all are used."""
    light = np.stack(tiles) @ np.array((0.299, 0.587, 0.114))
    darkest, brightest = light.min(), light.max()
    greys = (light - darkest) / max(brightest - darkest, 1.0) * 255
    return list(np.repeat(greys[..., None], 3, axis=-1).astype(np.uint8))


def _runs(upper: Pixels, lower: Pixels, shades: str | None) -> list[Run]:
    """Two rows of pixels [W, 3] → one line of characters."""
    if shades:
        levels = (upper[:, 0].astype(int) + lower[:, 0]) // 2
        return [Run(text="".join(shades[level * len(shades) // 256] for level in levels))]
    pairs = zip(upper.tolist(), lower.tolist(), strict=True)
    return [Run(text=HALF, upper=_colour(above), lower=_colour(below)) for above, below in pairs]


def _colour(pixel: list[int]) -> Colour:
    red, green, blue = pixel
    return red, green, blue


def _joined(tiles: list[list[Run]]) -> list[Run]:
    gap = Run(text=" " * _GAP)
    return [run for number, tile in enumerate(tiles) for run in ([gap, *tile] if number else tile)]
