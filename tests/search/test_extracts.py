"""The files that a search writes of its hits: parts of clips, and a picture."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import index_of, write_clip
from tests.media.zoo import CLOSED
from tests.search.conftest import Find
from vllava_cli.errors import OutputError, UsageError
from vllava_cli.media.timeline.parts import form_for
from vllava_cli.nouns import (
    Clip,
    DecodeLimits,
    Framing,
    VideoRecipe,
    Window,
)
from vllava_cli.screen import Screen
from vllava_cli.search.cut_files import CutFiles, stems_of
from vllava_cli.search.extracts import Extracts
from vllava_cli.search.hit_sheet import HitSheet

RECIPE = VideoRecipe(short_side=56, crop_height=56, crop_width=56, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass(frozen=True, kw_only=True)
class Look:
    """A window that was looked at, as a search tells it."""

    path: str
    window: Window | None
    frame_times_s: tuple[float, ...] | None = None
    score: float = 0.9
    query: str = "a circle"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 frames, ten a second; key frames at 0, 1.6, 3.2, 4.8 and 6.4 s."""
    return write_clip(tmp_path_factory.mktemp("clips") / "talk.mp4", 80, encoding=CLOSED)


def cut(clips: list[Path], folder: Path, hits: str, *, every_s: float = 1.0, **how: object) -> CutFiles:
    """Cuts the windows that have a * in `hits`, "..**..", out of each clip."""
    extracts = Extracts(folder=folder, **how)  # type: ignore[arg-type]
    files = CutFiles(extracts, list(map(str, clips)), Screen(is_quiet=True), DecodeLimits())
    for clip in clips:
        for number, mark in enumerate(hits):
            window = Window(start_s=number * every_s, end_s=(number + 1) * every_s)
            files.look(Look(path=str(clip), window=window), is_hit=mark == "*")
    files.finish()
    files.close()
    return files


