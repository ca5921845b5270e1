"""Draws a clip's frames as a contact sheet, with a time under each: as the bytes of an image file, or as characters.

In characters, a half block (▀) shows two pixels: its foreground is the upper one, its background the lower one.
`screen` writes the runs of one colour in the way that its terminal understands. The frames are those of the file, or
the squares that the model gets. The squares may differ by two levels of 255: Pillow's bicubic stands in for torch's.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vllava_cli.media.preprocess import crop_corner, padded, short_side_size
from vllava_cli.media.select import check_shape
from vllava_cli.nouns import (
    Fit,
    Frames,
    PictureForm,
    Tiles,
    VideoRecipe,
    counted,
)

_PAPER = (20, 22, 26)
_TITLE = (240, 240, 242)
_FACTS = (150, 154, 162)
_TIME = (205, 208, 214)
_MARGIN = 28
_GAP = 14
_TITLE_SIZE, _TEXT_SIZE = 24, 16
_HEADER = 84
_LEAST_WIDTH = 600
_LABEL, _REASON = 30, 20
_LONG, _SHORT, _LEAST = 360, 160, 96
"""A tile's longest side, the side to which a tiny picture is enlarged, and a cell's least width, which holds a time."""
_STRIP_TILE = 128
_SMALLER = ((160, 80), (160, 60), (160, 40), (128, 40), (112, 25), (80, 20), (80, 5))
"""The width of a tile and the quality of a small sheet, from the best that may fit into its bytes to the last."""
HALF = "▀"
SHADES = " ░▒▓█"
LETTERS = " .:-=+*#%@"
_PER_ROW = (8, 4, 2, 1)
_LEAST_COLUMNS = 8
"""A tile's least width in columns, which holds a time."""
_COLUMN_GAP = 1
_OTHER_LINES = 3
"""Lines of the screen that aren't tiles: the name, the facts, and the shell's prompt afterwards."""
_WORTH = 1.25
"""Fewer tiles are put in a row only if that makes them larger by this factor."""
_BICUBIC = Image.Resampling.BICUBIC

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """A contact sheet of one clip: tiles [T, H, W, 3] uint8, a label below each, and two lines of text above all."""

    name: str
    facts: str
    tiles: Pixels
    labels: tuple[str, ...]
    """The times of the frames; "" for an image."""
    reasons: tuple[str, ...] = ()
    """Why each frame was picked, below its time; () for no such line."""

    @classmethod
    def of(cls, frames: Frames, name: str, tiles: Tiles, *, fit: Fit = "crop") -> Sheet:
        """Makes a sheet of frames that `tiled` returned."""
        text = facts(frames)
        if tiles != "whole":
            text += f"; seen as {tiles.crop_width}x{tiles.crop_height}, {fit}"
        labels = tuple(clock(time_s) if frames.kind == "video" else "" for time_s in frames.times_s)
        return cls(name=name, facts=text, tiles=frames.pixels, labels=labels, reasons=frames.reasons)


def tiled(frames: Frames, tiles: Tiles, *, fit: Fit = "crop") -> Frames:
    """Resizes frames for the sheet: whole frames, or the squares that the model sees. Errors: those of `seen`."""
    if tiles != "whole":
        return replace(frames, pixels=seen(frames, tiles, fit=fit), sizes=())
    _, height, width, _ = frames.pixels.shape
    tile = _tile(width, height)
    draw = _centred if frames.sizes else _tile_of
    return replace(frames, pixels=np.stack([np.asarray(draw(pixels, tile)) for pixels in frames.pictures]), sizes=())


@dataclass(frozen=True, kw_only=True)
class SheetLayout:
    """The grid of a sheet and the sizes of its parts, in pixels."""

    columns: int
    rows: int
    tile: tuple[int, int]
    cell_width: int
    label: int = _LABEL
    """The height of the lines below a tile."""
    header: int = _HEADER
    """The height of the lines above all tiles."""
    margin: int = _MARGIN
    least_width: int = _LEAST_WIDTH

    @property
    def size(self) -> tuple[int, int]:
        width = self.columns * (self.cell_width + _GAP) - _GAP + 2 * self.margin
        height = self.rows * (self.tile[1] + self.label + _GAP) - _GAP
        return max(width, self.least_width), self.header + height + self.margin

    def corner(self, number: int) -> tuple[int, int]:
        """Returns the upper left corner of a tile, counted from 0; each tile is centred in its cell."""
        row, column = divmod(number, self.columns)
        inner = (self.cell_width - self.tile[0]) // 2
        across, down = self.cell_width + _GAP, self.tile[1] + self.label + _GAP
        return self.margin + column * across + inner, self.header + row * down


