"""`vllava frames` as its users meet it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import full_decode, reference_eight
from tests.commands.shell import Shell
from vllava_cli.commands.frames import frame_name, name_of

Run = Callable[..., Shell]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_sheet_is_written_for_each_clip(shell: Run, clip: Path, other_clip: Path, tmp_path: Path) -> None:
    done = shell("frames", clip, other_clip)
    assert done == Shell(code=0, out="clip-frames.png\nother-frames.png\n", err="")
    assert names(tmp_path) == ["clip-frames.png", "other-frames.png"]
    assert [Image.open(tmp_path / name).size for name in names(tmp_path)] == [(610, 378), (922, 270)]


def test_each_frame_is_written_as_the_model_gets_it(shell: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = shell("frames", clip, "--each", "-o", "out")
    assert (
        [Path(line).name for line in done.out.splitlines()]
        == names(tmp_path / "out")
        == [
            f"clip-{number}-00m{second}s.png"
            for number, second in enumerate(
                ("00.000", "00.300", "00.600", "00.900", "01.200", "01.500", "01.800", "02.100"), 1
            )
        ]
    )
    written = np.stack([np.asarray(Image.open(tmp_path / "out" / name)) for name in names(tmp_path / "out")])
    assert (written == reference_eight(full_decode(clip))).all()


def test_named_moments_come_in_the_order_given(shell: Run, clip: Path) -> None:
    row = json.loads(shell("frames", clip, "--at", "2,0:00.5,2", "--json").out)
    assert row == {
        "path": str(clip),
        "kind": "video",
        "frame_times_s": [2.0, 0.5, 2.0],
        "outputs": ["clip-frames.png"],
        "faults": [],
    }


def test_a_broken_clip_does_not_stop_the_others(shell: Run, clip: Path, tmp_path: Path) -> None:
    done = shell("frames", "gone.mp4", clip)
    message = "There is no file 'gone.mp4'. Check the path."
    assert done == Shell(code=1, out="clip-frames.png\n", err=f"vllava: {message}\n")
    assert names(tmp_path) == ["clip-frames.png"]
    row = json.loads(shell("frames", "gone.mp4", "--json").out)
    assert row == {"path": "gone.mp4", "error": message}


def test_an_existing_file_is_replaced_only_by_force(shell: Run, clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "clip-frames.png"
    target.write_text("precious")
    done = shell("frames", clip)
    assert done == Shell(
        code=1,
        out="",
        err=("vllava: 'clip-frames.png' is already there. Give --force to replace it, or another name with -o.\n"),
    )
    assert target.read_text() == "precious"
    assert shell("frames", clip, "--force").code == 0
    assert Image.open(target).format == "PNG"
    assert names(tmp_path) == ["clip-frames.png"]


def test_a_frame_that_is_there_already_keeps_all_from_being_written(shell: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "clip-2-00m01.000s.png").touch()
    done = shell("frames", clip, "--each", "--at", "0,1,2")
    assert (done.code, done.out) == (1, "")
    assert names(tmp_path) == ["clip-2-00m01.000s.png"]


def test_a_sheet_goes_where_it_is_told_to(shell: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert shell("frames", clip, "-o", "a.png").out == "a.png\n"
    assert shell("frames", clip, "-o", "out").out == "out/clip-frames.png\n"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "out" / "clip-frames.png").read_bytes()


def test_stdout_gets_the_same_sheet(shell: Run, clip: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    command = f"cat '{clip}' | {sys.executable} -m vllava_cli frames - -o - > '{sheet}'"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(command, shell=True, env=environment).returncode == 0
    assert shell("frames", "-", stdin=clip.read_bytes()).out == "stdin-frames.png\n"
    assert sheet.read_bytes() == (tmp_path / "stdin-frames.png").read_bytes()


def test_a_place_that_cannot_be_written_to_is_one_sentence(shell: Run, clip: Path) -> None:
    assert shell("frames", clip, "-o", "nowhere/a.png") == Shell(
        code=1,
        out="",
        err="vllava: 'nowhere/a.png' can't be written: no such file or directory. Choose another place with -o.\n",
    )


def test_files_have_the_usual_mode(shell: Run, clip: Path, tmp_path: Path) -> None:
    shell("frames", clip)
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "clip-frames.png")}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mp4", "b.mp4", "-o", "-"], "-o - writes one sheet: give one clip and neither --each nor --json"),
        (["a.mp4", "--each", "-o", "-"], "-o - writes one sheet: give one clip and neither --each nor --json"),
        (["a.mp4", "--json", "-o", "-"], "-o - writes one sheet: give one clip and neither --each nor --json"),
        (["a.mp4", "b.mp4", "-o", "c.png"], "-o c.png is no folder, and several files are to be written."),
        (["a.mp4", "x/a.mkv"], "Several of the clips would be written as a."),
    ],
)
def test_outputs_that_do_not_go_together(words: list[str], message: str, shell: Run) -> None:
    done = shell("frames", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


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


def test_frames_are_named_so_that_they_sort() -> None:
    assert frame_name("a", 1, 8, 3.5) == "a-1-00m03.500s.png"
    assert frame_name("a", 7, 64, 3723.25) == "a-07-62m03.250s.png"