def shown(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [index_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("hits", "how", "expected"),
    [
        ("........", {}, []),
        ("..*.....", {}, ["talk-00.00.02-00.00.03.mp4"]),
        ("..**...*", {}, ["talk-00.00.02-00.00.04.mp4", "talk-00.00.07-00.00.08.mp4"]),
        ("*.*.....", {"pad_s": 0.5}, ["talk-00.00.00-00.00.03.500.mp4"]),
        ("*..*....", {"pad_s": 0.5}, ["talk-00.00.00-00.00.01.500.mp4", "talk-00.00.02.500-00.00.04.500.mp4"]),
        (".......*", {"pad_s": 2.0}, ["talk-00.00.05-00.00.08.mp4"]),
    ],
)
def test_hits_that_follow_each_other_become_one_part(
    clip: Path, tmp_path: Path, hits: str, how: dict[str, float], expected: list[str]
) -> None:
    cut([clip], tmp_path / "parts", hits, **how)
    assert names(tmp_path / "parts") == expected


def test_a_part_has_the_frames_of_its_hits(clip: Path, tmp_path: Path) -> None:
    cut([clip], tmp_path, "..*.....")
    assert shown(tmp_path / "talk-00.00.02-00.00.03.mp4")[: 30 - 16] == list(range(16, 30))
    cut([clip], tmp_path, "..*.....", is_exact=True, is_overwriting=True)
    assert shown(tmp_path / "talk-00.00.02-00.00.03.mp4") == list(range(20, 30))


def test_a_part_is_written_as_soon_as_the_next_window_is_no_hit(clip: Path, tmp_path: Path) -> None:
    files = CutFiles(Extracts(folder=tmp_path), [str(clip)], Screen(is_quiet=True), DecodeLimits())
    for number, is_hit in enumerate((True, True, False)):
        assert names(tmp_path) == []
        files.look(Look(path=str(clip), window=Window(start_s=number, end_s=number + 1)), is_hit=is_hit)
    assert names(tmp_path) == ["talk-00.00.00-00.00.02.mp4"]
    files.close()


def test_parts_that_are_there_are_left_and_those_of_a_killed_run_are_removed(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "talk-00.00.02-00.00.03.mp4").write_text("mine")
    for name in (".talk-00.00.05-00.00.06.mp4.part", ".mine.mp4.part"):
        (tmp_path / name).write_text("half")
    files = CutFiles(Extracts(folder=tmp_path), [str(clip)], Screen(), DecodeLimits())
    for start_s in (2.0, 7.0):
        files.look(Look(path=str(clip), window=Window(start_s=start_s, end_s=start_s + 1)), is_hit=True)
    files.finish()
    files.close()
    assert names(tmp_path) == [".mine.mp4.part", "talk-00.00.02-00.00.03.mp4", "talk-00.00.07-00.00.08.mp4"]
    assert (tmp_path / "talk-00.00.02-00.00.03.mp4").read_text() == "mine"
    told = " ".join(capsys.readouterr().err.split())
    assert "1 part written" in told and "1 part left as before" in told and "--overwrite" in told


def test_clips_of_one_name_are_numbered_and_a_clip_that_cannot_be_cut_stops_nothing(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, text = tmp_path / "b" / "Talk.mp4", tmp_path / "c.mp4"
    other.parent.mkdir()
    other.write_bytes(clip.read_bytes())
    text.write_text("no video")
    files = cut([clip, text, other], tmp_path / "parts", "*.*")
    assert names(tmp_path / "parts") == [
        *("Talk-2-00.00.00-00.00.01.mp4", "Talk-2-00.00.02-00.00.03.mp4"),
        *("talk-00.00.00-00.00.01.mp4", "talk-00.00.02-00.00.03.mp4"),
    ]
    assert files.has_trouble and capsys.readouterr().err.count("c.mp4") == 1
    assert list(stems_of(["a/x.mp4", "b/x-2.mp4", "b/X.mkv", "a/x.mp4"]).values()) == ["x", "x-2", "X-3"]


@pytest.mark.parametrize(
    ("name", "container", "form"),
    [
        *(("a.mp4", "mp4", "mp4"), ("a.m4v", "mov", "mp4"), ("a.mov", "mov", "mov"), ("a.MOV", "mov", "mov")),
        *(("a.webm", "webm", "webm"), ("a.mkv", "matroska", "matroska"), ("a.ts", "mpegts", "matroska")),
        *(("a.avi", "avi", "matroska"), ("a.3gp", "3gp", "mp4")),
    ],
)
def test_a_part_has_the_container_of_its_clip_or_else_matroska(name: str, container: str, form: str) -> None:
    assert form_for(Clip(path=Path(name), kind="video", width=1, height=1, frame_count=1, container=container)) == form


ROOT = Path(__file__).parents[2]
UNCOMPILED = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
"""A process that may write only so much, or is killed, would leave half of the compiled code behind for all others."""


def test_a_disk_without_room_leaves_no_half_part(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from tests.search.test_extracts import *
try:
    cut([Path({str(clip)!r})], Path({str(folder)!r}), "**......")
except OutputError as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, env=UNCOMPILED
    )
    assert "can't be written: file too large" in done.stdout and names(folder) == []


KILLED = """
from tests.search.test_extracts import *
cut([Path({clip!r})], Path({folder!r}), "*." * 40, every_s=0.1, is_exact=True)
"""


def test_a_run_that_is_killed_leaves_only_whole_parts_and_the_next_makes_the_rest(clip: Path, tmp_path: Path) -> None:
    folder, code = tmp_path / "parts", KILLED.format(clip=str(clip), folder=str(tmp_path / "parts"))
    expected = tmp_path / "expected"
    cut([clip], expected, "*." * 40, every_s=0.1, is_exact=True)
    before: dict[str, int] = {}
    for wanted in range(2, 40, 4):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=UNCOMPILED)
        while process.poll() is None and (not folder.exists() or len(names(folder)) < wanted):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL)
        whole = [path for path in folder.iterdir() if not path.name.endswith(".part")]
        assert all(path.read_bytes() == (expected / path.name).read_bytes() for path in whole)
        assert all((folder / name).stat().st_mtime_ns == moment for name, moment in before.items())
        before = {path.name: path.stat().st_mtime_ns for path in whole}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=UNCOMPILED)
    assert names(folder) == names(expected)


