"""Contact sheets as files: their names, and that none is overwritten or half written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vllava_cli.commands.sheets import free_sheet_path, name_of, sheet_path, title_of, write_sheet
from vllava_cli.media.contact_sheet import Sheet, sheet_picture, tiled
from vllava_cli.nouns import Clip, Frames, VideoRecipe

RECIPE = VideoRecipe(short_side=56, crop_height=56, crop_width=56, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))


@pytest.fixture
def frames() -> Frames:
    clip = Clip(path=Path("a/holiday.mp4"), kind="video", width=96, height=48, frame_count=8)
    noise = np.random.default_rng(0).integers(0, 256, (8, 48, 96, 3), np.uint8)
    return Frames(clip=clip, pixels=noise, times_s=tuple(float(index) for index in range(8)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sheets_of_the_same_clip_get_names_of_their_own(frames: Frames, here: Path) -> None:
    written = [write_sheet(frames, RECIPE) for _ in range(3)]
    assert [str(path) for path in written] == ["holiday-frames.png", "holiday-frames-2.png", "holiday-frames-3.png"]
    assert names(here) == sorted(str(path) for path in written)
    expected = sheet_picture(Sheet.of(tiled(frames, RECIPE), "holiday.mp4", RECIPE))
    assert {path.read_bytes() for path in written} == {expected}


def test_a_sheet_goes_to_the_file_or_folder_named(frames: Frames, tmp_path: Path) -> None:
    assert write_sheet(frames, RECIPE, tmp_path / "b.png", fit="pad") == tmp_path / "b.png"
    assert write_sheet(frames, RECIPE, tmp_path) == tmp_path / "holiday-frames.png"
    expected = Sheet.of(tiled(frames, RECIPE, fit="pad"), "holiday.mp4", RECIPE, fit="pad")
    assert (tmp_path / "b.png").read_bytes() == sheet_picture(expected)
    assert Image.open(io.BytesIO((tmp_path / "b.png").read_bytes())).format == "PNG"
    assert names(tmp_path) == ["b.png", "holiday-frames.png"]


def test_a_link_to_nowhere_is_not_a_free_name(tmp_path: Path) -> None:
    (tmp_path / "a-frames.png").symlink_to(tmp_path / "gone")
    assert free_sheet_path(Path("a.mp4"), tmp_path) == tmp_path / "a-frames-2.png"


def test_titles_and_paths() -> None:
    assert title_of(Path("a/holiday.mp4")) == "holiday.mp4"
    assert title_of(Path("-")) == "stdin"
    assert title_of(Path("/")) == "/"
    assert sheet_path(Path("a/holiday.mp4"), Path("out")) == Path("out/holiday-frames.png")


@pytest.mark.parametrize(
    ("clip", "name"),
    [
        ("a/holiday.mp4", "holiday"),
        ("-", "stdin"),
        ("a\x1b[31m\n\u202e.mp4", "a_[31m__"),
        ("caf\udce9.mp4", "caf_"),
        ("été.mp4", "été"),
        ("é" * 125 + ".mp4", "é" * 100),
        (".mp4", ".mp4"),
    ],
)
def test_files_are_named_after_their_clip(clip: str, name: str) -> None:
    assert name_of(Path(clip)) == name
