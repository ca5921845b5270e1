"""Contact sheets as pictures and as characters: where the tiles lie, what they show, what is written."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from tests.clips import Pixels
from vllava_cli.media.contact_sheet import (
    HALF,
    LETTERS,
    SHADES,
    ColourRun,
    Sheet,
    character_grid,
    clock,
    draw_characters,
    facts,
    fitted,
    printable,
    seen,
    sheet_layout,
    sheet_picture,
    tiled,
)
from vllava_cli.nouns import Clip, Frames, MediaKind, VideoRecipe

PAPER = (20, 22, 26)
RED, BLUE, BLACK, WHITE = (255, 0, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)


def frames(count: int, width: int, height: int, *, kind: MediaKind = "video") -> Frames:
    is_video = kind == "video"
    clip = Clip(
        path=Path("a.mp4"),
        kind=kind,
        width=width,
        height=height,
        frame_count=count,
        duration_s=12.5 if is_video else None,
        fps=29.97003 if is_video else None,
        codec="h264" if is_video else "jpeg",
    )
    shades = np.arange(count, dtype=np.uint8)[:, None, None, None] * 3 + 100
    pixels = np.broadcast_to(shades, (count, height, width, 3)).copy()
    return Frames(clip=clip, pixels=pixels, times_s=tuple(index * 1.5 for index in range(count)))


def drawn(png: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB"))


@pytest.mark.parametrize(
    ("count", "width", "height", "expected"),
    [
        (8, 1920, 1080, (4, 2, (360, 202))),
        (8, 1080, 1920, (8, 1, (202, 360))),
        (8, 224, 224, (4, 2, (224, 224))),
        (8, 56, 56, (4, 2, (112, 112))),
        (20, 224, 224, (7, 3, (224, 224))),
        (8, 16, 16, (4, 2, (160, 160))),
        (8, 3000, 200, (2, 4, (360, 24))),
        (8, 1, 89_000_000, (8, 1, (1, 360))),
        (3, 640, 480, (3, 1, (360, 270))),
        (64, 1920, 1080, (8, 8, (360, 202))),
    ],
)
def test_tiles_are_laid_out(count: int, width: int, height: int, expected: tuple[int, int, tuple[int, int]]) -> None:
    layout = sheet_layout(count, width, height)
    assert (layout.columns, layout.rows, layout.tile) == expected


@pytest.mark.parametrize(
    ("count", "width", "height"), [(8, 640, 360), (8, 360, 640), (8, 16, 16), (64, 64, 36), (3, 1, 300), (1, 90, 20)]
)
def test_every_frame_is_on_the_sheet_and_nothing_overlaps(count: int, width: int, height: int) -> None:
    shown, layout = frames(count, width, height), sheet_layout(count, width, height)
    sheet = drawn(sheet_picture(Sheet.of(shown, "a.mp4", "whole")))
    assert sheet.shape == (layout.size[1], layout.size[0], 3)
    for number in range(count):
        left, top = layout.corner(number)
        tile = sheet[top : top + layout.tile[1], left : left + layout.tile[0]]
        assert (tile == shown.pixels[number, 0, 0]).all()
        assert tile.shape == (layout.tile[1], layout.tile[0], 3)
        assert (sheet[top - 1, left : left + layout.tile[0]] == PAPER).all()
    assert (sheet[:, :20] == PAPER).all()
    assert (sheet[:, -20:] == PAPER).all()


@pytest.mark.parametrize("name", ["x" * 5000, "\x1b]0;owned\x07\n\u202e.mp4", "été Привет 你好 🎬", "\udcff.mp4", ""])
def test_any_name_leaves_the_margins_free(name: str) -> None:
    sheet = drawn(sheet_picture(Sheet.of(frames(1, 16, 16), name, "whole")))
    assert sheet.shape[1] == 600
    assert (sheet[:, -28:] == PAPER).all()


def test_what_the_font_lacks_is_replaced_and_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert printable("été\x1b[31m\u202e\udcff\n.mp4") == "ete?[31m???.mp4"
    font = ImageFont.load_default(24)
    text = fitted("beginning " + "middle " * 50 + "end.mp4", font, 400)
    assert re.fullmatch(r"beginning .*….*end\.mp4", text)
    assert font.getlength(text) <= 400
    assert fitted("short.mp4", font, 400) == "short.mp4"


def test_the_facts_below_the_name() -> None:
    assert facts(frames(8, 640, 360)) == "640x360, h264, 29.97 frames a second, 0:12.50"
    slow = frames(8, 640, 360)
    slow = replace(slow, clip=replace(slow.clip, fps=1.0))
    assert facts(slow) == "640x360, h264, 1 frame a second, 0:12.50"
    assert facts(frames(1, 640, 360, kind="image")) == "640x360, jpeg"


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0.0, "0:00.00"), (59.999, "1:00.00"), (3723.25, "1:02:03.25")],
)
def test_times_are_told(time_s: float, text: str) -> None:
    assert clock(time_s) == text


def test_a_sheet_tells_what_the_model_sees() -> None:
    recipe = VideoRecipe(short_side=64, crop_height=56, crop_width=56, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    shown = frames(2, 640, 360)
    sheet = Sheet.of(tiled(shown, recipe, fit="pad"), "a.mp4", recipe, fit="pad")
    assert (sheet.name, sheet.facts, sheet.labels) == (
        "a.mp4",
        "640x360, h264, 29.97 frames a second, 0:12.50; seen as 56x56, pad",
        ("0:00.00", "0:01.50"),
    )
    assert (sheet.tiles == seen(shown, recipe, fit="pad")).all()
    whole = Sheet.of(tiled(frames(1, 640, 360, kind="image"), "whole"), "b.jpg", "whole")
    assert (whole.name, whole.facts, whole.labels) == ("b.jpg", "640x360, jpeg", ("",))
    assert whole.tiles.shape == (1, 202, 360, 3)


def test_frames_of_several_sizes_are_drawn_undistorted() -> None:
    shown = frames(2, 640, 640)
    shown.pixels[:] = RED
    clip = replace(shown.clip, width=640, height=320, sizes=("640x320", "320x640"))
    several = tiled(replace(shown, clip=clip, sizes=((640, 320), (320, 640))), "whole")
    assert (several.pixels.shape, several.sizes) == ((2, 360, 360, 3), ())
    red = (several.pixels == RED).all(axis=-1)
    assert [(mask.any(axis=0).sum(), mask.any(axis=1).sum(), mask.sum()) for mask in red] == [
        (360, 180, 360 * 180),
        (180, 360, 360 * 180),
    ]
    assert (several.pixels[~red] == PAPER).all()
    assert facts(several) == "640x320, 320x640, h264, 29.97 frames a second, 0:12.50"


def sheet(tiles: Pixels, *labels: str) -> Sheet:
    return Sheet(name="a.mp4", facts="", tiles=tiles, labels=labels)


def halves(upper: tuple[int, int, int], lower: tuple[int, int, int], count: int, side: int = 64) -> Pixels:
    """[T, S, S, 3]: one colour above another."""
    tile = np.empty((count, side, side, 3), np.uint8)
    tile[:, : side // 2], tile[:, side // 2 :] = upper, lower
    return tile


def text(lines: list[list[ColourRun]]) -> list[str]:
    return ["".join(run.text for run in line) for line in lines]


@pytest.mark.parametrize(
    ("count", "aspect", "columns", "lines", "expected"),
    [
        (8, 1.0, 60, 40, (4, 14, 7)),
        (8, 1.0, 200, 24, (8, 24, 12)),
        (8, 16 / 9, 60, 40, (2, 28, 8)),
        (8, 9 / 16, 60, 40, (4, 14, 13)),
        (8, 1.0, 5, 5, (1, 5, 3)),
        (1, 1.0, 200, 40, (1, 72, 36)),
        (20, 1.0, 60, 40, (4, 12, 6)),
        (64, 1.0, 60, 40, (4, 14, 7)),
        (8, 1e6, 80, 24, (1, 80, 1)),
    ],
)
def test_tiles_suit_the_terminal(
    count: int, aspect: float, columns: int, lines: int, expected: tuple[int, int, int]
) -> None:
    assert character_grid(count, aspect, columns, lines) == expected


def test_a_half_block_has_the_upper_pixel_before_the_lower() -> None:
    tiles = halves(RED, BLUE, 2, side=2)
    lines = list(draw_characters(sheet(tiles, "0:00.00", "0:01.50"), 17, 8))
    assert text(lines) == [f"{HALF * 8} {HALF * 8}"] * 4 + ["0:00.00  0:01.50"]
    first, last = lines[0], lines[3]
    assert (first[0].upper, last[-1].lower) == (RED, BLUE)
    assert first[8] == ColourRun(text=" ")
    stripes = np.empty((1, 8, 8, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = RED, BLUE
    assert list(draw_characters(sheet(stripes, ""), 8, 8)) == [[ColourRun(text=HALF, upper=RED, lower=BLUE)] * 8] * 4


def test_shades_use_all_there_is_between_the_darkest_and_the_brightest() -> None:
    grey = np.repeat((np.arange(10) * 14 + 50).astype(np.uint8)[:, None], 10, axis=1)
    tiles = np.repeat(grey.T[None, :, :, None], 3, axis=-1)
    assert text(list(draw_characters(sheet(tiles, ""), 10, 9, LETTERS))) == [LETTERS] * 5
    lines = list(draw_characters(sheet(halves(BLACK, WHITE, 1), ""), 10, 13, SHADES))
    assert text(lines)[0] == " " * 10
    assert text(lines)[-1] == "█" * 10
    assert all(run.upper is None and run.lower is None for line in lines for run in line)
    assert text(list(draw_characters(sheet(halves(WHITE, WHITE, 1), ""), 10, 13, SHADES))) == [" " * 10] * 5


def test_the_last_row_may_be_shorter() -> None:
    lines = text(list(draw_characters(sheet(halves(RED, BLUE, 9), *(f"{number}" for number in range(9))), 60, 40)))
    assert lines[-1].split() == ["8"]
    assert lines[-2] == HALF * len(lines[-2])
    assert [line.split() for line in lines if HALF not in line] == [list("0123"), list("4567"), ["8"]]