def sheet(file: Path, looks: list[Look], **how: bool) -> HitSheet:
    made = HitSheet(Extracts(sheet=file, **how), ("a circle",), Screen(is_quiet=True), Framing(end_s=1.0), RECIPE)  # type: ignore[arg-type]
    for look in looks:
        made.look(look, is_hit=look.score > 0.5)
    made.finish()
    return made


def test_a_sheet_shows_the_frames_of_each_hit(clip: Path, tmp_path: Path) -> None:
    still = tmp_path / "still\x1b[31m.png"
    Image.new("RGB", (64, 64), "red").save(still)
    window, times_s = Window(start_s=2.0, end_s=4.0), tuple(2.0 + number / 4 for number in range(8))
    looks = [
        Look(path=str(clip), window=window, frame_times_s=times_s),
        Look(path=str(clip), window=window, frame_times_s=times_s, score=0.2),
        Look(path=str(still), window=None),
    ]
    sheet(tmp_path / "hits.png", looks)
    with Image.open(tmp_path / "hits.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (84 + 2 * (30 + 128 + 30 + 14) - 14 + 28, 8 * (128 + 14) - 14 + 2 * 28, 3)
    top = 84 + 30
    tiles = [pixels[top : top + 128, 28 + place * 142 : 28 + place * 142 + 128] for place in range(8)]
    assert len({tile.tobytes() for tile in tiles}) == 8
    assert (pixels[top + 202 + 64, 28 + 64] == (255, 0, 0)).all()


def test_many_hits_take_several_pages_and_no_file_is_overwritten_unasked(clip: Path, tmp_path: Path) -> None:
    looks = [Look(path=str(clip), window=Window(start_s=0, end_s=1), frame_times_s=(0.5,))] * 13
    sheet(tmp_path / "hits.jpg", looks)
    assert names(tmp_path) == ["hits-2.jpg", "hits.jpg"]
    with pytest.raises(OutputError, match="already there"):
        sheet(tmp_path / "hits.jpg", looks)
    sheet(tmp_path / "hits.jpg", looks[:1], is_overwriting=True)
    with pytest.raises(UsageError, match="ending"):
        sheet(tmp_path / "hits.gif", looks)
    sheet(tmp_path / "none.png", [])
    assert names(tmp_path) == ["hits-2.jpg", "hits.jpg"]


@pytest.mark.parametrize(
    ("words", "parts", "code"),
    [
        (("a red circle", "a.mp4", "photo.png"), ["a-00.00.00-00.00.02.mp4", "a-00.00.04-00.00.06.mp4"], 0),
        (("a blue star", "-r", "--pad", "1s"), ["a-00.00.01-00.00.05.mp4", "b-00.00.00-00.00.04.mp4"], 0),
        (("-l", "a red circle", "-r"), ["a-00.00.00-00.00.02.mp4"], 0),
        (("-v", "a blue star", "in/b.mp4", "--exact"), [], 1),
        (("-q", "a blue star", "a.mp4"), None, 2),
    ],
)
def test_find_cuts_and_draws_its_hits(
    find: Find, tmp_path: Path, words: tuple[str, ...], parts: list[str] | None, code: int
) -> None:
    folder, picture = tmp_path / "parts", tmp_path / "hits.png"
    for _ in range(2):
        done = find(*words, "--cut", str(folder), "--sheet", str(picture))
        assert done.code == code, done.err
        if parts is None:
            return
        assert (names(folder), picture.exists()) == (parts, bool(parts))
        picture.unlink(missing_ok=True)
    assert ("left as before" in " ".join(done.err.split())) == bool(parts)


@pytest.mark.parametrize("words", [("--exact",), ("--pad", "1"), ("--overwrite",), ("--sheet", "a.gif")])
def test_options_of_files_that_are_not_written_are_refused(find: Find, words: tuple[str, ...]) -> None:
    assert find("a red circle", "a.mp4", *words).code == 2