@dataclass(frozen=True, kw_only=True, eq=False)
class Strip:
    """A row of tiles with a line of text above it: tiles [T, S, S, 3] uint8, and a label below each."""

    text: str
    tiles: Pixels
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ColourRun:
    """Characters side by side in the same two colours; None is the terminal's own colour."""

    text: str
    upper: Colour | None = None
    lower: Colour | None = None


def seen(frames: Frames, recipe: VideoRecipe, *, fit: Fit = "crop") -> Pixels:
    """Returns the squares [T, S, S, 3] that the model is shown, before their colours are normalised.

    Errors: those of `check_shape`.
    """
    squares = []
    for pixels in frames.pictures:
        check_shape(pixels.shape[1], pixels.shape[0], fit)
        image = Image.fromarray(padded(pixels, recipe.mean) if fit == "pad" else pixels)
        box = _kept(image, recipe) if fit == "crop" else None
        squares.append(np.asarray(image.resize((recipe.crop_width, recipe.crop_height), _BICUBIC, box)))
    return np.stack(squares)


def sheet_layout(count: int, width: int, height: int) -> SheetLayout:
    """Lays out tiles of a size: (8, 1920, 1080) → 4 x 2 tiles of 360x202; (8, 1080, 1920) → 8 x 1 of 202x360."""
    tile = _tile(width, height)
    cell_width = max(tile[0], _LEAST)
    if count <= 8:
        columns = min(count, 2 if width >= 3 * height else 8 if height > 1.2 * width else 4)
    else:
        columns = min(8, math.ceil(math.sqrt(count * (tile[1] + _LABEL) / cell_width * 1.6)))
    return SheetLayout(columns=columns, rows=math.ceil(count / columns), tile=tile, cell_width=cell_width)


def sheet_picture(sheet: Sheet, form: PictureForm = "PNG") -> bytes:
    """Draws all tiles in order on a dark background, and returns the bytes of an image file."""
    _, height, width, _ = sheet.tiles.shape
    layout = sheet_layout(len(sheet.tiles), width, height)
    if sheet.reasons:
        layout = replace(layout, label=_LABEL + _REASON)
    paper = Image.new("RGB", layout.size, _PAPER)
    draw = ImageDraw.Draw(paper)
    _write_line(draw, sheet.name, 18, _TITLE_SIZE, _TITLE)
    _write_line(draw, sheet.facts, 50, _TEXT_SIZE, _FACTS)
    _put_tiles(paper, draw, sheet, layout)
    return _encoded(paper, form)


