"""What a contact sheet shows of a clip, and the sheet as a file: the time under each frame; or one frame alone."""

from __future__ import annotations

import io
import math
import unicodedata
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vllava_cli.media.square import seen
from vllava_cli.nouns import Clip, Fit, Frames, PictureForm, Tiles, counted

_PAPER = (20, 22, 26)
_TITLE = (240, 240, 242)
_FACTS = (150, 154, 162)
_TIME = (205, 208, 214)
_MARGIN = 28
_GAP = 14
_TITLE_SIZE, _TEXT_SIZE = 24, 16
_HEADER = 84
_LEAST_WIDTH = 600
_LABEL = 30
_LONG, _SHORT, _LEAST = 360, 160, 96
"""A tile's longest side, what a tiny picture is enlarged to, and a cell's least width: room for a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """The tiles of one clip [T, H, W, 3] uint8 with a label below each, and two lines above them all."""

    name: str
    facts: str
    tiles: npt.NDArray[np.uint8]
    labels: tuple[str, ...]
    """Times; "" below an image."""

    @classmethod
    def of(cls, frames: Frames, name: str, tiles: Tiles, *, fit: Fit = "crop") -> Sheet:
        """Of frames that were `tiled`."""
        told = facts(frames)
        if tiles != "whole":
            told += f"; seen as {tiles.crop_width}x{tiles.crop_height}, {fit}"
        return cls(name=name, facts=told, tiles=frames.pixels, labels=_labels(frames))


def tiled(frames: Frames, tiles: Tiles, *, fit: Fit = "crop") -> Frames:
    """The same frames no larger than they are drawn. Errors: MediaError, as `square.seen`."""
    if tiles != "whole":
        return replace(frames, pixels=seen(frames, tiles, fit=fit))
    _, height, width, _ = frames.pixels.shape
    tile = _tile(width, height)
    return replace(frames, pixels=np.stack([np.asarray(_tile_of(pixels, tile)) for pixels in frames.pixels]))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the tiles of a sheet are, in pixels."""

    columns: int
    rows: int
    tile: tuple[int, int]
    cell_width: int

    @property
    def size(self) -> tuple[int, int]:
        width = self.columns * (self.cell_width + _GAP) - _GAP + 2 * _MARGIN
        return max(width, _LEAST_WIDTH), _HEADER + self.rows * (self.tile[1] + _LABEL + _GAP) - _GAP + _MARGIN

    def corner(self, number: int) -> tuple[int, int]:
        """Upper left corner of the n-th tile, which is centred in its cell."""
        row, column = divmod(number, self.columns)
        inner = (self.cell_width - self.tile[0]) // 2
        return _MARGIN + column * (self.cell_width + _GAP) + inner, _HEADER + row * (self.tile[1] + _LABEL + _GAP)


def lay_out(count: int, width: int, height: int) -> Layout:
    """lay_out(8, 1920, 1080) → 4 x 2 tiles of 360x202; lay_out(8, 1080, 1920) → 8 x 1 of 202x360."""
    tile = _tile(width, height)
    cell_width = max(tile[0], _LEAST)
    if count <= 8:
        columns = min(count, 2 if width >= 3 * height else 8 if height > 1.2 * width else 4)
    else:
        columns = min(8, math.ceil(math.sqrt(count * (tile[1] + _LABEL) / cell_width * 1.6)))
    return Layout(columns=columns, rows=math.ceil(count / columns), tile=tile, cell_width=cell_width)


def sheet_picture(sheet: Sheet, form: PictureForm = "PNG") -> bytes:
    """All tiles in order on dark paper, as the bytes of a file."""
    _, height, width, _ = sheet.tiles.shape
    layout = lay_out(len(sheet.tiles), width, height)
    paper = Image.new("RGB", layout.size, _PAPER)
    draw = ImageDraw.Draw(paper)
    room = layout.size[0] - 2 * _MARGIN
    for text, top, size, colour in ((sheet.name, 18, _TITLE_SIZE, _TITLE), (sheet.facts, 50, _TEXT_SIZE, _FACTS)):
        font = ImageFont.load_default(size)
        draw.text((_MARGIN, top), fitted(printable(text), font, room), fill=colour, font=font)
    font = ImageFont.load_default(_TEXT_SIZE)
    for number, (pixels, label) in enumerate(zip(sheet.tiles, sheet.labels, strict=True)):
        left, top = layout.corner(number)
        paper.paste(_tile_of(pixels, layout.tile), (left, top))
        middle = left + layout.tile[0] / 2
        draw.text((middle, top + layout.tile[1] + 6), label, fill=_TIME, font=font, anchor="ma")
    return _encoded(paper, form)


def frame_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """One frame [H, W, 3] as it is."""
    return _encoded(Image.fromarray(pixels), "PNG")


def clock(time_s: float) -> str:
    """3.5 → "0:03.50", 3723.25 → "1:02:03.25"."""
    hundredths = round(time_s * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 100:02d}.{rest % 100:02d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def facts(frames: Frames) -> str:
    """ "1920x1080, h264, 25 frames a second, 0:12.50" """
    clip: Clip = frames.clip
    rate = f"{counted(float(f'{clip.fps:.4g}'), 'frame')} a second" if clip.fps else ""
    length = clock(clip.duration_s) if clip.duration_s is not None else ""
    return ", ".join(filter(None, [f"{clip.width}x{clip.height}", clip.codec, rate, length]))


def _labels(frames: Frames) -> tuple[str, ...]:
    return tuple(clock(time_s) if frames.kind == "video" else "" for time_s in frames.times_s)


def printable(text: str) -> str:
    """What the built-in font can draw of a name: "Caf\u00e9" → "Cafe"; control characters and the like become "?"."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isprintable() else "?" for letter in plain)


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    """The text, or its beginning and its end, where it is wider than `room` pixels."""
    if font.getlength(text[:1000]) <= room and len(text) <= 1000:
        return text
    kept = min(len(text) - 1, 1000)
    while kept > 2 and font.getlength(_shortened(text, kept)) > room:
        kept -= 1
    return _shortened(text, kept)


def _shortened(text: str, kept: int) -> str:
    tail = kept // 3
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"


def _tile(width: int, height: int) -> tuple[int, int]:
    """Large pictures shrink to a longest side of 360; tiny ones grow by a whole factor; others stay."""
    longest = max(width, height)
    if longest < _SHORT:
        factor = _SHORT // longest
        return width * factor, height * factor
    scale = min(1.0, _LONG / longest)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _tile_of(pixels: npt.NDArray[np.uint8], tile: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(pixels)
    if image.size == tile:
        return image
    filter_ = Image.Resampling.NEAREST if image.width < tile[0] else Image.Resampling.LANCZOS
    return image.resize(tile, filter_)


def _encoded(image: Image.Image, form: PictureForm) -> bytes:
    data = io.BytesIO()
    image.save(data, form, quality=95)
    return data.getvalue()