def small_sheet(frames: Frames, most_bytes: int) -> bytes:
    """Draws squares of the model with their times, without a header, as a WebP file of at most `most_bytes`.

    The least size and quality may take more.
    """
    sheet = Sheet.of(frames, "", "whole")
    data, (_, height, width, _) = b"", frames.pixels.shape
    for side, quality in _SMALLER:
        columns = min(len(sheet.tiles), 4)
        layout = SheetLayout(
            columns=columns,
            rows=math.ceil(len(sheet.tiles) / columns),
            tile=(side, max(1, side * height // width)),
            cell_width=max(side, _LEAST),
            label=_LABEL if any(sheet.labels) else 0,
            header=_GAP,
            margin=_GAP,
            least_width=0,
        )
        paper = Image.new("RGB", layout.size, _PAPER)
        _put_tiles(paper, ImageDraw.Draw(paper), sheet, layout)
        data = _encoded(paper, "WEBP", quality)
        if len(data) <= most_bytes:
            break
    return data


def _put_tiles(paper: Image.Image, draw: ImageDraw.ImageDraw, sheet: Sheet, layout: SheetLayout) -> None:
    font = ImageFont.load_default(_TEXT_SIZE)
    for number, (pixels, label) in enumerate(zip(sheet.tiles, sheet.labels, strict=True)):
        left, top = layout.corner(number)
        paper.paste(_tile_of(pixels, layout.tile), (left, top))
        middle = left + layout.tile[0] / 2
        draw.text((middle, top + layout.tile[1] + 6), label, fill=_TIME, font=font, anchor="ma")
        if sheet.reasons:
            reason = sheet.reasons[number]
            draw.text((middle, top + layout.tile[1] + 6 + _REASON), reason, fill=_FACTS, font=font, anchor="ma")


def strips_picture(title: str, facts: str, strips: Sequence[Strip], form: PictureForm = "PNG") -> bytes:
    """Draws strips below each other, in the manner of `sheet_picture`, and returns the bytes of an image file."""
    most, height = max(len(strip.tiles) for strip in strips), _LABEL + _STRIP_TILE + _LABEL + _GAP
    width = max(most * (_STRIP_TILE + _GAP) - _GAP + 2 * _MARGIN, _LEAST_WIDTH)
    paper = Image.new("RGB", (width, _HEADER + len(strips) * height - _GAP + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(paper)
    _write_line(draw, title, 18, _TITLE_SIZE, _TITLE)
    _write_line(draw, facts, 50, _TEXT_SIZE, _FACTS)
    font, size = ImageFont.load_default(_TEXT_SIZE), (_STRIP_TILE, _STRIP_TILE)
    for number, strip in enumerate(strips):
        top = _HEADER + number * height
        _write_line(draw, strip.text, top + 4, _TEXT_SIZE, _TITLE)
        for place, (pixels, label) in enumerate(zip(strip.tiles, strip.labels, strict=True)):
            left = _MARGIN + place * (_STRIP_TILE + _GAP)
            paper.paste(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), (left, top + _LABEL))
            below = top + _LABEL + _STRIP_TILE + 6
            draw.text((left + _STRIP_TILE / 2, below), label, fill=_TIME, font=font, anchor="ma")
    return _encoded(paper, form)


def _write_line(draw: ImageDraw.ImageDraw, text: str, top: int, size: int, colour: Colour) -> None:
    """Writes a line of text from the left margin on, shortened to the width of the picture."""
    font, width = ImageFont.load_default(size), int(draw.im.size[0]) - 2 * _MARGIN
    draw.text((_MARGIN, top), fitted(printable(text), font, width), fill=colour, font=font)


def frame_png(pixels: Pixels) -> bytes:
    """Encodes one frame [H, W, 3] as a PNG of the same size."""
    return _encoded(Image.fromarray(pixels), "PNG")


def clock(time_s: float) -> str:
    """Writes a time: 3.5 → "0:03.50", 3723.25 → "1:02:03.25"."""
    hundredths = round(time_s * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 100:02d}.{rest % 100:02d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def facts(frames: Frames) -> str:
    """Writes the facts of a clip in one line: "1920x1080, h264, 25 frames a second, 0:12.50"."""
    clip = frames.clip
    rate = f"{counted(float(f'{clip.fps:.4g}'), 'frame')} a second" if clip.fps else ""
    length = clock(clip.duration_s) if clip.duration_s is not None else ""
    sizes = clip.sizes or [f"{clip.width}x{clip.height}"]
    return ", ".join(filter(None, [*sizes, clip.codec, rate, length]))


def printable(text: str) -> str:
    """Removes accents from a name, "Caf\u00e9" → "Cafe"; control characters and the like become "?"."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isprintable() else "?" for letter in plain)


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shortens a text that is wider than `width` pixels to its beginning and its end, with … between them."""
    shown, length = text, len(text)
    while length > 2 and (len(shown) > 1000 or font.getlength(shown) > width):
        length = min(length - 1, 999)
        tail = length // 3
        shown = f"{text[: length - tail]}…{text[len(text) - tail :]}"
    return shown


def draw_characters(sheet: Sheet, columns: int, lines: int, shades: str | None = None) -> Iterator[list[ColourRun]]:
    """Yields the runs of each line: lines of tiles, and the labels below the tiles.

    `shades` are characters from dark to bright. With them, a character stands for two pixels and has no colour.
    """
    _, height, width, _ = sheet.tiles.shape
    per_row, tile_columns, tile_lines = character_grid(len(sheet.tiles), width / height, columns, lines)
    size, gap = (tile_columns, 2 * tile_lines), " " * _COLUMN_GAP
    tiles = [np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.LANCZOS)) for tile in sheet.tiles]
    if shades:
        tiles = _spread(tiles)
    for first in range(0, len(tiles), per_row):
        row = tiles[first : first + per_row]
        texts = (line[first : first + per_row] for line in (sheet.labels, sheet.reasons))
        for line in range(tile_lines):
            runs = list[ColourRun]()
            for tile in row:
                runs += [ColourRun(text=gap)] if runs else []
                runs += _runs(tile[2 * line], tile[2 * line + 1], shades)
            yield runs
        for labels in texts:
            if any(labels):
                yield [ColourRun(text=gap.join(label.center(tile_columns) for label in labels).rstrip())]


def character_grid(count: int, aspect: float, columns: int, lines: int) -> tuple[int, int, int]:
    """Returns the number of tiles in a row, and the width and height of a tile, in characters.

    The tiles are the largest that all fit on the screen. If those are too narrow for a time, the tiles get larger, and
    the sheet scrolls. (8 squares, 60x40) → 4 a row of 14x7; (8 squares, 200x24) → 8 a row of 24x12
    """
    found: tuple[int, int, int] | None = None
    for per_row in sorted({min(each, count) for each in (*_PER_ROW, min(count, 8))}, reverse=True):
        most_lines = (lines - _OTHER_LINES) // math.ceil(count / per_row) - 1
        width, height = _tile_size(per_row, aspect, columns, most_lines)
        if width >= _LEAST_COLUMNS and (found is None or width >= _WORTH * found[1]):
            found = per_row, width, height
    scrolling = max(1, min(4, count, (columns + _COLUMN_GAP) // (_LEAST_COLUMNS + _COLUMN_GAP)))
    return found or (scrolling, *_tile_size(scrolling, aspect, columns, lines))


def _tile(width: int, height: int) -> tuple[int, int]:
    """A tile's size: large pictures shrink to a longest side of 360, tiny ones grow by a whole factor, others stay."""
    longest = max(width, height)
    if longest < _SHORT:
        factor = _SHORT // longest
        return width * factor, height * factor
    scale = min(1.0, _LONG / longest)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _tile_of(pixels: Pixels, tile: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(pixels)
    if image.size == tile:
        return image
    filter_ = Image.Resampling.NEAREST if image.width < tile[0] else Image.Resampling.LANCZOS
    return image.resize(tile, filter_)


def _centred(pixels: Pixels, tile: tuple[int, int]) -> Image.Image:
    """Scales a picture until it fits into a tile of another shape, and puts it in the middle of the tile."""
    image, paper = Image.fromarray(pixels), Image.new("RGB", tile, _PAPER)
    scale = min(tile[0] / image.width, tile[1] / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    scaled = image.resize((width, height), Image.Resampling.LANCZOS)
    paper.paste(scaled, ((tile[0] - width) // 2, (tile[1] - height) // 2))
    return paper


def _encoded(image: Image.Image, form: PictureForm | Literal["WEBP"], quality: int = 95) -> bytes:
    data = io.BytesIO()
    image.save(data, form, quality=quality)
    return data.getvalue()


def _tile_size(per_row: int, aspect: float, columns: int, lines: int) -> tuple[int, int]:
    """Returns the largest tile of this width / height, at most `lines` high, of which `per_row` fit into `columns`."""
    width = max(1, min((columns + _COLUMN_GAP) // per_row - _COLUMN_GAP, int(2 * lines * aspect)))
    return width, max(1, min(math.ceil(width / aspect / 2), lines))


def _spread(tiles: list[Pixels]) -> list[Pixels]:
    """Turns tiles to grey, from black to white over the whole sheet, so that all of the few shades are used."""
    light = np.stack(tiles) @ np.array((0.299, 0.587, 0.114))
    darkest, brightest = light.min(), light.max()
    greys = (light - darkest) / max(brightest - darkest, 1.0) * 255
    return list(np.repeat(greys[..., None], 3, axis=-1).astype(np.uint8))


def _runs(upper: Pixels, lower: Pixels, shades: str | None) -> list[ColourRun]:
    """Makes one line of characters from two rows of pixels [W, 3]."""
    if shades:
        levels = (upper[:, 0].astype(int) + lower[:, 0]) // 2
        return [ColourRun(text="".join(shades[level * len(shades) // 256] for level in levels))]
    pairs = zip(upper.tolist(), lower.tolist(), strict=True)
    return [ColourRun(text=HALF, upper=(*above,), lower=(*below,)) for above, below in pairs]


def _kept(image: Image.Image, recipe: VideoRecipe) -> tuple[float, float, float, float]:
    """Returns the box of a picture that "crop" keeps: (left, top, right, bottom). Only this part is resized."""
    height, width = short_side_size((image.height, image.width), recipe.short_side)
    top, left = crop_corner((height, width), recipe)
    across, down = image.width / width, image.height / height
    bottom, right = top + recipe.crop_height, left + recipe.crop_width
    return left * across, top * down, right * across, bottom * down
